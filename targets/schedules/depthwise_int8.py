"""int8 depthwise convolution: rows staged once in the form the multiply-add wants.

Rows of the map, padding included, are staged in a ring that holds as many as the kernel reaches
over, so every row is converted once although several output rows read it. What is staged depends on
the target:

- With a dot product of four bytes (VNNI, ``sdot``, ``usdot``) an element of the ring is four
  neighbouring columns of one channel in 32 bits, so one instruction does four taps for every lane,
  and the channels stay across the lanes.
- Without it an element is the column less the zero point, in float32: sums of products of 8-bit
  integers are exact there while they stay below 2^24.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, narrow
from millifit.targets.schedules.choice import check_names, decided
from millifit.targets.schedules.code import Constants, KernelCode, pads_of, pair, signature
from millifit.targets.schedules.depthwise_int8_code import Design, write
from millifit.targets.schedules.dot import quad_dot
from millifit.targets.schedules.quads import QUAD
from millifit.targets.schedules.tile import COLUMNS, row_tile
from millifit.targets.target import Target

_PARALLEL_MACS = 1_500_000
# The largest number of taps for which 255 * 127 * taps is an exact float32.
_MAX_TAPS = 2**24 // (255 * 127)


def design(kernel: Kernel, target: Target) -> Design:
    """Choose the form of the ring, the tile, and the blocks whose ring stays in the L1.

    Tuning may choose ``columns`` of the tile, and ``vectors`` of channels in a block.
    """
    check_names(kernel, "columns", "vectors")
    size = pair(kernel, "kernel")
    taps = math.prod(size)
    if taps > _MAX_TAPS:
        raise CompileError(
            f"an int8 depthwise convolution of {size[0]}x{size[1]} taps could exceed exact "
            f"arithmetic (at most {_MAX_TAPS} taps): leave this layer in fp32"
        )
    height, width = kernel.output.shape[1:3]
    parallel = target.threads > 1 and kernel.output.elements * taps >= _PARALLEL_MACS
    plan = Design(
        kernel=kernel,
        size=size,
        strides=pair(kernel, "strides"),
        dilations=pair(kernel, "dilations"),
        pads=pads_of(kernel),
        columns=decided(kernel, "columns", row_tile(target, width=width, taps=size[1]), COLUMNS),
        lanes=target.fp32_lanes,
        dot=quad_dot(target),
        chunks=min(target.threads, height) if parallel else 1,
        block=target.fp32_lanes,
        packs=kernel.output.dtype == "uint8" and narrow.packs(target),
    )
    row_bytes = plan.reach * plan.staged_columns * 4
    vectors = target.l1_bytes * 3 // 4 // (row_bytes * plan.lanes)
    most = math.ceil(plan.channels / plan.lanes)
    vectors = decided(kernel, "vectors", min(max(1, vectors), most), range(1, most + 1))
    return replace(plan, block=plan.lanes * vectors)


def depthwise_int8(kernel: Kernel, target: Target) -> KernelCode:
    """Code and operands of an int8 depthwise_conv2d kernel (channel multiplier 1)."""
    plan = design(kernel, target)
    weights = plan.size[0] * plan.groups * plan.wide
    operands = {
        "weight": TensorType(shape=(weights * QUAD,), dtype="int8")
        if plan.dot is not None
        else TensorType(shape=(weights,), dtype="float32"),
        "bias": TensorType(shape=(plan.wide,), dtype="int32"),
        "multiplier": TensorType(shape=(plan.wide,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    parameters = signature(kernel, operands)
    return KernelCode(
        function=parameters.function(write(plan, parameters)),
        operands=tuple(operands.values()),
        pack=lambda constants: _pack(plan, constants),
    )


def _pack(plan: Design, constants: Constants) -> tuple[Array, ...]:
    """Weights [KH, groups, C, 4] int8, or [KH, KW, C] float32; per-channel values padded."""
    weight = constants["weight"][:, 0]  # [C, KH, KW]
    bias = constants["bias"].astype(np.int64)
    if plan.dot is not None:
        filled = np.zeros((plan.wide, plan.size[0], plan.groups * QUAD), np.int8)
        filled[: plan.channels, :, : plan.size[1]] = weight
        quads = filled.reshape(plan.wide, plan.size[0], plan.groups, QUAD)
        packed: Array = quads.transpose(1, 2, 0, 3)
        sums = weight.astype(np.int64).sum(axis=(1, 2))
        bias = bias - (int(constants["input_zero_point"]) - plan.dot.offset) * sums
    else:
        real = np.zeros((*plan.size, plan.wide), np.float32)
        real[..., : plan.channels] = weight.transpose(1, 2, 0)
        packed = real

    def per_channel(values: Array, dtype: str) -> Array:
        padded = np.zeros(plan.wide, dtype)
        padded[: plan.channels] = values
        return padded

    multiplier = epilogue.channel_multiplier(constants, plan.kernel)
    return (
        np.ascontiguousarray(packed).ravel(),
        per_channel(bias, "int32"),
        per_channel(multiplier, "float32"),
        epilogue.pack_scalars(constants),
    )
