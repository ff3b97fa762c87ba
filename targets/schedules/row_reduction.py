"""Reductions along a row: several vectors side by side, then the lanes of one."""

from __future__ import annotations

from collections.abc import Callable

from millifit.targets.schedules import tir
from millifit.targets.schedules.lanes import Combine, reduced

# Vectors that are reduced side by side, so that one need not wait for the last.
_CHAINS = 4


def reduce_row(
    count: int,
    load: Callable[[tir.Expr, int], tuple[list[tir.Statement], tir.Expr]],
    combine: Combine,
    start: float,
    *,
    lanes: int,
    name: str,
) -> tuple[list[tir.Statement], tir.Expr]:
    """Combine ``load(offset, lanes)`` over `count` neighbours: the code, and the value, float32.

    `load` may also write what it loads somewhere. `start` is the neutral element of `combine`.
    """
    whole, written = count // lanes, []
    chains = max(1, min(_CHAINS, whole))
    allocation, totals = tir.scratch(f"{name}s", chains * lanes, "float32", registers=True)

    def take(chain: int, at: tir.Expr) -> list[tir.Statement]:
        ahead, value = load(at, lanes)
        so_far = tir.load(totals, chain * lanes, lanes)
        return [*ahead, tir.store(totals, chain * lanes, combine(so_far, value), lanes)]

    start_of = tir.const(start, "float32", lanes)
    written.append(allocation)
    written += [tir.store(totals, chain * lanes, start_of, lanes) for chain in range(chains)]
    written += tir.loop(
        whole // chains,
        lambda v: [
            part
            for chain in range(chains)
            for part in take(chain, v * (chains * lanes) + chain * lanes)
        ],
        name=f"{name}_v",
    )
    for chain in range(whole % chains):
        written += take(chain, tir.const((whole // chains * chains + chain) * lanes))
    total = tir.load(totals, tir.const(0), lanes)
    for chain in range(1, chains):
        total = combine(total, tir.load(totals, chain * lanes, lanes))
    named, total = tir.bind(f"{name}_vector", total, "float32", lanes)
    written.append(named)
    result = reduced(total, lanes, combine)
    at, width = whole * lanes, lanes
    while at < count:
        while width > count - at:
            width //= 2
        ahead, value = load(tir.const(at), width)
        named, value = tir.bind(f"{name}_rest{at}", value, "float32", width)
        written += [*ahead, named]
        result = combine(result, reduced(value, width, combine))
        at += width
    named, result = tir.bind(name, result, "float32")
    return [*written, named], result
