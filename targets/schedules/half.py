"""16-bit floats: how they lie in memory, and their conversions to float32 and back.

TVM computes with fp16 where the target does; bf16 it would rewrite to float32 altogether. So the
code sees bf16 as 16-bit integers: the upper half of a float32. Their dot product is an instruction
that LLVM types by its own bfloat, which TVM cannot write: it is imported as a few lines of LLVM IR.
"""

from __future__ import annotations

from millifit.targets.schedules import tir

_WIDTHS = (4, 8, 16)


def storage(dtype: str) -> str:
    """Element type by which the code sees memory of `dtype`."""
    return "uint16" if dtype == "bfloat16" else dtype


def widen(value: tir.Expr, dtype: str, lanes: int) -> tir.Expr:
    """Values loaded from memory of `dtype` as float32; exact."""
    if dtype == "float32":
        return value
    if dtype == "bfloat16":
        bits = tir.cast(value, "uint32", lanes) << tir.const(16, "uint32", lanes)
        return tir.reinterpret(bits, "float32", lanes)
    return tir.cast(value, "float32", lanes)


def narrow(value: tir.Expr, dtype: str, lanes: int) -> tir.Expr:
    """float32 values as memory of `dtype` holds them: the nearest, halves to even."""
    if dtype == "float32":
        return value
    if dtype != "bfloat16":
        return tir.cast(value, dtype, lanes)

    def const(number: int) -> tir.Expr:
        return tir.const(number, "uint32", lanes)

    bits = tir.reinterpret(value, "uint32", lanes)
    odd = (bits >> const(16)) & const(1)
    return tir.cast((bits + const(0x7FFF) + odd) >> const(16), "uint16", lanes)


def dot_bf16(accumulator: tir.Expr, first: tir.Expr, second: tir.Expr, lanes: int) -> tir.Expr:
    """float32 sums plus the products of neighbouring pairs, both operands ``uint16[2 * lanes]``.

    ``vdpbf16ps`` rounds each sum to the nearest and treats denormal numbers as zero.
    """
    pairs = (tir.reinterpret(operand, "int32", lanes) for operand in (first, second))
    return tir.external(f"millifit_dot_bf16_{lanes}", "float32", lanes, accumulator, *pairs)


def dot_bf16_definitions() -> str:
    """LLVM IR of the functions that `dot_bf16` calls."""
    return "".join(_definition(lanes) for lanes in _WIDTHS)


def _definition(lanes: int) -> str:
    floats, integers, halves = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{2 * lanes} x bfloat>"
    dot = f"@llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    return f"""
declare {floats} {dot}({floats}, {halves}, {halves})
define linkonce_odr {floats} @millifit_dot_bf16_{lanes}({floats} %c, {integers} %a, {integers} %b)
    alwaysinline {{
  %x = bitcast {integers} %a to {halves}
  %y = bitcast {integers} %b to {halves}
  %sum = call {floats} {dot}({floats} %c, {halves} %x, {halves} %y)
  ret {floats} %sum
}}
"""
