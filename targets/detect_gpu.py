"""The GPUs of this machine: as facts, and as targets by the names that users give."""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
import shutil
import subprocess
from collections.abc import Sequence

from millifit.errors import MissingDependency, TargetError
from millifit.targets.detect import detect_local
from millifit.targets.device_facts import GpuFacts
from millifit.targets.target import Gpu, GpuFeature, Target

NAMES = ("local-opencl", "local-cuda", "pocl-opencl")
_POCL = "Portable Computing Language"
_FIELDS = ("name", "compute_cap")
_COMMAND = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader")
_ANSWER_S = 10.0
# Streaming multiprocessors of the GPUs that the catalog has; the driver's tools do not tell.
_MULTIPROCESSORS = (("T4", 40), ("A100", 108), ("H100 PCIe", 114), ("H100", 132), ("H200", 132))
_SHARED_BYTES = 48 << 10  # of one block, without asking for more


def detect_gpu_target(name: str, *, threads: int = 1) -> Target:
    """The target 'local-opencl', 'local-cuda' or 'pocl-opencl' (OpenCL on this processor).

    Raises TargetError where this machine has no such device.
    """
    gpu = {"local-opencl": _local_opencl, "local-cuda": _local_cuda, "pocl-opencl": _pocl}[name]()
    host = detect_local(threads=threads)
    return dataclasses.replace(
        host, name=name, gpu=gpu, precisions=(), source=f"detected by its driver; {host.source}"
    )


def gpu_targets() -> tuple[Target, ...]:
    """The targets among `NAMES` that this machine has and can run code for."""
    found = []
    for name in NAMES:
        try:
            found.append(detect_gpu_target(name))
        except (MissingDependency, TargetError):
            continue
    return tuple(found)


def reachable_gpus() -> tuple[GpuFacts, ...]:
    """The GPUs that code runs on here. Loads the OpenCL runtime where it is built."""
    from millifit.targets.native import opencl_devices

    return (*opencl_devices(), *cuda_devices())


@functools.cache
def cuda_devices(command: Sequence[str] = _COMMAND) -> tuple[GpuFacts, ...]:
    """The CUDA devices that nvidia-smi lists; none where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ()
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_cuda_devices(done.stdout)


def parse_cuda_devices(text: str) -> tuple[GpuFacts, ...]:
    """Lines of ``name, compute capability``: ``"NVIDIA H200, 9.0"`` is ``sm_90``.

    Lines of another form are left out.
    """
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return tuple(
        GpuFacts(
            api="cuda", name=name, arch=f"sm_{capability.replace('.', '')}",
            features=_cuda_features(int(capability.replace(".", ""))),
        )
        for name, capability in (row for row in rows if len(row) == len(_FIELDS))
        if re.fullmatch(r"\d+\.\d", capability)
    )  # fmt: skip


def _cuda_features(capability: int) -> tuple[GpuFeature, ...]:
    """What GPUs of a compute capability have: CUDA C++ Programming Guide, compute capabilities."""
    least: tuple[tuple[GpuFeature, int], ...] = (
        ("fp16", 53), ("dp4a", 61), ("tensor_cores_fp16", 70), ("tensor_cores_int8", 72),
    )  # fmt: skip
    return tuple(feature for feature, since in least if capability >= since)


def _local_cuda() -> Gpu:
    found = cuda_devices()
    if not found:
        raise TargetError(
            "no CUDA device is reachable here: nvidia-smi lists none. Install NVIDIA's driver, or "
            "compile for a GPU of the catalog: millifit targets list"
        )
    facts = found[0]
    units = next((count for name, count in _MULTIPROCESSORS if name in facts.name), 1)
    return Gpu(
        api="cuda", name=facts.name, arch=facts.arch, compute_units=units, subgroup=32,
        max_threads=1024, shared_bytes=_SHARED_BYTES,
        features=_cuda_features(int(facts.arch.removeprefix("sm_"))),
    )  # fmt: skip


def _local_opencl() -> Gpu:
    return _opencl("")


def _pocl() -> Gpu:
    return _opencl(_POCL)


def _opencl(platform: str) -> Gpu:
    """The first device of the platforms whose name holds `platform`."""
    from millifit.targets.native import list_opencl

    for device in list_opencl():
        if platform in device.platform:
            return Gpu(
                api="opencl", name=device.name, compute_units=device.compute_units, subgroup=1,
                max_threads=device.max_threads, shared_bytes=device.shared_bytes,
                features=device.features,
            )  # fmt: skip
    what = "PoCL device" if platform else "OpenCL device"
    raise TargetError(
        f"no {what} is here. Install the driver of the GPU, or PoCL, which runs OpenCL on the "
        "processor: apt-get install pocl-opencl-icd"
    )
