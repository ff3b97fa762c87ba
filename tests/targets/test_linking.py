"""Libraries for other machines: the right format, and only what a phone has is asked for."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from millifit.errors import CompileError
from millifit.targets.catalog import find_target
from millifit.targets.linking import linker_for
from millifit.targets.target import Target
from tests.debian import install


@pytest.fixture(scope="module")
def cross() -> None:
    """The compiler for aarch64."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        install(["g++-aarch64-linux-gnu"])
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no cross compiler: apt-get install g++-aarch64-linux-gnu")


def linked(target: Target, folder: Path) -> str:
    """What readelf says of a library with one function that calls ``expf`` and ``memset``."""
    source, compiled, library = folder / "code.c", folder / "code.o", folder / "code.so"
    source.write_text(
        "float expf(float); void *memset(void *, int, unsigned long);\n"
        "void main_(float *x, int n) { memset(x, 0, n); *x = expf(*x); }\n"
    )
    compiler = "gcc" if target.machine == platform.machine() else f"{target.machine}-linux-gnu-gcc"
    subprocess.run([compiler, "-c", "-fPIC", "-O1", "-o", compiled, source], check=True)
    linker_for(target)(str(library), [str(compiled)])
    said = subprocess.run(
        ["readelf", "-hdlW", "--dyn-syms", library], capture_output=True, text=True, check=True
    )
    return said.stdout


def test_phone_library_asks_for_the_phones_own_libraries(
    cross: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an NDK: bionic's names, nothing of glibc, and pages of 16 kB."""
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    target = find_target("pixel4-cpu")
    said = linked(target, tmp_path)
    assert "AArch64" in said
    assert re.findall(r"NEEDED.*\[(.*)\]", said) == ["libc.so", "libm.so", "libdl.so"]
    assert "GLIBC" not in said
    assert set(re.findall(r"LOAD .* (0x\w+)$", said, re.MULTILINE)) == {"0x4000"}
    assert linker_for(target).name == "aarch64-linux-gnu-g++ -nostdlib"


def test_ndk_links_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The NDK's compiler is called; a folder that has none is an error."""
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    target = find_target("pixel4-cpu")
    with pytest.raises(CompileError, match=r"where there is no aarch64-linux-android26-clang\+\+"):
        linker_for(target)
    folder = tmp_path / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
    folder.mkdir(parents=True)
    compiler = folder / "aarch64-linux-android26-clang++"
    compiler.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    compiler.chmod(0o755)
    linker = linker_for(target)
    linker("library.so", ["one.o", "two.o"])
    called = (tmp_path / "called").read_text().split()
    assert called[:4] == ["-shared", "-fPIC", "-o", "library.so"]
    assert called[-2:] == ["one.o", "two.o"]
    assert linker.name == "aarch64-linux-android26-clang++ of the NDK"


def test_other_linux_is_linked_with_its_compiler(cross: None, tmp_path: Path) -> None:
    """A Raspberry Pi's library is linked against what Linux has."""
    target = find_target("rpi4")
    assert "AArch64" in linked(target, tmp_path)
    assert linker_for(target).name == "aarch64-linux-gnu-g++"


def test_missing_linker_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler for a machine: what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompileError, match=r"apt-get install g\+\+-aarch64-linux-gnu"):
        linker_for(find_target("rpi4"))
    here = {"x86_64": "x86-avx2", "aarch64": "rpi4"}[platform.machine()]
    with pytest.raises(CompileError, match=r"apt-get install g\+\+"):
        linker_for(find_target(here))


def test_what_the_linker_said_is_in_the_error(tmp_path: Path) -> None:
    """A missing object file is named."""
    here = {"x86_64": "x86-avx2", "aarch64": "rpi4"}[platform.machine()]
    with pytest.raises(CompileError, match=r"cannot link 'out\.so': "):
        linker_for(find_target(here))(str(tmp_path / "out.so"), [str(tmp_path / "missing.o")])
