"""Which algorithm a convolution uses: direct, or Winograd's with a tile of 2x2 or 4x4 outputs."""

from __future__ import annotations

import math
from typing import Literal, cast

from millifit.targets.kernel import Choice, Kernel
from millifit.targets.schedules import winograd_plan
from millifit.targets.schedules.choice import choice_of, decided
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.contraction import contraction, contraction_candidates, shape_of
from millifit.targets.schedules.contraction_plan import Shape
from millifit.targets.schedules.winograd import winograd
from millifit.targets.target import Target

Algorithm = Literal["direct", "winograd2", "winograd4"]

_OUTPUTS: dict[Algorithm, int] = {"winograd2": 2, "winograd4": 4}
# Instructions to transform one vector of channels of a tile, inputs and outputs together.
_TRANSFORM = {2: 150, 4: 400}
# Bytes of weights that arrive in the time of one multiply-add instruction, where the second-level
# cache does not hold them, and where no cache does.
_CACHE_RATE, _MEMORY_RATE = 8, 4
# F(4x4) needs weights 2.25 times as large as F(2x2): it has to be worth that much.
_WORTH = 0.85


def conv2d(kernel: Kernel, target: Target) -> KernelCode:
    """Code and operands of a conv2d kernel, by the algorithm estimated to be the fastest.

    Tuning may choose the ``algorithm``.
    """
    algorithm = _algorithm(kernel, target)
    if algorithm == "direct":
        return contraction(kernel, target)
    parallel = target.threads > 1 and shape_of(kernel).macs >= winograd_plan.PARALLEL_MACS
    return winograd(
        winograd_plan.plan(
            kernel, shape_of(kernel), target, outputs=_OUTPUTS[algorithm], parallel=parallel
        )
    )


def conv2d_candidates(kernel: Kernel, target: Target) -> tuple[Choice, ...]:
    """Choices worth measuring besides the rule's own: the other algorithms, then direct tiles."""
    rule = kernel.with_choice(())
    picked = _algorithm(rule, target)
    others = [a for a in _possible(rule, target) if a != picked]
    found = [choice_of(algorithm=algorithm) for algorithm in others]
    if picked == "direct":
        found += contraction_candidates(rule, target)
    return tuple(found)


def _algorithm(kernel: Kernel, target: Target) -> Algorithm:
    possible = _possible(kernel, target)
    shape = shape_of(kernel)
    costs = {algorithm: _cost(shape, algorithm, target) for algorithm in possible}
    best = min(possible, key=lambda algorithm: costs[algorithm])
    if best == "winograd4" and costs[best] > _WORTH * costs["winograd2"]:
        best = "winograd2"
    chosen: str = decided(kernel, "algorithm", str(best), possible)
    return cast("Algorithm", chosen)


def _possible(kernel: Kernel, target: Target) -> tuple[Algorithm, ...]:
    shape = shape_of(kernel)
    if not winograd_plan.applies(kernel, shape):
        return ("direct",)
    return (
        "direct",
        *(a for a, m in _OUTPUTS.items() if winograd_plan.fits(shape, target, outputs=m)),
    )


def _cost(shape: Shape, algorithm: Algorithm, target: Target) -> float:
    """Estimated instructions of the innermost code, multiply-adds of whole vectors."""
    outputs = math.ceil(shape.outputs / target.fp32_lanes)
    if algorithm == "direct":
        products = shape.out_height * shape.out_width * 9 * shape.inputs * outputs
        return products + _waiting(9 * shape.inputs * shape.outputs * 4, target)
    m = _OUTPUTS[algorithm]
    tiles = math.ceil(shape.out_height / m) * math.ceil(shape.out_width / m)
    places = (m + 2) ** 2
    inputs = math.ceil(shape.inputs / target.fp32_lanes)
    transforms = tiles * (inputs + outputs) * _TRANSFORM[m] / 2
    products = tiles * places * shape.inputs * outputs
    return transforms + products + _waiting(places * shape.inputs * shape.outputs * 4, target)


def _waiting(weight_bytes: int, target: Target) -> float:
    """What it costs that weights have to be fetched, once, at batch 1."""
    if weight_bytes <= target.l2_bytes // 2:
        return 0.0
    cached = weight_bytes <= max(target.l2_bytes, target.l3_bytes)
    return weight_bytes / (_CACHE_RATE if cached else _MEMORY_RATE)
