"""Softmax along the last axis: the largest value subtracted, the exponentials kept in vectors."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, functions, tir
from millifit.targets.schedules.code import KernelCode, signature
from millifit.targets.schedules.row_reduction import reduce_row
from millifit.targets.target import Target

_PARALLEL_ELEMENTS = 1 << 16


def exponentials(
    source: tir.Buffer,
    start: tir.Expr,
    count: int,
    lanes: int,
    into: tir.Buffer,
    at: tir.Expr,
) -> tuple[list[tir.Statement], tir.Expr]:
    """Write ``e^(x - max x)`` of `count` neighbours; the code, and 1 over their sum.

    `source` and `into` may be the same memory.
    """

    def value(offset: tir.Expr, width: int) -> tuple[list[tir.Statement], tir.Expr]:
        return [], tir.load(source, start + offset, width)

    written, largest = reduce_row(count, value, tirx.max, float("-inf"), lanes=lanes, name="most")

    def exponential(offset: tir.Expr, width: int) -> tuple[list[tir.Statement], tir.Expr]:
        shifted = tir.load(source, start + offset, width) - tir.splat(largest, width)
        named, result = tir.bind("e", functions.exp(shifted, width), "float32", width)
        return [named, tir.store(into, at + offset, result, width)], result

    summing, total = reduce_row(
        count, exponential, lambda a, b: a + b, 0.0, lanes=lanes, name="total"
    )
    named, inverse = tir.bind("inverse", tir.const(1.0, "float32") / total, "float32")
    return [*written, *summing, named], inverse


def softmax(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a softmax kernel over the last axis; float32 in, float32 or uint8 out."""
    count = kernel.output.shape[-1]
    rows = kernel.output.elements // count
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    views = parameters.views
    lanes = target.fp32_lanes
    quantized = kernel.output.dtype == "uint8"

    def row(r: tir.Expr) -> list[tir.Statement]:
        start = r * count
        into, at, written = views["output"], start, []
        if quantized:
            allocation, into = tir.scratch("exponentials", count, "float32")
            at, written = tir.const(0), [allocation]
        code, inverse = exponentials(views["input"], start, count, lanes, into, at)

        def scale(offset: tir.Expr, width: int) -> list[tir.Statement]:
            value = tir.load(into, at + offset, width) * tir.splat(inverse, width)
            if quantized:
                value = epilogue.quantize(value, views["scalars"], width)
            return [tir.store(views["output"], start + offset, value, width)]

        return [*written, *code, *tir.vectors(count, scale, widest=lanes)]

    body = _rows(rows, row, parallel=parallel(kernel, target))
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )


def parallel(kernel: Kernel, target: Target) -> bool:
    """Whether the rows of a kernel are worth several threads."""
    return target.threads > 1 and kernel.output.elements >= _PARALLEL_ELEMENTS


def _rows(
    rows: int, row: Callable[[tir.Expr], list[tir.Statement]], *, parallel: bool
) -> list[tir.Statement]:
    return tir.loop(rows, row, name="row", parallel=parallel and rows > 1)
