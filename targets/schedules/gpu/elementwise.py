"""Elementwise operators and conversions on a GPU: a thread per vector of neighbours."""

from __future__ import annotations

import math

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import tir
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.elementwise import computed, planned
from millifit.targets.schedules.gpu.launch import each, unravel
from millifit.targets.schedules.gpu.memory import in_float32, memory
from millifit.targets.target import Gpu

LANES = 4
"""Elements of a vector: what every GPU here loads and stores at once in float32."""


def elementwise(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a BINARY, UNARY or CONVERSIONS kernel (see `schedules.elementwise`)."""
    plan = planned(kernel)
    held = memory(kernel, gpu, plan.operands)
    *outer, inner = plan.axes
    lanes = LANES if inner.extent % LANES == 0 else 1
    if gpu.api == "cuda" and kernel.op in ("min", "max"):
        lanes = 1  # their selection for NaN is none that TVM's generator can write for vectors
    extents = [*(axis.extent for axis in outer), inner.extent // lanes]

    def vector(i: tir.Expr) -> list[tir.Statement]:
        places = unravel(i, extents)
        places[-1] = places[-1] * lanes
        loaded = []
        for operand, name in enumerate(plan.read):
            steps = [axis.steps[operand] for axis in plan.axes]
            at = sum((p * n for p, n in zip(places, steps, strict=True) if n), tir.const(0))
            width = lanes if steps[-1] else 1
            loaded.append(tir.splat(held.read(name, at, width), lanes // width))
        value = computed(in_float32(kernel), plan.read, loaded, held.views["scalars"], lanes)
        return [held.write("output", i * lanes, value, lanes)]

    return KernelCode(
        function=held.function(each(gpu, math.prod(extents), vector)),
        operands=tuple(plan.operands.values()), pack=plan.pack,
    )  # fmt: skip
