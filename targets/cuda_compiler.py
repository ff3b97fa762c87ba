"""CUDA C++ to machine code without a GPU, and into the library of a program.

TVM generates CUDA C++ and, where its CUDA runtime is loaded, has it compiled by a callback at once.
Elsewhere it leaves the text in the exported library, to be compiled when that is loaded. Devices
have no compiler, so the text is replaced by machine code (a cubin) before linking, in the form that
the runtime itself writes: TVM's stock runtime loads it as it is.

The compiler is nvcc where it is installed, else NVRTC, a library in NVIDIA's wheels. Neither is
told to trade accuracy for speed, as TVM's own callback does: quantized values depend on division.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from millifit.errors import CompileError, MissingDependency

_BLOB = "__tvm_ffi__library_bin"
_STANDARD = "c++17"


def compile_cuda(code: str, arch: str) -> bytes:
    """The machine code (cubin) of some CUDA C++ for an architecture such as ``sm_90``.

    Raises CompileError with the compiler's first errors, and MissingDependency without a compiler.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        return _with_nvcc(nvcc, code, arch)
    home = wheel_home()
    if home is None:
        raise MissingDependency(
            package="nvidia-cuda-nvrtc", purpose=f"compiling for '{arch}'",
            install="pip install 'millifit[cuda]', or install the CUDA toolkit (nvcc)",
        )  # fmt: skip
    return _with_nvrtc(home, code, arch)


def compiler_name() -> str:
    """Which compiler `compile_cuda` would use: "nvcc", "nvrtc", or "" where there is none."""
    if shutil.which("nvcc") is not None:
        return "nvcc"
    return "nvrtc" if wheel_home() is not None else ""


def wheel_home() -> Path | None:
    """Where NVIDIA's wheels put CUDA 13's libraries and headers; None without the compiler."""
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found is not None else ():
        home = Path(folder) / "cu13"
        if any((home / "lib").glob("libnvrtc.so.*")) and (home / "include" / "mma.h").exists():
            return home
    return None


def _with_nvcc(nvcc: str, code: str, arch: str) -> bytes:
    with tempfile.TemporaryDirectory() as work:
        source, made = Path(work) / "kernels.cu", Path(work) / "kernels.cubin"
        source.write_text(code)
        done = subprocess.run(
            [nvcc, "-cubin", f"-arch={arch}", f"-std={_STANDARD}", "-w", "-o", made, source],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise _compile_error("nvcc", arch, done.stderr + done.stdout)
        return made.read_bytes()


def _with_nvrtc(home: Path, code: str, arch: str) -> bytes:
    """By NVRTC's C interface: a program, its log, its machine code."""
    (library,) = (home / "lib").glob("libnvrtc.so.*")
    nvrtc = ctypes.CDLL(str(library))
    options = [
        f"--gpu-architecture={arch}", f"--std={_STANDARD}", "--disable-warnings", "-default-device",
        f"-I{home / 'include'}", f"-I{home / 'include' / 'cccl'}",
    ]  # fmt: skip
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None
    )
    if status:
        raise CompileError(f"NVRTC ({library}) could not be started: status {status}")
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), given):
            raise _compile_error("NVRTC", arch, _text_of(nvrtc, program, "ProgramLog").decode())
        return _text_of(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text_of(nvrtc: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _compile_error(compiler: str, arch: str, log: str) -> CompileError:
    errors = [line for line in log.splitlines() if "error" in line.lower()][:3]
    return CompileError(f"{compiler} refused code for '{arch}': {' / '.join(errors) or log[:300]}")


def use_compiler(arch: str) -> None:
    """Have TVM compile with `compile_cuda` where it compiles itself: where a GPU is at hand."""
    import tvm.support.nvcc  # noqa: F401 - registers TVM's own, which must not come after ours
    import tvm_ffi

    def compiled(code: str) -> bytes:
        return compile_cuda(code, arch)

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compiled, override=True)


# What TVM's export calls to pack what a library carries beside its own code: the module, whether it
# is a system library, the prefix of symbols, a folder to work in. It gives a file to link.
PackImports = Callable[[Any, bool, str, str], str]


def pack_cubins(arch: str) -> PackImports:
    """For ``export_library(fpack_imports=...)``: the same library with machine code in it."""

    def pack(module: Any, is_system_lib: bool, prefix: str, folder: str) -> str:
        from tvm.runtime import _ffi_api

        text = str(_ffi_api.ModulePackImportsToC(module, is_system_lib, prefix))
        blob = with_cubins(
            bytes_of_c(text), _sources(module), lambda code: compile_cuda(code, arch)
        )
        binary, assembly = (Path(folder) / f"{prefix}devc.{suffix}" for suffix in ("bin", "S"))
        binary.write_bytes(blob)
        assembly.write_text(_assembly(f"{prefix}{_BLOB}", binary))
        return os.fspath(assembly)

    return pack


def _sources(module: Any) -> list[str]:
    """The CUDA C++ of all modules that a module imports."""
    found = [str(module.inspect_source("cuda"))] if module.kind == "cuda" else []
    return found + [code for each in module.imports for code in _sources(each)]


def bytes_of_c(text: str) -> bytes:
    """The bytes of the one array in some C: ``{ 0x01,0x02, }`` is ``b"\\x01\\x02"``."""
    inside = text[text.index("= {") + len("= {") : text.rindex("};")]
    return bytes.fromhex(re.sub(r"0x|[,\s]", "", inside))


def with_cubins(blob: bytes, sources: Iterable[str], compiled: Callable[[str], bytes]) -> bytes:
    """A packed library whose CUDA modules hold machine code instead of `sources`.

    The blob starts with its size. A module in it is its kind and its content, both as strings with
    their length in front; a CUDA module's content is the format, its functions, and the code.
    Raises CompileError where that is not so, as may be in another version of TVM.
    """
    body = blob[8:]
    for code in sources:
        old, kind = _string(code.encode()), _string(b"cuda")
        if old not in body and re.search(kind + b".{8}" + _string(b"cubin"), body, re.DOTALL):
            continue  # compiled already
        end = body.find(old) + len(old)
        start = _module_start(body, end, kind) if end >= len(old) else -1
        if start < 0:
            raise CompileError("this version of TVM packs CUDA code in a way that is not known")
        functions = body[start + 8 + len(kind) : end - len(old)]
        content = _string(b"cubin") + functions + _string(compiled(code))
        body = body[:start] + _string(content) + body[end:]
    return struct.pack("<Q", len(body)) + body


def _module_start(body: bytes, end: int, kind: bytes) -> int:
    """Where the content, as a string, starts of the CUDA module that ends at `end`; -1: nowhere."""
    at = body.find(kind)
    while 0 <= at < end:
        start = at + len(kind)
        (size,) = struct.unpack_from("<Q", body, start)
        if start + 8 + size == end and body.startswith(kind, start + 8):
            return start
        at = body.find(kind, at + 1)
    return -1


def _string(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _assembly(symbol: str, binary: Path) -> str:
    """An assembler file with the bytes of `binary` under the name by which TVM's loader asks."""
    return f"""\
    .section .rodata
    .globl {symbol}
    .type {symbol}, %object
    .balign 16
{symbol}:
    .incbin "{binary}"
    .size {symbol}, . - {symbol}
    .section .note.GNU-stack,"",%progbits
"""
