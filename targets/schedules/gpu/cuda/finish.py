"""From a few neighbouring sums to outputs in memory: bias, scale, activation, residual, rounding.

Neighbours are read and written as one piece, and computed one by one: a GPU's vectors are its
threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, half, tir
from millifit.targets.schedules.gpu.cuda.device_code import read, write
from millifit.targets.schedules.gpu.launch import registers
from millifit.targets.schedules.gpu.memory import Memory

_MOST_BYTES = 16


def neighbours(kernel: Kernel, channels: int) -> int:
    """How many of `channels` neighbouring outputs a thread finishes at a time, at most 8."""
    size = np.dtype(kernel.output.dtype).itemsize
    return math.gcd(channels, min(8, _MOST_BYTES // size))


def finish(
    kernel: Kernel,
    memory: Memory,
    sum_of: Callable[[int], tir.Expr],
    *,
    channel: tir.Expr,
    out: tir.Expr,
    lanes: int,
) -> list[tir.Statement]:
    """Write `lanes` outputs from `out` on; `channel` is their place in the per-channel operands."""
    written: list[tir.Statement] = []

    def own(name: str, at: tir.Expr) -> tir.Buffer:
        source = memory.views[name]
        allocation, held = registers(f"own_{name}", lanes, source.dtype)
        size = lanes * np.dtype(source.dtype).itemsize
        written.extend([allocation, read(held, source, at, size)])
        return held

    bias = own("bias", channel)
    multiplier = own("multiplier", channel) if kernel.integer else None
    residual = own("residual", out) if "add" in kernel.epilogue else None
    output = memory.views["output"]
    allocation, made = registers("made", lanes, output.dtype)
    written.append(allocation)
    for lane in range(lanes):
        value = epilogue.finish(
            sum_of(lane) + tir.load(bias, lane),
            kernel=kernel,
            multiplier=None if multiplier is None else tir.load(multiplier, lane),
            residual=None if residual is None else _residual(kernel, tir.load(residual, lane)),
            scalars=memory.views["scalars"],
            lanes=1,
        )
        written.append(tir.store(made, lane, value))
    written.append(write(output, out, made, lanes * np.dtype(output.dtype).itemsize))
    return written


def _residual(kernel: Kernel, value: tir.Expr) -> tir.Expr:
    """What is added, in float32 or as the byte it is."""
    dtype = kernel.inputs[1].dtype
    return value if dtype == "uint8" else half.widen(value, dtype, 1)
