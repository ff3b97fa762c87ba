"""OpenCL for TVM: the wheel generates its code, this runtime runs it."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millifit.errors import MissingDependency, TargetError
from millifit.targets.device_facts import GpuFacts
from millifit.targets.native.building import built_file
from millifit.targets.target import Gpu, GpuFeature

LIBRARY = "libmillifit_opencl.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClDevice:
    """An OpenCL device as its driver describes it; `index` is its number in TVM."""

    index: int
    name: str
    platform: str
    driver: str
    version: str
    extensions: frozenset[str]
    is_gpu: bool
    compute_units: int
    max_threads: int
    shared_bytes: int
    cache_bytes: int
    memory_bytes: int
    largest_buffer_bytes: int

    @property
    def features(self) -> tuple[GpuFeature, ...]:
        """What schedules may use of it. Every device reads and writes half precision."""
        return ("fp16",) if "cl_khr_fp16" in self.extensions else ("fp16_storage",)

    @property
    def facts(self) -> GpuFacts:
        """What bundles compare with."""
        return GpuFacts(api="opencl", name=self.name, features=self.features)


def opencl_is_built() -> bool:
    """Whether `load_opencl` has something to load."""
    return _library() is not None


def load_opencl() -> None:
    """Load the runtime, so that TVM knows devices and modules of kind ``opencl``.

    Raises MissingDependency with the command to run where it is not built.
    """
    library = _library()
    if library is None:
        raise MissingDependency(
            package="the OpenCL runtime", purpose="running code on OpenCL devices",
            install="millifit device build",
        )  # fmt: skip
    _keep_binaries()
    _load(library)


def list_opencl() -> tuple[OpenClDevice, ...]:
    """The OpenCL devices of this machine, GPUs first; those of $MILLIFIT_OPENCL_PLATFORM alone,
    where that is set.

    Raises MissingDependency where the runtime is not built.
    """
    import tvm

    load_opencl()
    found = json.loads(tvm.get_global_func("millifit.opencl.devices")())
    return tuple(_device(index, plain) for index, plain in enumerate(found))


def opencl_devices() -> tuple[GpuFacts, ...]:
    """The OpenCL devices that code can run on; none where the runtime is not built."""
    if _library() is None:
        return ()
    return tuple(device.facts for device in list_opencl())


def opencl_index(gpu: Gpu) -> int:
    """The number of the OpenCL device that is `gpu`, or the first one that runs its code.

    Raises TargetError where there is none.
    """
    devices = list_opencl()
    able = [d for d in devices if "fp16" not in gpu.features or "fp16" in d.features]
    for device in sorted(able, key=lambda d: (d.name != gpu.name, d.index)):
        return device.index
    raise TargetError(
        f"no OpenCL device here runs code for '{gpu.name}': "
        + (", ".join(f"'{d.name}'" for d in devices) + " cannot compute in half precision"
           if devices else "there is none. Install the driver of the GPU, or for tests on the "
           "processor: apt-get install pocl-opencl-icd")
    )  # fmt: skip


def _library() -> Path | None:
    named = os.environ.get("MILLIFIT_OPENCL_LIBRARY")
    if named:
        if not Path(named).is_file():
            raise TargetError(f"MILLIFIT_OPENCL_LIBRARY names '{named}', which is no file.")
        return Path(named)
    return built_file("opencl", LIBRARY)


@functools.cache
def _load(library: Path) -> Any:
    import tvm

    if tvm.get_global_func("device_api.opencl", allow_missing=True) is not None:
        return None  # another copy of it, or a TVM that has its own
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise TargetError(
            f"the OpenCL runtime '{library}' cannot be loaded: {error}. Build it again: "
            "millifit device build"
        ) from error


def _keep_binaries() -> None:
    """Let the runtime keep what drivers compile: on a phone that takes seconds per network."""
    if "MILLIFIT_OPENCL_CACHE" in os.environ:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache) / "millifit" / "opencl"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return  # nothing is kept where nothing may be written
    os.environ["MILLIFIT_OPENCL_CACHE"] = str(folder)


def _device(index: int, plain: dict[str, Any]) -> OpenClDevice:
    extensions = frozenset(str(plain.pop("extensions")).split())
    return OpenClDevice(index=index, extensions=extensions, **plain)
