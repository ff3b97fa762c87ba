"""Pooling and resizing on a GPU: one thread per vector of an output position's channels."""

from __future__ import annotations

import math

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules import resize as resizing
from millifit.targets.schedules.code import KernelCode, number, pads_of, pair
from millifit.targets.schedules.gpu.copies import SCALARS, with_scalars
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.launch import each, registers, unravel
from millifit.targets.schedules.gpu.memory import memory
from millifit.targets.target import Gpu


def _lanes(channels: int) -> int:
    return LANES if channels % LANES == 0 else 1


def pooling(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a max_pool or avg_pool kernel (see `schedules.pooling`).

    A thread's window is cut to the map first, so its loops meet no padding.
    """
    held = memory(kernel, gpu, SCALARS)
    size, strides = pair(kernel, "kernel"), pair(kernel, "strides")
    dilations, pads = pair(kernel, "dilations", (1, 1)), pads_of(kernel)
    _, height, width, channels = kernel.inputs[0].shape
    lanes, maximum = _lanes(channels), kernel.op == "max_pool"
    source = kernel.inputs[0].dtype
    integer = source == "uint8"
    sums = "uint8" if integer and maximum else "int32" if integer else "float32"
    neutral = 0.0 if integer or not maximum else -math.inf

    def bounds(
        axis: int, place: tir.Expr, extent: int
    ) -> tuple[tir.Expr, tir.Expr, tir.Expr, tir.Expr]:
        """First input, first tap inside, the tap behind the last, and how many are counted."""
        start, step = place * strides[axis] - pads[axis], dilations[axis]

        def taps_below(limit: int) -> tir.Expr:
            reach = tirx.floordiv(limit - start + step - 1, step)
            return tir.clamp(reach, tir.const(0), tir.const(size[axis]))

        low, high = taps_below(0), taps_below(extent)
        counted = high - low
        if number(kernel, "count_include_pad", 0):
            counted = taps_below(extent + pads[2 + axis])
        return start, low, high, counted

    def position(i: tir.Expr) -> list[tir.Statement]:
        n, y, x, c = unravel(i * lanes, kernel.output.shape)
        top, first_row, last_row, rows = bounds(0, y, height)
        left, first_column, last_column, columns = bounds(1, x, width)
        allocation, total = registers("total", 1, sums, lanes)
        zero = tir.const(0)

        def tap(ky: tir.Expr, kx: tir.Expr) -> list[tir.Statement]:
            row, column = top + ky * dilations[0], left + kx * dilations[1]
            at = ((n * height + row) * width + column) * channels + c
            value = held.read("input", at, lanes)
            value = tir.cast(value, "int32", lanes) if sums == "int32" else value
            so_far = tir.load(total, zero)
            joined = tirx.max(so_far, value) if maximum else so_far + value
            return [tir.store(total, zero, joined)]

        def window_row(ky: tir.Expr) -> list[tir.Statement]:
            return tir.loop(
                last_column - first_column, lambda kx: tap(ky, kx), name="kx", start=first_column
            )

        read = (last_row - first_row) * (last_column - first_column)
        counted = tirx.max(rows * columns, tir.const(1))
        value = _pooled(kernel, held.views["scalars"], tir.load(total, zero), read, counted, lanes)
        return [
            allocation, tir.store(total, zero, tir.const(neutral, sums, lanes)),
            *tir.loop(last_row - first_row, window_row, name="ky", start=first_row),
            held.write("output", i * lanes, value, lanes),
        ]  # fmt: skip

    return with_scalars(held, each(gpu, kernel.output.elements // lanes, position))


def _pooled(
    kernel: Kernel,
    scalars: tir.Buffer,
    total: tir.Expr,
    read: tir.Expr,
    counted: tir.Expr,
    lanes: int,
) -> tir.Expr:
    """From a maximum, or the sum of `read` values of which `counted` count, to the output."""
    integer, value = kernel.inputs[0].dtype == "uint8", total
    if kernel.op == "max_pool" and integer:
        return value
    if kernel.op == "avg_pool":
        if integer:
            offset = epilogue.scalar(scalars, "input_zero_point") * read.astype("float32")
            value = tir.cast(value, "float32", lanes) - tir.splat(offset, lanes)
            value = value * epilogue.splat_scalar(scalars, "input_scale", lanes)
        value = value / tir.splat(counted.astype("float32"), lanes)
    for step in kernel.epilogue:
        value = epilogue.activate(value, step, scalars, lanes)
    if kernel.output.dtype == "uint8":
        return epilogue.quantize(value, scalars, lanes)
    return value


def resize(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a resize kernel (see `schedules.resize`): all its taps at once."""
    operands, taps = resizing.operands_of(kernel), pair(kernel, "taps")
    held = memory(kernel, gpu, operands)
    _, height, width, channels = kernel.inputs[0].shape
    lanes, quantized = _lanes(channels), kernel.inputs[0].dtype == "uint8"
    copies = taps == (1, 1) and kernel.inputs[0].dtype == kernel.output.dtype
    copies = copies and not kernel.epilogue
    scalars = held.views["scalars"]

    def looked_up(
        axis: str, place: tir.Expr, count: int, extent: int
    ) -> tuple[list[tir.Statement], list[tir.Expr], list[tir.Expr]]:
        """Code, indices and weights; an index is limited, so that nothing else is ever read."""
        written, indices, weights = [], [], []
        for tap in range(count):
            given = held.read(f"{axis}_index", place * count + tap)
            inside = tir.clamp(given, tir.const(0), tir.const(extent - 1))
            named, index = tir.bind(f"{axis}{tap}", inside, "int32")
            written.append(named)
            indices.append(index)
            weights.append(held.read(f"{axis}_weight", place * count + tap))
        return written, indices, weights

    def position(i: tir.Expr) -> list[tir.Statement]:
        n, y, x, c = unravel(i * lanes, kernel.output.shape)
        written, rows, row_weights = looked_up("row", y, taps[0], height)
        more, columns, column_weights = looked_up("column", x, taps[1], width)
        value = None
        for row, row_weight in zip(rows, row_weights, strict=True):
            for column, column_weight in zip(columns, column_weights, strict=True):
                at = ((n * height + row) * width + column) * channels + c
                term = held.read("input", at, lanes)
                if quantized and not copies:
                    term = epilogue.dequantize(term, "input", scalars, lanes)
                if taps != (1, 1):
                    term = term * tir.splat(row_weight * column_weight, lanes)
                value = term if value is None else value + term
        if not copies:
            for step in kernel.epilogue:
                value = epilogue.activate(value, step, scalars, lanes)
            if kernel.output.dtype == "uint8":
                value = epilogue.quantize(value, scalars, lanes)
        return [*written, *more, held.write("output", i * lanes, value, lanes)]

    return KernelCode(
        function=held.function(each(gpu, kernel.output.elements // lanes, position)),
        operands=tuple(operands.values()), pack=resizing.pack,
    )  # fmt: skip
