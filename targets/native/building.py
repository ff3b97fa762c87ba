"""Building the native parts with CMake, into a cache that knows what they were built from."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from millifit.errors import CompileError, MissingDependency, TargetError, UsageError

Part = Literal["opencl", "runner"]
"""``opencl`` is the runtime ``libmillifit_opencl.so``, ``runner`` the program ``millifit-run``."""

_SOURCES = Path(__file__).parent
_RUNTIME = ("apache-tvm", "apache-tvm-ffi")
_HEADERS = ("/usr/include", "/usr/local/include", "/opt/homebrew/include")
_ANDROID_API = 26  # Android 8: the oldest that TVM's runtime is built for in its own instructions
_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """What builds for another machine: the folder of an Android NDK, or a compiler's prefix.

    `prefix` is that of a GNU compiler, such as ``aarch64-linux-gnu``. Neither: this machine.
    """

    android_ndk: Path | None = None
    prefix: str = ""

    @property
    def name(self) -> str:
        """How messages and keys name it."""
        return f"android {self.android_ndk}" if self.android_ndk else self.prefix or "this machine"

    @property
    def cmake(self) -> list[str]:
        """CMake's options; raises TargetError where the toolchain is not there."""
        if self.android_ndk is not None:
            file = self.android_ndk / "build" / "cmake" / "android.toolchain.cmake"
            if not file.is_file():
                raise TargetError(
                    f"'{self.android_ndk}' is no Android NDK: build/cmake/android.toolchain.cmake "
                    "is missing. Name the folder of an unpacked NDK."
                )
            return [
                f"-DCMAKE_TOOLCHAIN_FILE={file}", "-DANDROID_ABI=arm64-v8a",
                f"-DANDROID_PLATFORM=android-{_ANDROID_API}",
            ]  # fmt: skip
        if not self.prefix:
            return []
        compiler = f"{self.prefix}-g++"
        if shutil.which(compiler) is None:
            raise MissingDependency(
                package=compiler, purpose=f"building for {self.prefix}",
                install=f"apt-get install g++-{self.prefix}",
            )  # fmt: skip
        machine = self.prefix.partition("-")[0]
        return [
            "-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={machine}",
            f"-DCMAKE_CXX_COMPILER={compiler}",
        ]  # fmt: skip


_HERE = Toolchain()


def build(part: Part, *, toolchain: Toolchain = _HERE, headers: Path | None = None) -> Path:
    """Build a native part unless that was done before; the folder that has its file.

    `headers` is the folder with ``CL/cl.h`` where that is no usual one. The folder is put in place
    when it is complete; its name depends on the sources and on the versions of TVM. Raises
    MissingDependency where CMake, a compiler or OpenCL's headers are missing, and CompileError with
    what the compiler said.
    """
    folder = _folder(part, toolchain)
    if folder.is_dir():
        return folder
    options = [f"-DMILLIFIT_PART={part}", *toolchain.cmake, *_packages()]
    if part == "opencl":
        options.append(f"-DOPENCL_HEADERS={_opencl_headers(headers)}")
    _need("cmake", "cmake")
    if not toolchain.cmake:
        _need("c++", "g++")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as work:
        made, finished = Path(work) / "build", Path(work) / "finished"
        _run(["cmake", "-S", str(_SOURCES), "-B", str(made), *options])
        _run(["cmake", "--build", str(made), "--parallel", str(_jobs())])
        _run(["cmake", "--install", str(made), "--strip", "--prefix", str(finished)])
        try:
            finished.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process has put its own in place meanwhile
                raise
    return folder


def built_file(part: Part, name: str, *, toolchain: Toolchain = _HERE) -> Path | None:
    """A file of a native part, such as ``libmillifit_opencl.so``; None before `build`.

    None, too, where the sources are not at hand: on a board that runs millifit out of one file.
    """
    if not _SOURCES.is_dir():
        return None
    file = _folder(part, toolchain) / name
    return file if file.is_file() else None


def _folder(part: Part, toolchain: Toolchain) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "millifit" / "native" / f"{part}-{_key(part, toolchain)}"


def _key(part: Part, toolchain: Toolchain) -> str:
    """A hash of everything that the built files depend on."""
    subject = f"{platform.machine()} {toolchain.name} {_sources_hash(part)}"
    digest = hashlib.sha256(subject.encode())
    for package in _RUNTIME:
        digest.update(metadata.version(package).encode())
    return digest.hexdigest()[:16]


@functools.cache
def _sources_hash(part: Part) -> str:
    digest = hashlib.sha256()
    for file in (_SOURCES / "CMakeLists.txt", *sorted((_SOURCES / part).rglob("*.*"))):
        digest.update(file.relative_to(_SOURCES).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _opencl_headers(named: Path | None) -> Path:
    folders = [named] if named is not None else [Path(folder) for folder in _HEADERS]
    for folder in folders:
        if (folder / "CL" / "cl.h").is_file():
            return folder
    if named is not None:
        raise UsageError(f"'{named}' has no CL/cl.h: name the folder of OpenCL's headers.")
    raise MissingDependency(
        package="CL/cl.h", purpose="building the OpenCL runtime",
        install="apt-get install opencl-headers",
    )  # fmt: skip


def _packages() -> list[str]:
    """Where the headers and libraries of the TVM wheels are; found without loading them."""
    options = []
    for package, option in (("tvm", "TVM_PACKAGE"), ("tvm_ffi", "TVM_FFI_PACKAGE")):
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise MissingDependency(
                package=package, purpose="building the native parts",
                install=f"pip install apache-{package.replace('_', '-')}",
            )  # fmt: skip
        options.append(f"-D{option}={Path(found.origin).parent}")
    return options


def _need(command: str, package: str) -> None:
    if shutil.which(command) is None:
        raise MissingDependency(
            package=command, purpose="building the native parts",
            install=f"apt-get install {package}",
        )  # fmt: skip


def _jobs() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        list(command), capture_output=True, text=True, check=False, timeout=_LIMIT_S
    )
    if done.returncode == 0:
        return
    lines = (done.stderr + done.stdout).splitlines()
    at = next((i for i, line in enumerate(lines) if "rror" in line), max(0, len(lines) - 12))
    raise CompileError("the native parts cannot be built:\n" + "\n".join(lines[at : at + 12]))
