"""Multiply-add, the innermost step: one float FMA, or the int8 dot product of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import tir
from millifit.targets.schedules.half import dot_bf16, dot_bf16_definitions, storage
from millifit.targets.schedules.tile import Step
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """How one step of a reduction is computed.

    `unit` neighbouring inputs are multiplied with the weights of one output channel and added to
    its accumulator. `activation` is the element type the activations must have in memory.
    """

    kind: Literal[
        "fma",
        "avx512_vnni",
        "avx_vnni",
        "avx2_pmaddwd",
        "avx2_pmaddubsw",
        "neon_smull",
        "neon_sdot",
        "neon_usdot",
        "neon_i8mm",
        "avx512_bf16",
        "widen",
    ]
    unit: int
    activation: str
    weight: str
    accumulator: str
    group: int = 1
    """Steps whose activations are loaded as one vector: where a multiply-add can take one lane of a
    register as its operand, that saves loads, and broadcasts that would take arithmetic units."""
    partial: str = ""
    """Element type of partial sums, where it is not that of the accumulator."""

    @property
    def weight_register(self) -> str:
        """Element type of the weights once loaded."""
        widened = {"avx2_pmaddwd": "int16", "widen": "int32"}
        return widened.get(self.kind, storage(self.weight))

    @property
    def step(self) -> Step:
        """What a tile must know of it."""
        two_instructions = self.kind in ("avx2_pmaddwd", "avx2_pmaddubsw", "neon_smull")
        return Step(
            temporaries=int(two_instructions),
            bits=16 if self.partial == "float16" else 32,
            group=self.group,
            paired=self.kind == "neon_i8mm",
        )

    @property
    def offset(self) -> int:
        """What is subtracted from uint8 activations where they are staged as `activation`.

        NEON multiplies signed by signed, so x - 128 is multiplied, and 128 times the sum of a
        channel's weights added to its bias.
        """
        return 128 if self.activation == "int8" else 0

    @property
    def definitions(self) -> str:
        """LLVM IR of what the multiply-add calls."""
        return dot_bf16_definitions() if self.kind == "avx512_bf16" else ""

    @property
    def broadcast(self) -> str:
        """Type of one step's activations as a scalar."""
        return {"fma": self.activation, "neon_smull": "int16"}.get(self.kind, "int32")


def dot_for(kernel: Kernel, target: Target) -> Dot:
    """The fastest exact step of the target for a kernel.

    ``pmaddubsw`` adds two u8 x s8 products in 16 bits: exact only where the weights have 7 bits
    (255 * 64 * 2 < 2^15), which is what the precision ``w7a8`` says.
    """
    if kernel.precision == "bf16":
        return Dot(
            kind="avx512_bf16",
            unit=2,
            activation="bfloat16",
            weight="bfloat16",
            accumulator="float32",
        )
    if kernel.precision == "fp16":
        return Dot(
            kind="fma",
            unit=1,
            activation="float16",
            weight="float16",
            accumulator="float32",
            group=8,
            partial="float16",
        )
    if kernel.precision == "fp32":
        group = 4 if target.triple.startswith("aarch64") else 1
        return Dot(
            kind="fma",
            unit=1,
            activation="float32",
            weight="float32",
            accumulator="float32",
            group=group,
        )
    kind = target.dot_product
    if kind in ("avx512_vnni", "avx_vnni"):
        return Dot(kind=kind, unit=4, activation="uint8", weight="int8", accumulator="int32")
    if kind == "avx2_pmaddwd":
        if kernel.precision == "w7a8":
            return Dot(
                kind="avx2_pmaddubsw",
                unit=4,
                activation="uint8",
                weight="int8",
                accumulator="int32",
            )
        return Dot(kind=kind, unit=2, activation="int16", weight="int8", accumulator="int32")
    if kind in ("neon_smull", "neon_sdot"):
        unit, group = (4, 4) if kind == "neon_sdot" else (2, 1)
        return Dot(
            kind=kind,
            unit=unit,
            activation="int8",
            weight="int8",
            accumulator="int32",
            group=group,
        )
    if kind == "neon_i8mm":
        return Dot(
            kind=kind, unit=8, activation="uint8", weight="int8", accumulator="int32", group=2
        )
    return Dot(kind="widen", unit=1, activation="uint8", weight="int8", accumulator="int32")


def stage(dot: Dot, value: tir.Expr, lanes: int) -> tir.Expr:
    """Activations as loaded from the map, in the type the multiply-add reads."""
    if dot.offset:
        return tir.reinterpret(flipped(dot, value, lanes), dot.activation, lanes)
    return tir.cast(value, storage(dot.activation), lanes)


def flipped(dot: Dot, value: tir.Expr, lanes: int) -> tir.Expr:
    """uint8 activations as the bits of `activation`."""
    return value ^ tir.const(dot.offset, "uint8", lanes) if dot.offset else value


