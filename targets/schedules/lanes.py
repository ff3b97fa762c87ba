"""Values between the lanes of vectors: blocks transposed, one vector reduced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millifit.targets.schedules import tir

Combine = Callable[[tir.Expr, tir.Expr], tir.Expr]


def transposed(rows: Sequence[tir.Expr], dtype: str) -> tuple[list[tir.Statement], list[tir.Expr]]:
    """The columns of a square block given as its rows, in log2(n) stages of n shuffles.

    `rows` are n vectors of n lanes, n a power of two.
    """
    n = len(rows)
    written: list[tir.Statement] = []
    held = list(rows)
    half = 1
    while half < n:
        first = [lane if lane % (2 * half) < half else n + lane - half for lane in range(n)]
        second = [lane + half if lane % (2 * half) < half else n + lane for lane in range(n)]
        for i in (i for i in range(n) if not i & half):
            pair = held[i], held[i + half]
            for place, chosen in ((i, first), (i + half, second)):
                mixed = tir.shuffle(pair, chosen)
                named, held[place] = tir.bind(f"t{half}_{place}", mixed, dtype, n)
                written.append(named)
        half *= 2
    return written, held


def reduced(value: tir.Expr, lanes: int, combine: Combine) -> tir.Expr:
    """All lanes of a vector combined into one value, by halves."""
    while lanes > 1:
        lanes //= 2
        low = tir.shuffle([value], range(lanes))
        high = tir.shuffle([value], range(lanes, 2 * lanes))
        value = combine(low, high)
    return value
