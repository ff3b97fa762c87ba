"""Four bytes per lane in 32 bits: what a dot product of four bytes reads."""

from __future__ import annotations

from collections.abc import Sequence

from millifit.targets.schedules import tir

QUAD = 4


def shifted(taps: Sequence[tir.Expr], lanes: int) -> tir.Expr:
    """Up to four bytes per lane in 32 bits, the first lowest."""
    value = None
    for tap, loaded in enumerate(taps):
        byte = tir.cast(loaded, "int32", lanes)
        byte = byte << tir.const(8 * tap, "int32", lanes) if tap else byte
        value = byte if value is None else value | byte
    return value


def interleaved(taps: Sequence[tir.Expr], lanes: int) -> tir.Expr:
    """The same; bytes without a tap hold any value, for weights of 0."""
    zipped = [lane for pair in range(lanes) for lane in (pair, lanes + pair)]
    first, second, third, fourth = (taps[min(tap, len(taps) - 1)] for tap in range(QUAD))
    low = tir.reinterpret(tir.shuffle([first, second], zipped), "uint16", lanes)
    high = tir.reinterpret(tir.shuffle([third, fourth], zipped), "uint16", lanes)
    return tir.reinterpret(tir.shuffle([low, high], zipped), "int32", lanes)
