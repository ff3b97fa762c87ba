"""Kernels as columns of sizes: what features, work and rooflines are computed from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from millifit.latency_models.prediction import Floats
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.target import weight_bits

COLUMNS = (
    "batch",
    "in_height",
    "in_width",
    "in_channels",
    "out_height",
    "out_width",
    "out_channels",
    "kernel_height",
    "kernel_width",
    "stride",
    "groups",
    "inputs",
    "depth",  # values that are summed up for one output value
    "macs",
    "input_bytes",
    "output_bytes",
    "weight_bytes",
    "moved_bytes",
    "fused_steps",
    "fused_additions",
    "variant",
)

_ITEM_BYTES: dict[str, int] = {}


def columns_of(kernels: Sequence[Kernel]) -> dict[str, Floats]:
    """Each of `COLUMNS` for kernels, in order: float64 ``[n]``."""
    known: dict[int, tuple[float, ...]] = {}
    rows = []
    for kernel in kernels:
        row = known.get(id(kernel))
        if row is None:
            row = known[id(kernel)] = _row(kernel)
        rows.append(row)
    table = np.array(rows, np.float64).reshape(len(rows), len(COLUMNS))
    return dict(zip(COLUMNS, table.T, strict=True))


def family_of(kernel: Kernel) -> str:
    """Operator and precision, with operators that compute the same under one name.

    A convolution of a map of one pixel is dense, and average pooling of a whole map is global.
    """
    return f"{_operator(kernel)} {kernel.precision}"


def macs(kernel: Kernel) -> int:
    """Multiply-adds, or what stands for them: at least one step per element of the output.

    A 3x3 convolution of (1, 56, 56, 64) to (1, 56, 56, 128) has 56 * 56 * 128 * 9 * 64.
    """
    elements = math.prod(kernel.output.shape)
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
            return math.prod(kernel.inputs[0].shape)
        case "resize":
            return elements * sum(_pair(kernel, "taps"))
        case _:
            return elements * _area(kernel)


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of the weight: 4 per value in fp32, half a one in w4; 0 for operators without one."""
    if kernel.op not in ("conv2d", "depthwise_conv2d", "dense"):
        return 0
    values = kernel.output.shape[-1] * _area(kernel)
    if kernel.op != "depthwise_conv2d":
        values = values * kernel.inputs[0].shape[-1] // _groups(kernel)
    return math.ceil(values * weight_bits(kernel.precision) / 8)


def moved_bytes(kernel: Kernel) -> int:
    """Bytes read and written if everything is touched once; of a part, what is taken."""
    if kernel.op == "embedding":
        return _bytes(kernel.inputs[0]) + 2 * _bytes(kernel.output)
    if kernel.op == "strided":
        return 2 * _bytes(kernel.output)
    return sum(map(_bytes, kernel.inputs)) + weight_bytes(kernel) + _bytes(kernel.output)


def _row(kernel: Kernel) -> tuple[float, ...]:
    batch, in_height, in_width, in_channels = _map(kernel.inputs[0] if kernel.inputs else None)
    _, out_height, out_width, out_channels = _map(kernel.output)
    height, width = _pair(kernel, "kernel")
    additions = kernel.epilogue.count("add")
    groups = in_channels if kernel.op == "depthwise_conv2d" else _groups(kernel)
    steps = macs(kernel)
    return (
        batch, in_height, in_width, in_channels, out_height, out_width, out_channels,
        height, width, _pair(kernel, "strides")[0], groups, len(kernel.inputs),
        max(1.0, steps / max(1, math.prod(kernel.output.shape))), steps,
        sum(map(_bytes, kernel.inputs)), _bytes(kernel.output), weight_bytes(kernel),
        moved_bytes(kernel), len(kernel.epilogue), additions,
        _operator(kernel) != kernel.op,
    )  # fmt: skip


def _operator(kernel: Kernel) -> str:
    if kernel.op not in ("conv2d", "avg_pool", "max_pool"):
        return kernel.op
    shape, read = kernel.output.shape, kernel.inputs[0].shape
    single = len(shape) == 4 and shape[1:3] == (1, 1)
    match kernel.op:
        case "conv2d" if single and read[1:3] == (1, 1) and _groups(kernel) == 1:
            return "dense"
        case "conv2d" if _groups(kernel) > 1:
            return "grouped_conv2d"
        case "avg_pool" if single and _pair(kernel, "kernel") == read[1:3]:
            return "global_avg_pool"
        case "avg_pool" | "max_pool":
            return "pool"
    return kernel.op


def _map(tensor: TensorType | None) -> tuple[int, int, int, int]:
    """(N, H, W, C) of any shape; what stands before the last three dimensions is the batch."""
    shape = () if tensor is None else tensor.shape
    if len(shape) == 2:
        return shape[0], 1, 1, shape[1]
    *outer, height, width, channels = (1, 1, 1, *shape) if len(shape) < 3 else shape
    return math.prod(outer), height, width, channels


def _bytes(tensor: TensorType) -> int:
    size = _ITEM_BYTES.get(tensor.dtype)
    if size is None:
        size = _ITEM_BYTES[tensor.dtype] = np.dtype(tensor.dtype).itemsize
    return math.prod(tensor.shape) * size


def _integer(kernel: Kernel, name: str) -> int:
    value = kernel.attribute(name)
    if not isinstance(value, int):
        raise TypeError(f"kernel '{kernel.op}': attribute '{name}' must be an integer")
    return value


def _area(kernel: Kernel) -> int:
    height, width = _pair(kernel, "kernel")
    return height * width


def _groups(kernel: Kernel) -> int:
    groups = dict(kernel.attributes).get("groups", 1)
    return groups if isinstance(groups, int) else 1


def _pair(kernel: Kernel, name: str) -> tuple[int, int]:
    value = dict(kernel.attributes).get(name, (1, 1))
    return (value[0], value[1]) if isinstance(value, tuple) and len(value) == 2 else (1, 1)
