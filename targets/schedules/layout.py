"""Layout changes at the network's borders: channels first to channels last and back."""

from __future__ import annotations

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import KernelCode, signature
from millifit.targets.target import Target

_PARALLEL_ELEMENTS = 1 << 17


def layout(kernel: Kernel, target: Target) -> KernelCode:
    """Code of to_channels_last (N, C, H, W -> N, H, W, C) and to_channels_first, its inverse.

    A float32 input may be quantized on the way.
    """
    to_last = kernel.op == "to_channels_last"
    channels, height, width = (
        kernel.inputs[0].shape[1:]
        if to_last
        else (kernel.inputs[0].shape[3], *kernel.inputs[0].shape[1:3])
    )
    batch, pixels = kernel.inputs[0].shape[0], height * width
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    views = parameters.views

    def move(n: tir.Expr, pixel: tir.Expr, channel: tir.Expr) -> list[tir.Statement]:
        first = (n * channels + channel) * pixels + pixel
        last = (n * pixels + pixel) * channels + channel
        source, to = (first, last) if to_last else (last, first)
        value = tir.load(views["input"], source)
        if kernel.output.dtype != kernel.inputs[0].dtype:
            value = epilogue.quantize(value, views["scalars"], 1)
        return [tir.store(views["output"], to, value)]

    def row(n: tir.Expr, y: tir.Expr) -> list[tir.Statement]:
        if to_last:
            return tir.loop(
                width,
                lambda x: tir.loop(channels, lambda c: move(n, y * width + x, c), name="c"),
                name="x",
            )
        return tir.loop(
            channels,
            lambda c: tir.loop(width, lambda x: move(n, y * width + x, c), name="x"),
            name="c",
        )

    parallel = target.threads > 1 and kernel.output.elements >= _PARALLEL_ELEMENTS
    body = tir.loop(
        batch,
        lambda n: tir.loop(height, lambda y: row(n, y), name="y", parallel=parallel),
        name="n",
    )
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )
