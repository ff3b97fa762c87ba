"""What the machine and the code looked like when something was measured."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

import millifit
from millifit.targets.runner.gpu_state import gpu_states

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "numpy", "millifit")
_GENERATOR = ("apache-tvm", "apache-tvm-ffi")
# What decides which code a kernel becomes, and how it is timed.
_SOURCES = (
    "targets/schedules",
    "targets/build.py",
    "targets/runner/clock.py",
    "targets/runner/kernel_timing.py",
    "targets/timing.py",
)
_CONTAINER_MARKS = (("/.dockerenv", "docker"), ("/run/.containerenv", "podman"))
_UNREADABLE = "unreadable"


def describe_environment() -> dict[str, str]:
    """Facts to keep with a measurement; what cannot be read says so. Imports nothing large."""
    facts = {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _clock_mhz(),
        "temperature_c": _temperature_c(),
        "load_1min": f"{os.getloadavg()[0]:.2f}",
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "virtualization": _virtualization(),
        "python": platform.python_version(),
    }
    facts.update({package: _version(package) for package in _PACKAGES})
    for number, gpu in enumerate(gpu_states()):
        facts[f"gpu{number}"] = (
            f"{gpu.name}, power_w {gpu.power_w}, temperature_c {gpu.temperature_c}, "
            f"clock_hz {gpu.clock_hz}"
        )
    return facts


def code_versions() -> str:
    """What a measurement depends on besides kernel, target and policy.

    TVM's versions and a hash of the schedule rules: a changed rule is measured again. Example:
    ``"apache-tvm 0.27.0.post1, apache-tvm-ffi 0.1.14.post1, schedules 3f2a90c41b7d"``.
    """
    versions = [f"{package} {_version(package)}" for package in _GENERATOR]
    return ", ".join([*versions, f"schedules {_sources_hash(Path(millifit.__file__).parent)}"])


def _sources_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for source in _SOURCES:
        place = root / source
        files = sorted(place.glob("**/*.py")) if place.is_dir() else [place]
        for file in files:
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def _clock_mhz() -> str:
    """The clock of the first core now, in MHz."""
    governed = _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if governed.isdecimal():
        return f"{int(governed) / 1e3:.0f}"
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            return value.strip()
    return _UNREADABLE


def _temperature_c(root: Path = Path("/sys/class/thermal")) -> str:
    """The warmest zone of the machine, in degrees Celsius."""
    zones = [_first_line(str(zone)) for zone in root.glob("thermal_zone*/temp")]
    readable = [int(zone) for zone in zones if zone.lstrip("-").isdecimal()]
    return f"{max(readable) / 1e3:.1f}" if readable else _UNREADABLE


def _virtualization() -> str:
    """A container or a hypervisor, where one shows."""
    seen = [mark for file, mark in _CONTAINER_MARKS if Path(file).exists()]
    if any(line.startswith("flags") and " hypervisor" in line for line in _lines("/proc/cpuinfo")):
        vendor = _first_line("/sys/class/dmi/id/sys_vendor")
        seen.append("virtual machine" if vendor == _UNREADABLE else f"virtual machine ({vendor})")
    return ", ".join(seen) or "none visible"


def _first_line(path: str) -> str:
    lines = _lines(path)
    return lines[0].strip() if lines else _UNREADABLE


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
