"""Multiply-add, the innermost step: one float FMA, or the int8 dot product of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import tir
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """How one step of a reduction is computed.

    `unit` neighbouring inputs are multiplied with the weights of one output channel and added to
    its accumulator. `activation` is the element type the activations must have in memory.
    """

    kind: Literal["fma", "avx512_vnni", "avx_vnni", "avx2_pmaddwd", "avx2_pmaddubsw", "widen"]
    unit: int
    activation: str
    weight: str
    accumulator: str

    @property
    def weight_register(self) -> str:
        """Element type of the weights once loaded."""
        return {"avx2_pmaddwd": "int16", "widen": "int32"}.get(self.kind, self.weight)

    @property
    def temporaries(self) -> int:
        """Registers for products that are added in a second instruction."""
        return 1 if self.kind in ("avx2_pmaddwd", "avx2_pmaddubsw") else 0

    @property
    def broadcast(self) -> str:
        """Type of one step's activations as a scalar."""
        return "float32" if self.kind == "fma" else "int32"


def dot_for(kernel: Kernel, target: Target) -> Dot:
    """The fastest exact step of the target for a kernel.

    ``pmaddubsw`` adds two u8 x s8 products in 16 bits: exact only where the weights have 7 bits
    (255 * 64 * 2 < 2^15), which the lowering states as the attribute ``weight_bits``.
    """
    if kernel.precision == "fp32":
        return Dot(
            kind="fma", unit=1, activation="float32", weight="float32", accumulator="float32"
        )
    kind = target.dot_product
    if kind in ("avx512_vnni", "avx_vnni"):
        return Dot(kind=kind, unit=4, activation="uint8", weight="int8", accumulator="int32")
    if kind == "avx2_pmaddwd":
        if dict(kernel.attributes).get("weight_bits") == 7:
            return Dot(
                kind="avx2_pmaddubsw",
                unit=4,
                activation="uint8",
                weight="int8",
                accumulator="int32",
            )
        return Dot(kind=kind, unit=2, activation="int16", weight="int8", accumulator="int32")
    return Dot(kind="widen", unit=1, activation="uint8", weight="int8", accumulator="int32")


def load_weights(dot: Dot, buffer: tir.Buffer, base: tir.Expr, lanes: int) -> tir.Expr:
    """`lanes` output channels' weights of one step, as the multiply-add wants them."""
    weights = tir.load(buffer, base, lanes * dot.unit)
    if dot.weight_register == dot.weight:
        return weights
    return tir.cast(weights, dot.weight_register, lanes * dot.unit)


def load_activation(dot: Dot, buffer: tir.Buffer, base: tir.Expr) -> tir.Expr:
    """One step's activations as a scalar to broadcast: a float, or `unit` integers in 32 bits."""
    value = tir.load(buffer, base, dot.unit)
    if dot.kind == "fma":
        return value
    if dot.kind == "widen":
        return value.astype("int32")
    return tir.reinterpret(value, "int32", 1)


def multiply_add(
    dot: Dot, accumulator: tir.Expr, activation: tir.Expr, weights: tir.Expr, lanes: int
) -> tir.Expr:
    """``accumulator + activation * weights`` for `lanes` output channels."""
    spread = tir.splat(activation, lanes)
    if dot.kind in ("fma", "widen"):
        return accumulator + spread * weights
    bits = lanes * 32
    if dot.kind in ("avx512_vnni", "avx_vnni"):
        return tir.llvm(
            f"llvm.x86.avx512.vpdpbusd.{bits}",
            "int32",
            lanes,
            accumulator,
            tir.reinterpret(spread, "uint8", lanes * 4),
            tir.reinterpret(weights, "int8", lanes * 4),
        )
    if dot.kind == "avx2_pmaddubsw":
        suffix = {128: "llvm.x86.ssse3.pmadd.ub.sw.128", 256: "llvm.x86.avx2.pmadd.ub.sw"}[bits]
        pairs = tir.llvm(
            suffix, "int16", lanes * 2, tir.reinterpret(spread, "uint8", lanes * 4), weights
        )
        return accumulator + _add_pairs(pairs, tir.const(1, "int16", lanes * 2), lanes)
    return accumulator + _add_pairs(tir.reinterpret(spread, "int16", lanes * 2), weights, lanes)


def _add_pairs(left: tir.Expr, right: tir.Expr, lanes: int) -> tir.Expr:
    name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd"}[lanes]
    return tir.llvm(name, "int32", lanes, left, right)
