"""Layers with a single output position: a warp for every channel."""

from __future__ import annotations

import math

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode
from millifit.targets.schedules.contraction import shape_of
from millifit.targets.schedules.gpu import launch
from millifit.targets.schedules.gpu.cuda import device_code
from millifit.targets.schedules.gpu.cuda.device_code import (
    CHUNK_BYTES,
    ELEMENTS,
    SUMS,
    WEIGHTS,
    address,
)
from millifit.targets.schedules.gpu.cuda.finish import finish
from millifit.targets.schedules.gpu.cuda.product import OFFSET, channel_operands
from millifit.targets.schedules.gpu.memory import memory
from millifit.targets.target import Gpu

_WARP = 32
_WARPS = 4  # of a block


def is_row(kernel: Kernel) -> bool:
    """Whether a layer's output is one position that reads one position."""
    shape = shape_of(kernel)
    single = kernel.op == "dense" or kernel.inputs[0].shape[0] == 1
    reads = (shape.height, shape.width, *shape.kernel, shape.groups)
    return single and reads == (1, 1, 1, 1, 1) and not any(shape.pads)


def row_product(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code and operands of such a layer."""
    shape, element = shape_of(kernel), kernel.inputs[0].dtype
    per_chunk = CHUNK_BYTES // np.dtype(element).itemsize
    depth = math.ceil(shape.inputs / per_chunk) * per_chunk
    operands = {
        "weight": TensorType(shape=(shape.outputs * depth,), dtype=WEIGHTS[element]),
        **channel_operands(kernel, shape.outputs),
    }
    tensors = memory(kernel, gpu, operands)
    views = tensors.views

    def block(at: launch.Place, thread: launch.Place) -> list[tir.Statement]:
        warp, lane = tirx.floordiv(thread[0], _WARP), tirx.floormod(thread[0], _WARP)
        channel = at[0] * _WARPS + warp
        total = device_code.call(
            f"row_product<{ELEMENTS[element]}, {shape.inputs}, {depth}>", address(views["input"]),
            address(views["weight"], channel * depth), returns=SUMS[element],
        )  # fmt: skip
        allocation, held = launch.registers("total", 1, SUMS[element])
        written = finish(
            kernel, tensors, lambda _: tir.load(held, 0), channel=channel, out=channel, lanes=1
        )
        alone = launch.when(tirx.EQ(lane, 0), written)
        whole: list[tir.Statement] = [allocation, tir.store(held, 0, total), *alone]
        return [device_code.code(), *launch.when(channel < shape.outputs, whole)]

    blocks = math.ceil(shape.outputs / _WARPS)
    return KernelCode(
        function=tensors.function(launch.launch((blocks, 1, 1), (_WARPS * _WARP, 1, 1), block)),
        operands=tuple(operands.values()),
        pack=lambda constants: _pack(kernel, depth, constants),
    )


def _pack(kernel: Kernel, depth: int, constants: Constants) -> tuple[Array, ...]:
    """Weights as ``[channel][input]``, padded with zeros."""
    element = kernel.inputs[0].dtype
    weight = constants["weight"].reshape(len(constants["weight"]), -1)
    full = np.zeros((len(weight), depth), WEIGHTS[element])
    full[:, : weight.shape[1]] = weight
    if not kernel.integer:
        bias = constants["bias"].astype(np.float32)
        return (full.ravel(), bias, epilogue.pack_scalars(constants))
    zero_point = int(constants["input_zero_point"]) - OFFSET
    bias = constants["bias"].astype(np.int64) - zero_point * weight.astype(np.int64).sum(axis=1)
    multiplier = epilogue.channel_multiplier(constants, kernel)
    return (full.ravel(), bias.astype(np.int32), multiplier, epilogue.pack_scalars(constants))
