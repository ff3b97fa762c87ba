"""Moving memory: runs of neighbours, and vectors zipped together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millifit.targets.schedules import tir
from millifit.targets.target import Target

PARALLEL_ELEMENTS = 1 << 17
_UNROLLED = 4
# Converts a vector of that many lanes on its way.
Conversion = Callable[[tir.Expr, int], tir.Expr]
Body = Callable[[tir.Expr], Sequence[tir.Statement]]


def widest(target: Target, itemsize: int) -> int:
    """Elements of `itemsize` bytes in one vector register."""
    return target.vector_bits // 8 // itemsize


def overlapping(
    count: int, lanes: int, body: Callable[[tir.Expr, int], Sequence[tir.Statement]]
) -> list[tir.Statement]:
    """`body(offset, lanes)` over `count` neighbours; the last vector may overlap the one before.

    Only for a body that may write an element twice. 21 elements in vectors of 8 are those from 0,
    8 and 13; 5 elements are vectors of 4 from 0 and 1.
    """
    while lanes > count:
        lanes //= 2
    whole, rest = divmod(count, lanes)
    step = lanes * _UNROLLED
    blocks = whole // _UNROLLED if whole >= 2 * _UNROLLED else 0
    written = tir.loop(
        blocks,
        lambda i: [s for u in range(_UNROLLED) for s in body(i * step + u * lanes, lanes)],
        name="v",
    )
    for v in range(blocks * _UNROLLED, whole):
        written += body(tir.const(v * lanes), lanes)
    return [*written, *(body(tir.const(count - lanes), lanes) if rest else [])]


def copy(
    target: Target,
    source: tir.Buffer,
    start: tir.Expr,
    destination: tir.Buffer,
    to: tir.Expr,
    count: int,
    *,
    itemsize: int,
    convert: Conversion | None = None,
) -> list[tir.Statement]:
    """Copy `count` neighbours, converting them where asked."""

    def move(at: tir.Expr, lanes: int) -> list[tir.Statement]:
        value = tir.load(source, start + at, lanes)
        value = value if convert is None else convert(value, lanes)
        return [tir.store(destination, to + at, value, lanes)]

    # A conversion works on float32, in vectors of which a register holds fewer.
    lanes = target.fp32_lanes if convert is not None else widest(target, itemsize)
    return overlapping(count, lanes, move)


def fill(
    destination: tir.Buffer, to: tir.Expr, count: int, value: tir.Expr, *, lanes: int
) -> list[tir.Statement]:
    """Write one value `count` times."""

    def write(at: tir.Expr, width: int) -> list[tir.Statement]:
        return [tir.store(destination, to + at, tir.splat(value, width), width)]

    return overlapping(count, lanes, write)


def named(values: Sequence[tir.Expr], dtype: str, lanes: int) -> tuple[list, list]:  # type: ignore[type-arg]  # TVM is untyped
    """Bind vectors to variables: the statements, and the variables."""
    pairs = [tir.bind("r", value, dtype, lanes) for value in values]
    return [statement for statement, _ in pairs], [variable for _, variable in pairs]


def zipped(
    rows: Sequence[tir.Expr], dtype: str, lanes: int
) -> tuple[list[tir.Statement], list[tir.Expr]]:
    """The vectors that hold the first lanes of all rows, then the second ones, and so on.

    Rows ``a0 a1 .. a7`` and ``b0 .. b7`` give ``a0 b0 .. a3 b3`` and ``a4 b4 .. a7 b7``.
    """
    count = len(rows)
    order = [i % count * lanes + i // count for i in range(count * lanes)]
    picked = [tir.shuffle(rows, order[j * lanes : (j + 1) * lanes]) for j in range(count)]
    return named(picked, dtype, lanes)


def unzipped(
    vectors: Sequence[tir.Expr], dtype: str, lanes: int
) -> tuple[list[tir.Statement], list[tir.Expr]]:
    """The inverse of `zipped`: every n-th lane of n vectors."""
    count = len(vectors)
    picked = [tir.shuffle(vectors, [i * count + j for i in range(lanes)]) for j in range(count)]
    return named(picked, dtype, lanes)
