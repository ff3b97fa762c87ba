"""Writing TIR: the few forms of loop, vector and buffer that the schedules are made of.

The schedules emit TIR directly, already blocked, unrolled and vectorised: what is written is what
LLVM sees, and a kernel compiles in tens of milliseconds. docs/decisions/0002-tvm-and-kernels.md
compares this with scheduling primitives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx import stmt
from tvm.tirx.expr import Broadcast, BufferLoad, Ramp, Shuffle

# TVM ships no type information: expressions, statements and buffers are Any for the type checker.
Expr = Any
Statement = Any
Buffer = Any
PrimFunc = Any


def dtype_of(dtype: str, lanes: int) -> str:
    """``dtype_of("float32", 8)`` is ``"float32x8"``."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def const(value: float, dtype: str = "int32", lanes: int = 1) -> Expr:
    """A constant, in all lanes."""
    return splat(tirx.const(value, dtype), lanes)


def splat(scalar: Expr, lanes: int) -> Expr:
    """A scalar in all lanes."""
    return scalar if lanes == 1 else Broadcast(scalar, lanes)


def index(base: Expr, lanes: int) -> Expr:
    """The index of `lanes` neighbours from `base`."""
    return base if lanes == 1 else Ramp(base, 1, lanes)


def load(buffer: Buffer, base: Expr, lanes: int = 1) -> Expr:
    """`lanes` neighbouring elements of a flat buffer."""
    return BufferLoad(buffer, [index(base, lanes)])


def store(buffer: Buffer, base: Expr, value: Expr, lanes: int = 1) -> Statement:
    """Write `lanes` neighbouring elements of a flat buffer."""
    return stmt.BufferStore(buffer, value, [index(base, lanes)])


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """Convert the element type, lane by lane."""
    return value.astype(dtype_of(dtype, lanes))


def bind(name: str, value: Expr, dtype: str, lanes: int = 1) -> tuple[Statement, Expr]:
    """Name a value: the binding, and the variable."""
    variable = tirx.Var(name, dtype_of(dtype, lanes))
    return stmt.Bind(variable, value), variable


def prefetch(buffer: Buffer, base: Expr, *, write: bool) -> Statement:
    """Ask for the cache line of an element of a flat buffer, to be read or written soon."""
    nearest, data = const(3), const(1)  # llvm.prefetch: keep in all caches; a data cache
    address = tirx.address_of(buffer[base])
    call = tirx.call_llvm_intrin("void", "llvm.prefetch", address, const(write), nearest, data)
    return stmt.Evaluate(call)


def sequence(statements: Sequence[Statement]) -> Statement:
    """One statement out of several."""
    return statements[0] if len(statements) == 1 else stmt.SeqStmt(list(statements))


def loop(
    extent: Expr,
    body: Callable[[Expr], Sequence[Statement]],
    *,
    name: str,
    start: Expr = 0,
    parallel: bool = False,
) -> list[Statement]:
    """`body(i)` for i in start .. start + extent - 1; no loop at all where extent is 1 or 0."""
    if isinstance(extent, int) and isinstance(start, int):
        if extent <= 0:
            return []
        if extent == 1:
            return list(body(const(start)))
    variable = tirx.Var(name, "int32")
    kind = stmt.ForKind.PARALLEL if parallel else stmt.ForKind.SERIAL
    return [stmt.For(variable, start, extent, kind, sequence(body(variable)))]


def parameter(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    """A buffer that the caller passes; it may start anywhere in the caller's memory."""
    offset = tirx.Var(f"{name}_offset", "int32")
    return tirx.decl_buffer(tuple(shape), dtype, name=name, elem_offset=offset)


def flat(buffer: Buffer, *, dtype: str = "") -> tuple[Statement, Buffer]:
    """A one-dimensional view of a parameter: its declaration, and the view.

    `dtype`, of the same width, is how the view sees the elements.
    """
    size = int(np.prod([int(extent) for extent in buffer.shape], dtype=np.int64))
    view = tirx.decl_buffer(
        (size,), dtype or buffer.dtype, name=f"{buffer.name}_flat", data=buffer.data,
        elem_offset=buffer.elem_offset,
    )  # fmt: skip
    return stmt.DeclBuffer(view, data=buffer.data), view


# TVM's name for: leave this allocation to LLVM.
_ON_STACK = "disable_lower_builtin"


def scratch(
    name: str, size: int, dtype: str, *, registers: bool = False
) -> tuple[Statement, Buffer]:
    """Memory of the kernel's own: its allocation, and the buffer.

    With `registers`, and constant indices, it ends in registers. Else TVM takes it from a pool
    where it has 1024 bytes or more, which LLVM must treat as memory that others see.
    """
    # TVM would take memory of the scope "local" from the pool whatever its size.
    buffer = tirx.decl_buffer((size,), dtype, name=name, scope="global")
    annotations = {_ON_STACK: True} if registers else {}
    return stmt.AllocBuffer(buffer, annotations), buffer


def in_registers(allocation: Statement) -> bool:
    """Whether an allocation of `scratch` is of registers."""
    return _ON_STACK in allocation.annotations


def function(
    parameters: Sequence[Buffer], body: Sequence[Statement], *, definitions: str = ""
) -> PrimFunc:
    """A kernel. No two parameters overlap. `definitions` are in LLVM IR, for `external`."""
    whole = sequence(body)
    if definitions:
        whole = stmt.AttrStmt(tirx.const(0), "pragma_import_llvm", definitions, whole)
    made = tirx.PrimFunc(list(parameters), whole)
    return made.with_attr("tirx.noalias", True)


def llvm(name: str, dtype: str, lanes: int, *arguments: Expr) -> Expr:
    """Call a pure LLVM intrinsic such as ``llvm.x86.avx2.pmadd.wd``."""
    return tirx.call_llvm_pure_intrin(dtype_of(dtype, lanes), name, *arguments)


def external(name: str, dtype: str, lanes: int, *arguments: Expr) -> Expr:
    """Call a pure function that the kernel's `definitions` define."""
    return tirx.call_pure_extern(dtype_of(dtype, lanes), name, *arguments)


def reinterpret(value: Expr, dtype: str, lanes: int) -> Expr:
    """The same bits as another type."""
    return tirx.reinterpret(dtype_of(dtype, lanes), value)


def shuffle(sources: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """Chosen lanes of some vectors of one type, counted through all of them; a scalar if it is one.

    ``shuffle([a, b], [0, 4, 1, 5])`` of two vectors of 4 is ``a0 b0 a1 b1``.
    """
    return Shuffle(list(sources), [const(lane) for lane in lanes])


def round_half_even(value: Expr) -> Expr:
    """Nearest integer, halves to even: what ONNX's QuantizeLinear specifies."""
    return tirx.nearbyint(value)


def clamp(value: Expr, low: Expr, high: Expr) -> Expr:
    """`value` limited to [low, high]."""
    return tirx.min(tirx.max(value, low), high)


def vectors(
    count: int, body: Callable[[Expr, int], Sequence[Statement]], *, widest: int = 16
) -> list[Statement]:
    """`body(offset, lanes)` over `count` neighbours: a loop of wide vectors, then narrower ones."""
    whole = count // widest
    written = loop(whole, lambda i: body(i * widest, widest), name="v")
    at, lanes = whole * widest, widest
    while at < count:
        while lanes > count - at:
            lanes //= 2
        written += body(const(at), lanes)
        at += lanes
    return written
