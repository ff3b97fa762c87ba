"""Linking a compiled program into a shared library, for this machine, another one, or a phone."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from millifit.errors import CompileError
from millifit.targets.target import Target

_ANDROID_API = 26
# A library of kernels calls functions of these alone; the phone's linker looks for them by name.
_BIONIC = ("libc.so", "libm.so", "libdl.so")
# Android 15 has pages of 16 kB, others of 4 kB: what is aligned to the larger loads on both.
_ANDROID_PAGE = "-Wl,-z,max-page-size=16384"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linker:
    """What links: its `name` for people, and ``link(library, object files)``."""

    name: str
    link: Callable[[str, Sequence[str]], None]

    def __call__(self, library: str, objects: Sequence[str], **_: object) -> None:
        """As TVM calls it."""
        self.link(library, objects)


def linker_for(target: Target) -> Linker:
    """The linker of a target's libraries; raises CompileError where none is installed.

    Libraries for Android need no NDK: they call functions of C and mathematics alone, and the
    names of the phone's libraries are all that has to be known of them.
    """
    if target.triple.endswith("android"):
        return _android(target)
    if target.machine == platform.machine():
        compiler = next(filter(shutil.which, (os.environ.get("CXX", ""), "g++", "c++")), None)
        if compiler is None:
            raise CompileError("linking needs a C++ compiler: apt-get install g++")
    else:
        compiler = _gnu(target)
    return Linker(
        name=Path(compiler).name, link=lambda library, objects: _run(compiler, library, *objects)
    )


def _gnu(target: Target) -> str:
    compiler = f"{target.machine}-linux-gnu-g++"
    if shutil.which(compiler) is None:
        raise CompileError(
            f"linking for '{target.name}' needs {compiler}: "
            f"apt-get install g++-{target.machine.replace('_', '-')}-linux-gnu"
        )
    return compiler


def _android(target: Target) -> Linker:
    ndk = os.environ.get("ANDROID_NDK_HOME")
    if ndk:
        name = f"{target.machine}-linux-android{_ANDROID_API}-clang++"
        found = sorted(Path(ndk).glob(f"toolchains/llvm/prebuilt/*/bin/{name}"))
        if not found:
            raise CompileError(f"ANDROID_NDK_HOME names '{ndk}', where there is no {name}.")
        compiler = str(found[0])
        return Linker(
            name=f"{name} of the NDK",
            link=lambda library, objects: _run(compiler, library, _ANDROID_PAGE, *objects),
        )
    compiler = "g++" if target.machine == platform.machine() else _gnu(target)

    def link(library: str, objects: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            named = [_named(compiler, Path(folder) / name) for name in _BIONIC]
            _run(
                compiler, library, "-nostdlib", "-Wl,--no-as-needed", _ANDROID_PAGE,
                *objects, *named,
            )  # fmt: skip

    return Linker(name=f"{Path(compiler).name} -nostdlib", link=link)


def _named(compiler: str, library: Path) -> str:
    """An empty library of that name: linking with it records the name."""
    _run(compiler, str(library), "-nostdlib", f"-Wl,-soname,{library.name}", "-x", "c", os.devnull)
    return str(library)


def _run(compiler: str, library: str, *arguments: str) -> None:
    command = [compiler, "-shared", "-fPIC", "-o", library, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CompileError(f"{Path(compiler).name} cannot link '{Path(library).name}': {said}")
