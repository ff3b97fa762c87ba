"""What this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from millifit.errors import MillifitError
from millifit.targets.detect import detect_local
from millifit.targets.target import Target

COMPILERS = ("c++", "g++", "clang++")
CODE_GENERATION_LIMIT_S = 120
LEAST_FREE_BYTES = 2_000_000_000
BUSY_LOAD_PER_CORE = 0.5

# Run in a process of its own: a broken installation may crash, and must not take doctor with it.
GENERATE = """
import json, sys
import tvm
from millifit.targets.build import compile_errors, tvm_target
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Target
target = Target.from_dict(json.loads(sys.argv[1]))
kind = TensorType(shape=(1, 8, 8, 16), dtype="float32")
code = schedule(Kernel(op="relu", inputs=(kind,), output=kind, precision="fp32"), target)
module = tvm.IRModule({"main": code.function.with_attr("global_symbol", "main")})
with compile_errors("a kernel"):
    tvm.compile(module, target=tvm_target(target))
"""
# Drivers may crash, too.
LIST_OPENCL = """
from millifit.targets.native import list_opencl
for device in list_opencl():
    print(f"{device.name} ({device.platform} {device.driver}), {', '.join(device.features)}")
"""
DRIVERS = (Path("/etc/OpenCL/vendors"), Path("/vendor/lib64"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; `remedy` is empty where nothing needs doing."""

    check: str
    state: Literal["ok", "warning", "missing"]
    detail: str
    remedy: str = ""


def examine() -> list[dict[str, str]]:
    """Look at everything; plain dictionaries of `Check`'s fields, in the order of importance."""
    return [asdict(check) for check in _checks()]


def _checks() -> Iterator[Check]:
    yield python_version()
    yield from packages()
    yield compiler()
    yield from processor()
    yield opencl()
    yield cuda()
    yield governor()
    yield load()
    yield disk(Path.cwd())
    yield disk(Path(tempfile.gettempdir()))


def python_version(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Python 3.11 to 3.13."""
    detail = f"{version[0]}.{version[1]} at {sys.executable}"
    if (3, 11) <= version <= (3, 13):
        return Check(check="python", state="ok", detail=detail)
    remedy = "use Python 3.11, 3.12 or 3.13"
    return Check(check="python", state="missing", detail=detail, remedy=remedy)


def packages() -> Iterator[Check]:
    """Every package that millifit depends on and its version, without importing any."""
    for line in importlib.metadata.requires("millifit") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield _package(wanted)


def _package(wanted: Requirement) -> Check:
    remedy = f"run: {sys.executable} -m pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        detail = f"not installed, needs {wanted.specifier}"
        return Check(check=wanted.name, state="missing", detail=detail, remedy=remedy)
    if wanted.specifier.contains(version, prereleases=True):
        return Check(check=wanted.name, state="ok", detail=version)
    detail = f"{version} is outside {wanted.specifier}"
    return Check(check=wanted.name, state="warning", detail=detail, remedy=remedy)


def compiler() -> Check:
    """A C++ compiler, which links a bundle's library."""
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found:
        return Check(check="C++ compiler", state="ok", detail=found)
    return Check(
        check="C++ compiler",
        state="missing",
        detail=f"none of {', '.join(COMPILERS)} is on the PATH",
        remedy="on Debian or Ubuntu run: apt-get install g++",
    )


def processor() -> Iterator[Check]:
    """The target 'local', and whether code for it can be generated."""
    try:
        target = detect_local()
    except MillifitError as error:
        yield Check(check="processor", state="missing", detail=str(error))
        return
    detail = f"{target.cpu}: {target.mcpu}, {target.vector_bits} bit, {target.cores} cores"
    yield Check(check="processor", state="ok", detail=detail)
    if target.dot_product == "none":
        yield Check(
            check="int8 instructions",
            state="warning",
            detail="this processor has no dot-product instructions that millifit knows",
            remedy="int8 layers may be no faster than fp32; the search takes that into account",
        )
    else:
        yield Check(check="int8 instructions", state="ok", detail=target.dot_product)
    yield code_generation(target)


def code_generation(target: Target) -> Check:
    """Whether TVM generates code for a target, tried with one small kernel."""
    command = [sys.executable, "-c", GENERATE, json.dumps(asdict(target))]
    name = f"code for {target.name}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CODE_GENERATION_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        detail = f"no answer within {CODE_GENERATION_LIMIT_S} s"
        remedy = "the machine is too busy, or apache-tvm is broken: install it again"
        return Check(check=name, state="missing", detail=detail, remedy=remedy)
    if done.returncode == 0:
        detail = f"LLVM generates code for {target.mcpu}"
        if target.gpu is not None:
            detail += f", TVM {target.gpu.api} code for {target.gpu.name}"
        return Check(check=name, state="ok", detail=detail)
    said = done.stderr.strip().splitlines()
    return Check(
        check=name,
        state="missing",
        detail=said[-1] if said else f"the compiler ended with {done.returncode}",
        remedy="install the pinned apache-tvm and apache-tvm-ffi of constraints.txt again",
    )


def opencl(drivers: Sequence[Path] = DRIVERS) -> Check:
    """The OpenCL devices that code can run on. Without a driver there is nothing to be missed."""
    from millifit.targets.native import opencl_is_built

    if not opencl_is_built():
        here = any(list(folder.glob("*.icd")) + list(folder.glob("*OpenCL*")) for folder in drivers)
        detail = "the runtime for OpenCL devices is not built"
        remedy = "run: millifit device build"
        return Check(
            check="OpenCL", state="warning" if here else "ok",
            detail=detail if here else f"no driver; {detail}", remedy=remedy if here else "",
        )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIST_OPENCL],
        capture_output=True, text=True, timeout=CODE_GENERATION_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return Check(
            check="OpenCL", state="ok", detail="; ".join(done.stdout.splitlines()) or "no device"
        )
    said = done.stderr.strip().splitlines()
    return Check(
        check="OpenCL",
        state="warning",
        detail=said[-1] if said else f"listing devices ended with {done.returncode}",
        remedy="run clinfo: if it fails, too, install the driver again",
    )


