"""Kernels of a network whose channels are pruned: the same work on fewer channels."""

from __future__ import annotations

import math
from dataclasses import replace

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.target import WEIGHT_ONLY, weight_bits


def resized(kernel: Kernel, *, in_channels: int, out_channels: int) -> Kernel:
    """`kernel` reading `in_channels` and writing `out_channels`.

    A 3x3 convolution ``(1, 8, 8, 16) -> (1, 8, 8, 32)`` resized to 8 and 24 channels is
    ``(1, 8, 8, 8) -> (1, 8, 8, 24)``. A second operand that has as many channels as the output (a
    fused residual, an addition) follows the output; one value for all channels stays. The channels
    of ``to_channels_first`` stand on axis 1 of the output, those of ``to_channels_last`` and of
    operators without a rule on axis 1 of the input.

    Raises ValueError for a grouped convolution that the new channels do not divide into groups.
    """
    groups = int(str(dict(kernel.attributes).get("groups", 1)))
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"a convolution in {groups} groups cannot have {in_channels} -> {out_channels} channels"
        )
    first_in, first_out = kernel.op == "to_channels_last", kernel.op == "to_channels_first"
    before = _channels(kernel.output, first_out)
    operands = tuple(
        _with_channels(t, out_channels, first_in) if _channels(t, first_in) == before else t
        for t in kernel.inputs[1:]
    )
    return replace(
        kernel,
        inputs=(_with_channels(kernel.inputs[0], in_channels, first_in), *operands),
        output=_with_channels(kernel.output, out_channels, first_out),
    )


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of the weight, the bias and the scales of a layer's kernel; 0 for other operators.

    A bias has 4 bytes per output channel, as has a scale of an integer weight: one per output
    channel, or per block of inputs.
    """
    inputs, outputs = kernel.inputs[0].shape[-1], kernel.output.shape[-1]
    attributes = dict(kernel.attributes)
    window = attributes.get("kernel", ())
    area = math.prod(window) if isinstance(window, tuple) else 1
    match kernel.op:
        case "conv2d":
            weights = area * inputs * outputs // int(str(attributes.get("groups", 1)))
        case "depthwise_conv2d":
            weights = area * outputs
        case "dense":
            weights = inputs * outputs
        case _:
            return 0
    scales = 0
    if kernel.integer or kernel.precision in WEIGHT_ONLY:
        scales = outputs * math.ceil(inputs / int(str(attributes.get("block", inputs))))
    return math.ceil(weights * weight_bits(kernel.precision) / 8) + 4 * (outputs + scales)


def _channels(tensor: TensorType, first: bool) -> int:
    return tensor.shape[1 if first and len(tensor.shape) > 1 else -1]


def _with_channels(tensor: TensorType, channels: int, first: bool) -> TensorType:
    axis = 1 if first and len(tensor.shape) > 1 else len(tensor.shape) - 1
    shape = (*tensor.shape[:axis], channels, *tensor.shape[axis + 1 :])
    return replace(tensor, shape=shape)
