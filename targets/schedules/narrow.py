"""Real values to bytes, four vectors at a time: conversion, packing and limits in few instructions.

Rounding, adding the zero point, clamping and storing costs seven instructions a vector one by one.
x86 packs with saturation: four vectors of 32-bit integers become one of bytes, so that zero point
and limits cost a quarter each. In layers with few inputs the epilogue is most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from millifit.targets.schedules import tir
from millifit.targets.schedules.tir import Expr
from millifit.targets.target import Target

TOGETHER = 4

# Above any value that is not saturated, and still convertible: what is larger becomes negative.
_MOST = 65536.0
_CURRENT_ROUNDING = 4  # of AVX-512's conversions: halves to even, as set


def packs(target: Target) -> bool:
    """Whether the target packs with saturation within groups of 128 bits, as x86 does."""
    return target.triple.startswith("x86_64")


def narrowed(
    values: Sequence[Expr], *, zero_point: Expr | None, low: Expr, high: Expr, lanes: int
) -> Expr:
    """Up to four float32 vectors, rounded and limited, as one vector of bytes.

    `zero_point`, `low` and `high` are float32 scalars that hold integers of 0..255; the zero point
    is added after rounding. What returns is 32-bit integers, four bytes each, in an order that
    `stored_lanes` undoes.
    """
    whole = [_integers(value, lanes) for value in values]
    whole += [whole[-1]] * (TOGETHER - len(whole))
    words = [_pack("packssdw", "int16", lanes, *whole[i : i + 2]) for i in (0, 2)]
    if zero_point is not None:
        shift = tir.splat(zero_point.astype("int16"), 2 * lanes)
        name = f"llvm.sadd.sat.v{2 * lanes}i16"
        words = [tir.llvm(name, "int16", 2 * lanes, word, shift) for word in words]
    packed = _pack("packuswb", "uint8", lanes, *words)
    limits = [tir.splat(limit.astype("uint8"), 4 * lanes) for limit in (low, high)]
    return tir.reinterpret(tir.clamp(packed, *limits), "int32", lanes)


def stored_lanes(first: int, count: int, lanes: int) -> list[int]:
    """Which 32-bit lanes of what `narrowed` returns hold its vectors first .. first + count - 1."""
    per_vector = lanes // 4
    return [
        quarter * TOGETHER + vector
        for vector in range(first, first + count)
        for quarter in range(per_vector)
    ]


def _integers(value: Expr, lanes: int) -> Expr:
    """float32 to int32, halves to even, at most `_MOST`."""
    limited = tirx.min(value, tir.const(_MOST, "float32", lanes))
    if lanes == 16:
        nothing = tir.const(0, "int32", lanes)
        every_lane, rounding = tir.const(-1, "int16"), tir.const(_CURRENT_ROUNDING)
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        return tir.llvm(name, "int32", lanes, limited, nothing, every_lane, rounding)
    name = {8: "llvm.x86.avx.cvt.ps2dq.256", 4: "llvm.x86.sse2.cvtps2dq"}[lanes]
    return tir.llvm(name, "int32", lanes, limited)


def _pack(operation: str, dtype: str, lanes: int, left: Expr, right: Expr) -> Expr:
    """Two vectors into one of half as wide elements, 128 bits by 128 bits, saturated."""
    prefix, suffix = {16: ("avx512", ".512"), 8: ("avx2", ""), 4: ("sse2", ".128")}[lanes]
    wide = 2 * lanes if dtype == "int16" else 4 * lanes
    return tir.llvm(f"llvm.x86.{prefix}.{operation}{suffix}", dtype, wide, left, right)