def cuda() -> Check:
    """The CUDA devices that code can run on, and the compiler for them."""
    from millifit.targets.cuda_compiler import compiler_name
    from millifit.targets.detect_gpu import cuda_devices

    devices, compiler = cuda_devices(), compiler_name()
    listed = "; ".join(f"{gpu.name} ({gpu.arch})" for gpu in devices) or "no device"
    if compiler or not devices:
        detail = f"{listed}; compiler: {compiler or 'not installed'}"
        return Check(check="CUDA", state="ok", detail=detail)
    remedy = f"run: {sys.executable} -m pip install 'millifit[cuda]'"
    return Check(check="CUDA", state="warning", detail=f"{listed}; no compiler", remedy=remedy)


def governor(root: Path = Path("/sys/devices/system/cpu/cpu0/cpufreq")) -> Check:
    """Whether the clock is left to the load, which widens the intervals of measurements."""
    try:
        found = (root / "scaling_governor").read_text().strip()
    except OSError:
        detail = "the machine does not say (usual in virtual machines)"
        return Check(check="clock governor", state="ok", detail=detail)
    if found == "performance":
        return Check(check="clock governor", state="ok", detail=found)
    return Check(
        check="clock governor",
        state="warning",
        detail=f"'{found}' changes the clock with the load: measurements take longer to settle",
        remedy="run: cpupower frequency-set -g performance",
    )


def load() -> Check:
    """Whether other programs are running: they disturb measurements."""
    cores = os.cpu_count() or 1
    busy = os.getloadavg()[0]
    detail = f"{busy:.2f} on {cores} cores, {platform.system()} {platform.release()}"
    if busy <= BUSY_LOAD_PER_CORE * cores:
        return Check(check="load", state="ok", detail=detail)
    remedy = "stop other programs before measuring"
    return Check(check="load", state="warning", detail=detail, remedy=remedy)


def disk(folder: Path) -> Check:
    """Whether there is room for run folders or temporary files, and they may be written."""
    name = f"disk at {folder}"
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        remedy = "change to a folder that you may write to"
        return Check(check=name, state="missing", detail="not writable", remedy=remedy)
    if free < LEAST_FREE_BYTES:
        remedy = f"free {LEAST_FREE_BYTES / 1e9:.0f} GB"
        return Check(check=name, state="warning", detail=detail, remedy=remedy)
    return Check(check=name, state="ok", detail=detail)
