"""Kernels for aarch64, linked here and run under qemu-user with every extension it knows."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millifit.targets.network import Array
from tests.debian import install

PREFIX = "aarch64-linux-gnu-"
_PACKAGES = ("g++-aarch64-linux-gnu", "qemu-user-static")
_LIBRARIES = "/usr/aarch64-linux-gnu"
_TYPE_CODES = {"i": 0, "u": 1, "f": 2, "V": 4}  # V: NumPy's kind of bfloat16
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")


class Emulator:
    """One emulated process that calls kernels, started again where a kernel ended it."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self._folder = folder
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count()

    def run(self, executable: Any, arrays: Sequence[Array]) -> Array:
        """Call the function ``main`` of a TVM executable; the last array's place takes the output.

        Fails the test where the kernel reads or writes outside its arrays.
        """
        library = self.link(executable)
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(_request(library, arrays))
            process.stdin.flush()
            (length,) = struct.unpack("<i", process.stdout.read(4))
            wanted = arrays[-1]
            answer = process.stdout.read(length or wanted.nbytes)
        except (BrokenPipeError, struct.error):
            self.close()
            pytest.fail(f"the kernel ended the emulated process; its library is {library}")
        library.unlink()
        if length:
            pytest.fail(answer.decode())
        return np.frombuffer(answer, wanted.dtype).reshape(wanted.shape)

    def link(self, executable: Any) -> Path:
        """The shared library of a TVM executable; its caller deletes it."""
        kernel = self._folder / f"kernel{next(self._names)}.o"
        executable.mod.write_to_file(str(kernel), "o")
        library = kernel.with_suffix(".so")
        subprocess.run(
            [PREFIX + "ld", "-shared", "-o", library, kernel], check=True, capture_output=True
        )
        kernel.unlink()
        return library

    def close(self) -> None:
        """End the emulated process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._process


def _request(library: Path, arrays: Sequence[Array]) -> bytes:
    parts = [f"{library}\n".encode(), struct.pack("<i", len(arrays))]
    for array in arrays:
        kind = array.dtype.kind
        code = 4 if array.dtype.name == "bfloat16" else _TYPE_CODES[kind]
        parts.append(struct.pack("<iii", code, array.itemsize * 8, array.ndim))
        parts += [struct.pack(f"<{array.ndim}q", *array.shape), array.tobytes()]
    return b"".join(parts)


@functools.cache
def emulator() -> Emulator:
    """The emulator of this test session; skips the test where its packages cannot be had."""
    machine = _installed()
    if machine is None:
        install(_PACKAGES)
        machine = _installed()
    if machine is None:
        pytest.skip(f"aarch64 cannot be emulated: install {' '.join(_PACKAGES)}")
    folder = Path(tempfile.mkdtemp(prefix="millifit-emulator-"))
    source = Path(__file__).with_name("emulated_driver.c")
    driver = folder / "driver"
    subprocess.run(
        [PREFIX + "gcc", "-O2", "-rdynamic", "-o", driver, source, "-ldl", "-lm"], check=True
    )
    made = Emulator(folder, [machine, "-cpu", "max", "-L", _LIBRARIES, str(driver)])
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(made.close)
    return made


def _installed() -> str | None:
    """The emulator's command, where the cross compiler is there as well."""
    found = [name for name in _EMULATORS if shutil.which(name)]
    return found[0] if found and shutil.which(PREFIX + "g++") else None
