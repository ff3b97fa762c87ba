"""From a layer's sums to its output: bias, epilogue and conversion, one vector at a time."""

from __future__ import annotations

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.launch import when
from millifit.targets.schedules.gpu.memory import Memory, in_float32


def finish(
    kernel: Kernel,
    held: Memory,
    total: tir.Expr,
    *,
    channel: tir.Expr,
    out: tir.Expr,
    left: tir.Expr | None,
    lanes: int = LANES,
) -> list[tir.Statement]:
    """Write `lanes` sums of neighbouring channels, from element `out` on.

    `channel` is the first one's place in the operands per channel. With `left`, only so many of
    them exist, and each is written on its own.
    """
    biased = total + held.read("bias", channel, lanes)
    dtype = "int32" if kernel.integer else "float32"
    named, value = tir.bind("biased", biased, dtype, lanes)
    if left is None:
        return [named, _written(kernel, held, value, channel, out, lanes)]
    written = [named]
    for lane in range(lanes):
        one = tir.shuffle([value], [lane]) if lanes > 1 else value
        written += when(left > lane, [_written(kernel, held, one, channel + lane, out + lane, 1)])
    return written


def _written(
    kernel: Kernel, held: Memory, value: tir.Expr, channel: tir.Expr, out: tir.Expr, lanes: int
) -> tir.Statement:
    multiplier = held.read("multiplier", channel, lanes) if kernel.integer else None
    residual = held.read("residual", out, lanes) if "add" in kernel.epilogue else None
    finished = epilogue.finish(
        value, kernel=in_float32(kernel), multiplier=multiplier, residual=residual,
        scalars=held.views["scalars"], lanes=lanes,
    )  # fmt: skip
    return held.write("output", out, finished, lanes)