def load_weights(dot: Dot, buffer: tir.Buffer, base: tir.Expr, lanes: int) -> tir.Expr:
    """`lanes` output channels' weights of one step, as the multiply-add wants them."""
    weights = tir.load(buffer, base, lanes * dot.unit)
    if dot.weight_register == storage(dot.weight):
        return weights
    return tir.cast(weights, dot.weight_register, lanes * dot.unit)


def load_activation(dot: Dot, buffer: tir.Buffer, base: tir.Expr, steps: int) -> tir.Expr:
    """Activations of `steps` steps, each a scalar to broadcast: a float, or `unit` integers."""
    value = tir.load(buffer, base, dot.unit * steps)
    if dot.kind == "fma":
        return value
    if dot.kind == "widen":
        return tir.cast(value, "int32", steps)
    return tir.reinterpret(value, dot.broadcast, steps)


def quad_dot(target: Target) -> Dot | None:
    """The step that multiplies 4 neighbouring bytes in every lane; None where there is none."""
    kind: Literal["avx512_vnni", "avx_vnni", "neon_sdot", "neon_usdot"]
    match target.dot_product:
        case "avx512_vnni" | "avx_vnni" | "neon_sdot":
            kind = target.dot_product
        case "neon_i8mm":
            kind = "neon_usdot"
        case _:
            return None
    activation = "int8" if kind == "neon_sdot" else "uint8"
    return Dot(kind=kind, unit=4, activation=activation, weight="int8", accumulator="int32")


def multiply_add(
    dot: Dot, accumulator: tir.Expr, activation: tir.Expr, weights: tir.Expr, lanes: int
) -> tir.Expr:
    """``accumulator + activation * weights`` for `lanes` output channels."""
    return add_products(dot, accumulator, tir.splat(activation, lanes), weights, lanes)


def add_products(
    dot: Dot, accumulator: tir.Expr, spread: tir.Expr, weights: tir.Expr, lanes: int
) -> tir.Expr:
    """The same with activations of its own in every lane."""
    if dot.kind == "avx512_bf16":
        pairs = tir.reinterpret(spread, "uint16", lanes * 2)
        return dot_bf16(accumulator, pairs, weights, lanes)
    if dot.kind in ("fma", "widen"):
        return accumulator + spread * weights
    bits = lanes * 32
    if dot.kind in ("neon_smull", "neon_sdot", "neon_usdot"):
        bytes_ = tir.reinterpret(spread, dot.activation, lanes * dot.unit)
        return _neon(dot, accumulator, bytes_, weights)
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
        name = {
            128: "llvm.x86.ssse3.pmadd.ub.sw.128",
            256: "llvm.x86.avx2.pmadd.ub.sw",
            512: "llvm.x86.avx512.pmaddubs.w.512",
        }[bits]
        pairs = tir.llvm(
            name, "int16", lanes * 2, tir.reinterpret(spread, "uint8", lanes * 4), weights
        )
        return accumulator + _add_pairs(pairs, tir.const(1, "int16", lanes * 2), lanes)
    return accumulator + _add_pairs(tir.reinterpret(spread, "int16", lanes * 2), weights, lanes)


def _add_pairs(left: tir.Expr, right: tir.Expr, lanes: int) -> tir.Expr:
    name = {
        4: "llvm.x86.sse2.pmadd.wd",
        8: "llvm.x86.avx2.pmadd.wd",
        16: "llvm.x86.avx512.pmaddw.d.512",
    }[lanes]
    return tir.llvm(name, "int32", lanes, left, right)


def _neon(dot: Dot, accumulator: tir.Expr, activation: tir.Expr, weights: tir.Expr) -> tir.Expr:
    """4 channels: ``sdot`` of 4 inputs each; or the products of 2 (``smull``), added in pairs.

    Of ``smull``'s products, two of which would not fit 16 bits, each pair is added to the
    accumulator at once (``sadalp``). That is exact for all weights and takes no longer than
    ``smlal`` where a core multiplies and adds side by side.
    """
    if dot.kind == "neon_sdot":  # the lane of a register must be the last operand
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return tir.llvm(name, "int32", 4, accumulator, weights, activation)
    if dot.kind == "neon_usdot":
        name = "llvm.aarch64.neon.usdot.v4i32.v16i8"
        return tir.llvm(name, "int32", 4, accumulator, activation, weights)
    products = tir.llvm("llvm.aarch64.neon.smull.v8i16", "int16", 8, weights, activation)
    return accumulator + tir.llvm("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32", 4, products)


def matrix_multiply_add(
    accumulator: tir.Expr, activations: tir.Expr, weights: tir.Expr
) -> tir.Expr:
    """``usmmla``: 8 inputs of 2 positions times those of 2 channels, ``[position][channel]``."""
    name = "llvm.aarch64.neon.usmmla.v4i32.v16i8"
    return tir.llvm(name, "int32", 4, accumulator, activations, weights)
