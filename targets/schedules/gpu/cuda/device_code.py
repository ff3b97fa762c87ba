"""Calls of the functions in the ``.cuh`` files beside this one, which hold the innermost code.

Staging through shared memory, tensor cores and asynchronous copies are clearer in CUDA C++ than
in TIR, and the same text compiles against the tests' emulation. What is fused behind a layer stays
TIR, shared with every other target.
"""

from __future__ import annotations

import functools
from pathlib import Path

from tvm import tirx
from tvm.tirx import stmt

from millifit.targets.schedules import tir

# In this order: each uses what is before it.
_FILES = ("chunks", "feature_map", "arithmetic", "block_product", "row_product", "depthwise")
# How CUDA C++ names what a kernel's activations are made of.
ELEMENTS = {"float32": "float", "float16": "half", "uint8": "unsigned char"}
WEIGHTS = {"float32": "float32", "float16": "float16", "uint8": "int8"}
SUMS = {"float32": "float32", "float16": "float32", "uint8": "int32"}
CHUNK_BYTES = 16


@functools.cache
def source() -> str:
    """The text of all files."""
    folder = Path(__file__).parent
    return "\n".join((folder / f"{name}.cuh").read_text() for name in _FILES)


def code() -> tir.Statement:
    """Where a launch brings the text of all functions that it calls; an empty function itself."""
    from tvm.backend.cuda.op import cuda_func_call

    return stmt.Evaluate(cuda_func_call("millifit::device_code", source_code=source()))


def call(name: str, *arguments: tir.Expr, returns: str = "void") -> tir.Expr:
    """Call one of the functions, with its template arguments in `name`; behind `code`."""
    from tvm.backend.cuda.op import cuda_func_call

    return cuda_func_call(f"millifit::{name}", *arguments, source_code="", return_type=returns)


def run(name: str, *arguments: tir.Expr) -> tir.Statement:
    """The same as a statement."""
    return stmt.Evaluate(call(name, *arguments))


def address(buffer: tir.Buffer, at: tir.Expr = 0) -> tir.Expr:
    """A pointer to an element."""
    return tirx.address_of(buffer[at])


def read(own: tir.Buffer, source: tir.Buffer, at: tir.Expr, count_bytes: int) -> tir.Statement:
    """Copy bytes to a thread's own variables, from where a power of two of them is aligned."""
    return run(f"read<{count_bytes}>", address(own), address(source, at))


def write(to: tir.Buffer, at: tir.Expr, own: tir.Buffer, count_bytes: int) -> tir.Statement:
    """The other way."""
    return run(f"write<{count_bytes}>", address(to, at), address(own))


def copy(
    to: tir.Buffer, at: tir.Expr, source: tir.Buffer, source_at: tir.Expr, count_bytes: int
) -> tir.Statement:
    """From shared or global memory to shared or global memory."""
    return run(f"copy<{count_bytes}>", address(to, at), address(source, source_at))
