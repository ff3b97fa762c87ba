"""What a model sees of a kernel: work, traffic and shape as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from millifit.latency_models.prediction import Floats
from millifit.targets.kernel import Kernel
from millifit.targets.target import weight_bits

FEATURES = (
    "log_macs",
    "log_input_bytes",
    "log_output_bytes",
    "log_weight_bytes",
    "log_intensity",  # multiply-adds per byte moved
    "log_positions",
    "log_in_channels",
    "log_out_channels",
    "log_kernel_area",
    "log_stride",
    "in_remainder",  # share of the last vector of input channels that is filled; 1 if it is full
    "out_remainder",
    "log_groups",
    "fused_steps",
    "fused_residual",
    "log_output_itemsize",
)


def features(kernels: Sequence[Kernel], *, vector_lanes: int) -> Floats:
    """One row of `FEATURES` per kernel: float64 ``[kernels, features]``."""
    rows = [_row(kernel, vector_lanes) for kernel in kernels]
    return np.array(rows, np.float64).reshape(len(rows), len(FEATURES))


def work(kernels: Sequence[Kernel]) -> Floats:
    """What a roofline is made of: ``[kernels, 3]`` of multiply-adds, bytes moved, and ones."""
    rows = [(macs(kernel), moved_bytes(kernel), 1.0) for kernel in kernels]
    return np.array(rows, np.float64).reshape(len(rows), 3)


def macs(kernel: Kernel) -> int:
    """Multiply-adds, or what stands for them: at least one step per element of the output.

    A 3x3 convolution of (1, 56, 56, 64) to (1, 56, 56, 128) has 56 * 56 * 128 * 9 * 64.
    """
    elements = kernel.output.elements
    match kernel.op:
        case "conv2d":
            return elements * _area(kernel) * kernel.inputs[0].shape[-1] // _groups(kernel)
        case "dense":
            return elements * kernel.inputs[0].shape[-1]
        case "matmul":
            return elements * _integer(kernel, "depth")
        case "attention":
            scores = elements // _integer(kernel, "width") * _integer(kernel, "keys")
            return scores * (_integer(kernel, "depth") + _integer(kernel, "width"))
        case op if op.startswith(("global_", "reduce_", "arg_")):
            return kernel.inputs[0].elements
        case "resize":
            return elements * sum(_pair(kernel, "taps"))
        case _:
            return elements * _area(kernel)


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of the weight: 4 per value in fp32, half a one in w4; 0 for operators without one."""
    channels = kernel.output.shape[-1]
    inputs = kernel.inputs[0].shape[-1]
    match kernel.op:
        case "conv2d":
            values = channels * _area(kernel) * inputs // _groups(kernel)
        case "depthwise_conv2d":
            values = channels * _area(kernel)
        case "dense":
            values = channels * inputs
        case _:
            return 0
    return math.ceil(values * weight_bits(kernel.precision) / 8)


def moved_bytes(kernel: Kernel) -> int:
    """Bytes read and written if everything is touched once; of a part, what is taken."""
    if kernel.op == "embedding":
        return kernel.inputs[0].bytes + 2 * kernel.output.bytes
    if kernel.op == "strided":
        return 2 * kernel.output.bytes
    return sum(t.bytes for t in kernel.inputs) + weight_bytes(kernel) + kernel.output.bytes


def _row(kernel: Kernel, lanes: int) -> tuple[float, ...]:
    out = kernel.output
    in_channels = kernel.inputs[0].shape[-1] if kernel.inputs[0].shape else 1
    out_channels = out.shape[-1] if out.shape else 1
    return (
        math.log(macs(kernel)),
        math.log(max(1, sum(t.bytes for t in kernel.inputs))),
        math.log(max(1, out.bytes)),
        math.log1p(weight_bytes(kernel)),
        math.log(macs(kernel) / max(1, moved_bytes(kernel))),
        math.log(max(1, out.elements // max(1, out_channels))),
        math.log(max(1, in_channels)),
        math.log(max(1, out_channels)),
        math.log(_area(kernel)),
        math.log(_pair(kernel, "strides")[0]),
        _filled(in_channels, lanes),
        _filled(out_channels, lanes),
        math.log(_groups(kernel)),
        len(kernel.epilogue),
        float("add" in kernel.epilogue),
        math.log(np.dtype(out.dtype).itemsize),
    )


def _integer(kernel: Kernel, name: str) -> int:
    value = kernel.attribute(name)
    if not isinstance(value, int):
        raise TypeError(f"kernel '{kernel.op}': attribute '{name}' must be an integer")
    return value


def _filled(channels: int, lanes: int) -> float:
    remainder = channels % lanes
    return remainder / lanes if remainder else 1.0


def _area(kernel: Kernel) -> int:
    height, width = _pair(kernel, "kernel")
    return height * width


def _groups(kernel: Kernel) -> int:
    groups = dict(kernel.attributes).get("groups", 1)
    return groups if isinstance(groups, int) else 1


def _pair(kernel: Kernel, name: str) -> tuple[int, int]:
    value = dict(kernel.attributes).get(name, (1, 1))
    return (value[0], value[1]) if isinstance(value, tuple) and len(value) == 2 else (1, 1)
