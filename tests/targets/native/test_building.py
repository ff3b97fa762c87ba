"""Native parts are built once, into a place of their own, and say what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from millifit.errors import CompileError, MissingDependency, TargetError, UsageError
from millifit.targets.native import Toolchain, build, built_file
from millifit.targets.native import building as building_module
from millifit.targets.target import Target
from tests.debian import install


def test_building_again_does_nothing(
    opencl: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is built stands whole under a name that depends on the sources, and is found there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert built_file("opencl", "libmillifit_opencl.so") is None
    folder = build("opencl")
    assert [file.name for file in folder.iterdir()] == ["libmillifit_opencl.so"]
    assert [each.name for each in (tmp_path / "millifit" / "native").iterdir()] == [folder.name]
    monkeypatch.setenv("PATH", "")
    assert build("opencl") == folder
    assert built_file("opencl", "libmillifit_opencl.so") == folder / "libmillifit_opencl.so"


def test_library_is_small_and_links_no_opencl(opencl: Target) -> None:
    """Below 200 kB; OpenCL itself is opened when it is needed, and no path of ours is recorded."""
    library = Path(os.environ["MILLIFIT_OPENCL_LIBRARY"])
    assert library.stat().st_size < 200_000
    said = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    assert "libtvm_runtime.so" in said.stdout
    assert "libtvm_ffi.so" in said.stdout
    assert "OpenCL" not in said.stdout
    assert "RUNPATH" not in said.stdout


@pytest.mark.parametrize(
    ("present", "missing"), [((), "apt-get install cmake"), (("cmake",), "apt-get install g++")]
)
def test_missing_tool_is_named_with_the_command_that_installs_it(
    opencl: Target,
    present: tuple[str, ...],
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without CMake or a compiler, the message says what to run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in present:
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingDependency, match=missing.replace("+", r"\+")):
        build("opencl")
    assert not (tmp_path / "millifit").exists()


def test_missing_headers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CL/cl.h, the message says what to install, or that the folder given has none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building_module, "_HEADERS", (str(tmp_path),))
    with pytest.raises(MissingDependency, match="apt-get install opencl-headers"):
        build("opencl")
    with pytest.raises(UsageError, match=r"has no CL/cl\.h"):
        build("opencl", headers=tmp_path)


def test_compiler_that_fails_is_quoted(
    opencl: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiler said is in the error, and nothing is left in the cache."""
    headers = tmp_path / "headers" / "CL"
    headers.mkdir(parents=True)
    (headers / "cl.h").write_text("#error these are no headers\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CompileError, match="these are no headers"):
        build("opencl", headers=headers.parent)
    assert list((tmp_path / "millifit" / "native").iterdir()) == []


def test_no_ndk_is_said(tmp_path: Path) -> None:
    """A folder without the NDK's toolchain file is refused before anything is built."""
    with pytest.raises(TargetError, match="is no Android NDK"):
        build("opencl", toolchain=Toolchain(android_ndk=tmp_path))


def test_cross_built_library_is_for_the_other_machine(
    opencl: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built for aarch64 here: an aarch64 library that asks for TVM's libraries by their names."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        install(["g++-aarch64-linux-gnu"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = build("opencl", toolchain=Toolchain(prefix="aarch64-linux-gnu"))
    library = folder / "libmillifit_opencl.so"
    said = subprocess.run(["readelf", "-hd", library], capture_output=True, text=True, check=True)
    assert "AArch64" in said.stdout
    assert "[libtvm_runtime.so]" in said.stdout
    assert "[libtvm_ffi.so]" in said.stdout


def test_unknown_prefix_names_the_package() -> None:
    """A compiler that is not installed is named with its Debian package."""
    with pytest.raises(MissingDependency, match=r"apt-get install g\+\+-mips64-linux-gnu"):
        build("opencl", toolchain=Toolchain(prefix="mips64-linux-gnu"))
