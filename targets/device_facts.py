"""What a device says of itself, and whether it can run a target's code.

Read on the device itself, with the standard library alone: `device serve` tells it to whoever
connects, bundles compare it with their manifest, portfolios choose by it.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from millifit.targets.detect import ARM_EXTENSIONS
from millifit.targets.target import Target

_CPUINFO = Path("/proc/cpuinfo")
_RUNTIME = ("apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """A GPU that a runtime of the device can reach.

    `arch` is the highest CUDA architecture it runs, such as ``sm_90``; `features` are those of
    `target.Gpu` that the driver reports.
    """

    api: str
    name: str
    arch: str = ""
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A device: its architecture, processor, instruction set extensions, GPUs and runtime.

    `flags` are those of /proc/cpuinfo that every core has; None where it cannot be read. `versions`
    are those of the runtime's packages that are installed.
    """

    machine: str
    cpu: str
    cores: int
    memory_bytes: int
    flags: frozenset[str] | None = None
    gpus: tuple[GpuFacts, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        plain = dataclasses.asdict(self)
        plain["flags"] = None if self.flags is None else sorted(self.flags)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DeviceFacts:
        """The facts that `to_dict` described; ValueError where they are none."""
        try:
            return cls(
                machine=str(plain["machine"]),
                cpu=str(plain["cpu"]),
                cores=int(plain["cores"]),
                memory_bytes=int(plain["memory_bytes"]),
                flags=None if plain["flags"] is None else frozenset(map(str, plain["flags"])),
                gpus=tuple(
                    GpuFacts(
                        api=str(gpu["api"]), name=str(gpu["name"]), arch=str(gpu["arch"]),
                        features=tuple(map(str, gpu["features"])),
                    )
                    for gpu in plain["gpus"]
                ),
                versions={str(name): str(version) for name, version in plain["versions"].items()},
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these are no facts of a device: {error}") from error


def probe(*, cpuinfo: Path = _CPUINFO, gpus: tuple[GpuFacts, ...] = ()) -> DeviceFacts:
    """The facts of this device; `gpus` are found by the runtimes that reach them."""
    return DeviceFacts(
        machine=platform.machine(),
        cpu=_cpu_name(cpuinfo),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        flags=_flags(cpuinfo),
        gpus=gpus,
        versions=_versions(),
    )


def why_not(target: Target, facts: DeviceFacts) -> str | None:
    """None if a device of these facts runs the target's code, else the reason why not."""
    if target.machine != facts.machine:
        return f"it is for {target.machine}, this device is {facts.machine}"
    if facts.flags is not None:
        missing = sorted(needed_flags(target) - facts.flags)
        if missing:
            return f"this processor lacks {', '.join(missing)}"
    if target.gpu is None:
        return None
    reachable = [gpu for gpu in facts.gpus if gpu.api == target.gpu.api]
    if not reachable:
        return f"no {target.gpu.api} device is reachable here"
    if target.gpu.api == "cuda" and not any(_runs(target.gpu.arch, g.arch) for g in reachable):
        return f"it is for {target.gpu.arch}, this GPU is {reachable[0].arch}"
    lacking = {"fp16"} & set(target.gpu.features)
    if target.gpu.api == "opencl" and not any(lacking <= set(g.features) for g in reachable):
        return f"the OpenCL device '{reachable[0].name}' has no arithmetic in half precision"
    return None


def _runs(built: str, device: str) -> bool:
    """Whether a GPU of architecture `device` runs code that was built for `built`.

    Machine code runs on GPUs of the same major version, from its own minor version on; that of
    ``sm_90a`` on the very same.
    """
    if built.endswith("a"):
        return device.rstrip("a") == built.rstrip("a")
    wanted, there = _number(built), _number(device)
    return there >= wanted and there // 10 == wanted // 10


def _number(arch: str) -> int:
    found = re.fullmatch(r"sm_(\d+)a?", arch)
    return int(found[1]) if found else 0


def needed_flags(target: Target) -> set[str]:
    """What /proc/cpuinfo shows of the instructions that the target's code uses."""
    if target.machine == "aarch64":
        return {flag for name, flags in ARM_EXTENSIONS if name in target.features for flag in flags}
    needed = {"avx512f", "avx512bw", "avx512vl"} if target.vector_bits == 512 else set()
    if target.vector_bits == 256:
        needed = {"avx2", "fma"}
    needed |= {"avx512_vnni": {"avx512_vnni"}, "avx_vnni": {"avx_vnni"}}.get(
        target.dot_product, set()
    )
    if "+avx512bf16" in target.features:
        needed |= {"avx512_bf16"}
    return needed


def _cpu_name(cpuinfo: Path) -> str:
    for line in _lines(cpuinfo):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def _flags(cpuinfo: Path) -> frozenset[str] | None:
    found = [
        frozenset(value.split())
        for name, _, value in (line.partition(":") for line in _lines(cpuinfo))
        if name.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*found) if found else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _versions() -> dict[str, str]:
    found = {}
    for package in _RUNTIME:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
