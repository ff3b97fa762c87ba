"""Depthwise convolution on CUDA: a thread for some neighbouring channels of a few columns."""

from __future__ import annotations

import functools
import math

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode, pads_of, pair
from millifit.targets.schedules.gpu import launch
from millifit.targets.schedules.gpu.cuda import device_code
from millifit.targets.schedules.gpu.cuda.device_code import ELEMENTS, SUMS, WEIGHTS, address
from millifit.targets.schedules.gpu.cuda.finish import finish, neighbours
from millifit.targets.schedules.gpu.cuda.product import channel_operands, window_type
from millifit.targets.schedules.gpu.memory import memory
from millifit.targets.target import Gpu

# Threads that a multiprocessor wants, to have something to do while others wait for memory.
_BUSY = 512


def columns_and_lanes(kernel: Kernel, gpu: Gpu) -> tuple[int, int]:
    """Columns and channels of a thread: as many as leave every multiprocessor enough threads."""
    width, channels = kernel.output.shape[2:]
    lanes = neighbours(kernel, channels)
    columns = next(n for n in (4, 2, 1) if width % n == 0)
    wanted = gpu.compute_units * _BUSY
    while kernel.output.elements < wanted * lanes * columns and columns > 1:
        columns //= 2
    while kernel.output.elements < wanted * lanes and lanes > 2:
        lanes //= 2
    return columns, lanes


def depthwise(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code and operands of a depthwise_conv2d kernel (channel multiplier 1)."""
    columns, lanes = columns_and_lanes(kernel, gpu)
    element = kernel.inputs[0].dtype
    batch, out_height, out_width, channels = kernel.output.shape
    _, height, width, _ = kernel.inputs[0].shape
    size = pair(kernel, "kernel")
    operands = {
        "weight": TensorType(shape=(math.prod(size) * channels,), dtype=WEIGHTS[element]),
        **channel_operands(kernel, channels),
    }
    tensors = memory(kernel, gpu, operands)
    views = tensors.views
    window = window_type(pads_of(kernel), pair(kernel, "strides"), pair(kernel, "dilations"))
    numbers = ", ".join(map(str, (height, width, channels, *size)))
    name = f"depthwise<{ELEMENTS[element]}, {numbers}, {window}, {lanes}, {columns}>"
    zero_point = tir.const(0, SUMS[element])
    if kernel.integer:
        zero_point = tir.cast(epilogue.scalar(views["scalars"], "input_zero_point"), "int32", 1)
    extents = (batch, out_height, out_width // columns, channels // lanes)

    def thread(i: tir.Expr) -> list[tir.Statement]:
        image, y, piece, part = launch.unravel(i, extents)
        x, channel = piece * columns, part * lanes
        allocation, sums = launch.registers("sums", columns * lanes, SUMS[element])
        written: list[tir.Statement] = [
            allocation,
            device_code.code(),
            device_code.run(
                name, address(sums), address(views["input"], image * (height * width * channels)),
                address(views["weight"]), y, x, channel, zero_point,
            ),
        ]  # fmt: skip
        for column in range(columns):
            at = ((image * out_height + y) * out_width + x + column) * channels + channel
            own = functools.partial(_sum, sums, column * lanes)
            written += finish(kernel, tensors, own, channel=channel, out=at, lanes=lanes)
        return written

    return KernelCode(
        function=tensors.function(launch.each(gpu, int(np.prod(extents)), thread)),
        operands=tuple(operands.values()),
        pack=lambda constants: _pack(kernel, constants),
    )


def _sum(sums: tir.Buffer, first: int, lane: int) -> tir.Expr:
    return tir.load(sums, first + lane)


def _pack(kernel: Kernel, constants: Constants) -> tuple[Array, ...]:
    """Weights as ``[kernel row][kernel column][channel]``."""
    element = kernel.inputs[0].dtype
    weight = constants["weight"][:, 0].transpose(1, 2, 0).astype(WEIGHTS[element])
    packed: list[Array] = [np.ascontiguousarray(weight).ravel()]
    packed.append(constants["bias"].astype(SUMS[element]))
    if kernel.integer:
        packed.append(epilogue.channel_multiplier(constants, kernel))
    return (*packed, epilogue.pack_scalars(constants))
