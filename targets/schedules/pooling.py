"""Pooling over windows and over whole maps, channels across the vector lanes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import KernelCode, number, pads_of, pair, signature
from millifit.targets.target import Target

_PARALLEL_ELEMENTS = 1 << 17


def pooling(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a max_pool, avg_pool or global_avg_pool kernel; float32 or uint8 in and out.

    Averages of uint8 values are sums of integers, scaled once.
    """
    _, height, width, channels = kernel.inputs[0].shape
    size = pair(kernel, "kernel", (height, width))
    strides = pair(kernel, "strides", (1, 1))
    top, left, *_ = pads_of(kernel)
    include_padding = bool(number(kernel, "count_include_pad", 0))
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    views = parameters.views
    # global_avg_pool may write [N, C] or [N, 1, 1, C]: one position either way
    rows, columns = kernel.output.shape[1:3] if len(kernel.output.shape) == 4 else (1, 1)

    def position(y: tir.Expr, x: tir.Expr) -> list[tir.Statement]:
        written, ranges = [], []
        for name, at, count, extent in (
            ("y", y * strides[0] - top, size[0], height),
            ("x", x * strides[1] - left, size[1], width),
        ):
            low, first = tir.bind(f"{name}_low", tirx.max(at, tir.const(0)), "int32")
            high, last = tir.bind(f"{name}_high", tirx.min(at + count, tir.const(extent)), "int32")
            written += [low, high]
            ranges.append((first, last - first))
        covered = tir.const(math.prod(size)) if include_padding else ranges[0][1] * ranges[1][1]

        def channel(c: tir.Expr, lanes: int) -> list[tir.Statement]:
            return _window(
                kernel, views, ranges, covered, (y * columns + x) * channels + c, c, lanes
            )

        return [*written, *tir.vectors(channels, channel, widest=target.fp32_lanes)]

    parallel = target.threads > 1 and kernel.inputs[0].elements >= _PARALLEL_ELEMENTS
    body = tir.loop(
        rows, lambda y: tir.loop(columns, lambda x: position(y, x), name="ox"), name="oy",
        parallel=parallel,
    )  # fmt: skip
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )


def _window(
    kernel: Kernel,
    views: Mapping[str, tir.Buffer],
    ranges: list[tuple[tir.Expr, tir.Expr]],
    covered: tir.Expr,
    out: tir.Expr,
    c: tir.Expr,
    lanes: int,
) -> list[tir.Statement]:
    """Reduce one window for `lanes` channels and store the result."""
    _, _, width, channels = kernel.inputs[0].shape
    source, scalars = views["input"], views["scalars"]
    dtype = kernel.inputs[0].dtype
    maximum = kernel.op == "max_pool"
    kept = dtype if maximum or dtype == "float32" else "int32"
    lowest = 0 if dtype == "uint8" else -math.inf
    allocation, total = tir.scratch("total", lanes, kept, registers=True)
    start = tir.const(lowest if maximum else 0, kept, lanes)

    def element(y: tir.Expr, x: tir.Expr) -> list[tir.Statement]:
        value = tir.load(source, (y * width + x) * channels + c, lanes)
        so_far = tir.load(total, tir.const(0), lanes)
        if maximum:
            joined = tirx.max(so_far, value)
        else:
            joined = so_far + (value if kept == dtype else tir.cast(value, kept, lanes))
        return [tir.store(total, tir.const(0), joined, lanes)]

    (y0, y_count), (x0, x_count) = ranges
    reduced = tir.loop(
        y_count,
        lambda y: tir.loop(x_count, lambda x: element(y, x), name="wx", start=x0),
        name="wy",
        start=y0,
    )
    value = tir.load(total, tir.const(0), lanes)
    if not maximum:
        count = tir.splat(covered.astype("float32"), lanes)
        if dtype == "uint8":
            valid = (y_count * x_count).astype("float32")
            offset = epilogue.scalar(scalars, "input_zero_point") * valid
            value = tir.cast(value, "float32", lanes) - tir.splat(offset, lanes)
            value = value * epilogue.splat_scalar(scalars, "input_scale", lanes)
        value = value / count
        if kernel.output.dtype == "uint8":
            value = epilogue.quantize(value, scalars, lanes)
    return [
        allocation,
        tir.store(total, tir.const(0), start, lanes),
        *reduced,
        tir.store(views["output"], out, value, lanes),
    ]
