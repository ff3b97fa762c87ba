"""Layer normalization of rows: mean and variance in two passes, scaled and shifted in a third."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode, signature
from millifit.targets.schedules.row_reduction import reduce_row
from millifit.targets.target import Target

_PARALLEL_ELEMENTS = 1 << 16


def normalization(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a layer_norm or rms_norm kernel over the last axis; float32 in, float32 or uint8 out.

    ``(x - mean) / sqrt(variance + epsilon) * weight + bias`` with constants ``weight`` and ``bias``
    of one value per channel and ``epsilon``; rms_norm has neither mean nor bias.
    """
    channels = kernel.output.shape[-1]
    rows = kernel.output.elements // channels
    operands = operands_of(kernel)
    parameters = signature(kernel, operands)
    views = parameters.views
    lanes = target.fp32_lanes

    def row(r: tir.Expr) -> list[tir.Statement]:
        return _row(kernel, views, r * channels, channels, lanes)

    parallel = target.threads > 1 and kernel.output.elements >= _PARALLEL_ELEMENTS
    return KernelCode(
        function=parameters.function(
            tir.loop(rows, row, name="row", parallel=parallel and rows > 1)
        ),
        operands=tuple(operands.values()),
        pack=lambda constants: pack(constants, channels),
    )


def operands_of(kernel: Kernel) -> dict[str, TensorType]:
    """What there is per channel, and the scalars."""
    per_channel = TensorType(shape=kernel.output.shape[-1:], dtype="float32")
    return {
        "weight": per_channel,
        "bias": per_channel,
        "epsilon": TensorType(shape=(1,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }


def _row(
    kernel: Kernel, views: Mapping[str, tir.Buffer], start: tir.Expr, channels: int, lanes: int
) -> list[tir.Statement]:
    source = views["input"]
    share = tir.const(1.0 / channels, "float32")
    written: list[tir.Statement] = []
    mean = tir.const(0.0, "float32")
    if kernel.op == "layer_norm":
        written, total = reduce_row(
            channels,
            lambda at, width: ([], tir.load(source, start + at, width)),
            lambda a, b: a + b,
            0.0,
            lanes=lanes,
            name="sum",
        )
        named, mean = tir.bind("mean", total * share, "float32")
        written.append(named)

    def squared(at: tir.Expr, width: int) -> tuple[list[tir.Statement], tir.Expr]:
        value = tir.load(source, start + at, width) - tir.splat(mean, width)
        named, distance = tir.bind("distance", value, "float32", width)
        return [named], distance * distance

    summing, total = reduce_row(
        channels, squared, lambda a, b: a + b, 0.0, lanes=lanes, name="squares"
    )
    spread = tirx.sqrt(total * share + tir.load(views["epsilon"], tir.const(0)))
    named, factor = tir.bind("factor", tir.const(1.0, "float32") / spread, "float32")

    def scale(at: tir.Expr, width: int) -> list[tir.Statement]:
        value = tir.load(source, start + at, width) - tir.splat(mean, width)
        value = value * tir.splat(factor, width) * tir.load(views["weight"], at, width)
        value = value + tir.load(views["bias"], at, width)
        if kernel.output.dtype == "uint8":
            value = epilogue.quantize(value, views["scalars"], width)
        return [tir.store(views["output"], start + at, value, width)]

    return [*written, *summing, named, *tir.vectors(channels, scale, widest=lanes)]


def pack(constants: Constants, channels: int) -> tuple[Array, ...]:
    """The operands of a call."""

    def per_channel(name: str, default: float) -> Array:
        given = constants.get(name, np.float32(default))
        values = np.broadcast_to(np.asarray(given, np.float32).ravel(), (channels,))
        return np.ascontiguousarray(values)

    epsilon = np.asarray(constants["epsilon"], np.float32).reshape(1)
    return (
        per_channel("weight", 1.0),
        per_channel("bias", 0.0),
        epsilon,
        epilogue.pack_scalars(constants),
    )
