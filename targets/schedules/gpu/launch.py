"""Threads of a GPU: launches, work-groups by rule, registers and the memory that a group shares.

A kernel is one function with one or several launches. A launch has work-groups of threads, up to
three dimensions of each; the index along x changes fastest between neighbouring threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.ir import Range
from tvm.tirx import stmt
from tvm.tirx.expr import IterVar

from millifit.targets.schedules import tir
from millifit.targets.target import Gpu

Place = tuple[tir.Expr, tir.Expr, tir.Expr]
Body = Callable[[Place, Place], Sequence[tir.Statement]]
Extents = tuple[int, int, int]

_AXES = ("x", "y", "z")
_THREAD = 1  # TVM's kind of an axis that threads run along
# Threads of a group where nothing is shared: enough to hide memory, few enough that groups are
# spread evenly. Vendors advise 64 to 256.
_FEWEST, _MOST = 32, 256


def launch(groups: Extents, threads: Extents, body: Body) -> list[tir.Statement]:
    """`body(group, thread)` for every thread of every work-group."""
    tags = [f"{kind}Idx.{axis}" for kind in ("block", "thread") for axis in _AXES]
    extents = [*groups, *threads]
    variables = [tirx.Var(tag, "int32") for tag in tags]
    places = [v if n > 1 else tir.const(0) for v, n in zip(variables, extents, strict=True)]
    first, second, third, *others = places
    code = tir.sequence(list(body((first, second, third), (others[0], others[1], others[2]))))
    for variable, tag, extent in reversed(list(zip(variables, tags, extents, strict=True))):
        if extent > 1 or tag.endswith("x"):
            axis = IterVar(Range(0, extent), variable, _THREAD, tag)
            code = stmt.AttrStmt(axis, "thread_extent", tir.const(extent), code)
    return [code]


def power_of_two(most: int) -> int:
    """The largest power of two that is at most `most`, at least 1."""
    return 1 << (max(1, most).bit_length() - 1)


def group_size(gpu: Gpu, count: int) -> int:
    """Threads of a work-group for `count` independent items: a power of two.

    Four subgroups, so that one computes while others wait for memory; fewer where the items would
    not keep every compute unit busy.
    """
    size = min(power_of_two(gpu.max_threads), max(2 * _FEWEST, min(_MOST, 4 * gpu.subgroup)))
    least = min(size, max(_FEWEST, power_of_two(gpu.subgroup)))
    while size > least and count < size * gpu.compute_units:
        size //= 2
    return size


def each(
    gpu: Gpu, count: int, body: Callable[[tir.Expr], Sequence[tir.Statement]]
) -> list[tir.Statement]:
    """`body(i)` for i in 0 .. count - 1, each by a thread of its own."""
    size = group_size(gpu, count)
    groups = math.ceil(count / size)

    def thread(group: Place, local: Place) -> list[tir.Statement]:
        i = group[0] * size + local[0]
        return when(i < count, body(i)) if groups * size != count else list(body(i))

    return launch((groups, 1, 1), (size, 1, 1), thread)


def when(condition: tir.Expr, body: Sequence[tir.Statement]) -> list[tir.Statement]:
    """`body` where the condition holds."""
    return [stmt.IfThenElse(condition, tir.sequence(list(body)), None)]


def unravel(flat: tir.Expr, extents: Sequence[int]) -> list[tir.Expr]:
    """The place of element `flat` of an array: ``unravel(7, (2, 4))`` is ``[1, 3]``."""
    places: list[tir.Expr] = []
    for extent in reversed(extents[1:]):
        places.insert(0, tirx.floormod(flat, extent) if extent > 1 else tir.const(0))
        flat = tirx.floordiv(flat, extent) if extent > 1 else flat
    return [flat if extents[0] > 1 else tir.const(0), *places]


def registers(
    name: str, count: int, dtype: str, lanes: int = 1
) -> tuple[tir.Statement, tir.Buffer]:
    """`count` vectors of a thread's own; with constant indices they end in registers."""
    made = tirx.decl_buffer((count,), tir.dtype_of(dtype, lanes), name=name, scope="local")
    return stmt.AllocBuffer(made, {}), made


def shared(name: str, count: int, dtype: str, lanes: int = 1) -> tuple[tir.Statement, tir.Buffer]:
    """`count` vectors that all threads of a work-group see, after a `barrier`."""
    made = tirx.decl_buffer((count,), tir.dtype_of(dtype, lanes), name=name, scope="shared")
    return stmt.AllocBuffer(made, {}), made


def barrier() -> tir.Statement:
    """Where all threads of a work-group wait for one another."""
    return stmt.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))


def combined(
    parts: tir.Buffer,
    place: tir.Expr,
    index: tir.Expr,
    count: int,
    stride: int,
    combine: Callable[[tir.Expr, tir.Expr], tir.Expr],
) -> list[tir.Statement]:
    """Combine `count` values of shared memory, a power of two, into the first of them.

    They are `stride` apart; this thread's is at `place` and is number `index`. Ends with a barrier.
    """
    written = [barrier()]
    half = count // 2
    while half:
        joined = combine(tir.load(parts, place), tir.load(parts, place + half * stride))
        written += [*when(index < half, [tir.store(parts, place, joined)]), barrier()]
        half //= 2
    return written
