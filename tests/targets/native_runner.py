"""millifit-run as tests use it: built once, and once more with what finds memory errors."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from millifit.targets.native import Toolchain, build
from tests.debian import install

SOURCES = Path(__file__).resolve().parents[2] / "targets" / "native" / "runner"


def package(name: str) -> Path:
    """The folder of an installed package."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


RUNTIME = f"{package('tvm') / 'lib'}:{package('tvm_ffi') / 'lib'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRunner:
    """A command that runs bundles, in an environment of its own."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run it; `changes` are of the environment."""
        return subprocess.run(
            [*self.command, *map(str, arguments)], capture_output=True, text=True, check=False,
            env=os.environ | dict(self.environment) | changes, timeout=300,
        )  # fmt: skip

    def succeeds(self, *arguments: object, **changes: str) -> str:
        """What it prints; fails the test where it fails."""
        done = self.run(*arguments, **changes)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: object, code: int = 1, **changes: str) -> str:
        """The error; fails the test where it succeeds, or ends in another way than by one."""
        done = self.run(*arguments, **changes)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert done.stderr.startswith("error: "), done.stderr
        return done.stderr


def need(commands: Sequence[str], packages: Sequence[str]) -> None:
    """Install Debian packages where commands are missing, or skip."""
    if not all(map(shutil.which, commands)):
        install(packages)
    if not all(map(shutil.which, commands)):
        pytest.skip(f"millifit-run cannot be built: apt-get install {' '.join(packages)}")


def built(toolchain: Toolchain | None = None) -> Path:
    """The program as `millifit device build` makes it."""
    need(["cmake", "g++", "make"], ["cmake", "g++", "make"])
    made = build("runner") if toolchain is None else build("runner", toolchain=toolchain)
    return made / "millifit-run"


@functools.cache
def sanitized() -> Path:
    """A folder with millifit-run and millifit-parse that end at the first memory error.

    Built alone, as its CMakeLists.txt says, and without a word of where the runtime is; once for
    all tests of a session.
    """
    need(["cmake", "g++", "make"], ["cmake", "g++", "make"])
    folder = Path(tempfile.mkdtemp(prefix="millifit-sanitized-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    configure = [
        "cmake", "-S", str(SOURCES), "-B", str(folder), "-DMILLIFIT_SANITIZE=ON",
        "-DCMAKE_BUILD_TYPE=None", f"-DMILLIFIT_FFI_INCLUDE={package('tvm_ffi') / 'include'}",
    ]  # fmt: skip
    targets = ["--target", "millifit-run", "millifit-parse"]
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", "2", *targets]):
        subprocess.run(command, check=True, capture_output=True, text=True)
    return folder
