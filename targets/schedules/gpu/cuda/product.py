"""Convolutions and dense layers on CUDA: the kernel around `block_product`, and its operands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx
from tvm.tirx import stmt

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode
from millifit.targets.schedules.gpu import launch
from millifit.targets.schedules.gpu.cuda import device_code
from millifit.targets.schedules.gpu.cuda.device_code import ELEMENTS, SUMS, WEIGHTS, address
from millifit.targets.schedules.gpu.cuda.finish import finish, neighbours
from millifit.targets.schedules.gpu.cuda.product_plan import Plan, plan
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.target import Gpu

OFFSET = 128  # what is subtracted from quantized activations: both factors are signed


def product(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code and operands of a conv2d or dense kernel, any groups, strides, dilations, padding."""
    made = plan(kernel, gpu)
    packed = made.shape.groups * made.padded_outputs
    operands = {
        "weight": TensorType(shape=(packed * made.padded_depth,), dtype=WEIGHTS[made.element]),
        **channel_operands(kernel, packed),
    }
    tensors = memory(kernel, gpu, operands)
    return KernelCode(
        function=tensors.function(_body(made, tensors)),
        operands=tuple(operands.values()),
        pack=lambda constants: pack(made, constants),
    )


def channel_operands(kernel: Kernel, channels: int) -> dict[str, TensorType]:
    """The operands of a layer besides its weights."""
    accumulator = SUMS[kernel.inputs[0].dtype]
    found = {"bias": TensorType(shape=(channels,), dtype=accumulator)}
    if kernel.integer:
        found["multiplier"] = TensorType(shape=(channels,), dtype="float32")
    return {**found, "scalars": epilogue.SCALARS_TYPE}


def pack(made: Plan, constants: Constants) -> tuple[Array, ...]:
    """Weights as ``[group][channel][kernel row][kernel column][input]``, padded with zeros."""
    shape, kernel = made.shape, made.kernel
    dtype = WEIGHTS[made.element]
    weight = constants["weight"].astype(dtype)
    if weight.ndim == 2:  # [O, I] of a dense layer
        weight = weight[:, :, None, None]
    rows = weight.transpose(0, 2, 3, 1).reshape(shape.groups, shape.outputs, made.depth)
    full = np.zeros((shape.groups, made.padded_outputs, made.padded_depth), dtype)
    full[:, : shape.outputs, : made.depth] = rows
    bias = constants["bias"]
    if kernel.integer:
        zero_point = int(constants["input_zero_point"]) - OFFSET
        sums = weight.astype(np.int64).sum(axis=(1, 2, 3))
        bias = bias.astype(np.int64) - zero_point * sums
    per_channel = [bias.astype(SUMS[made.element])]
    if kernel.integer:
        per_channel.append(epilogue.channel_multiplier(constants, kernel))
    padded = [_padded(made, values) for values in per_channel]
    return (full.ravel(), *padded, epilogue.pack_scalars(constants))


def _padded(made: Plan, values: Array) -> Array:
    wide = np.zeros((made.shape.groups, made.padded_outputs), values.dtype)
    wide[:, : made.shape.outputs] = values.reshape(made.shape.groups, made.shape.outputs)
    return wide.ravel()


def _body(made: Plan, tensors: Memory) -> list[tir.Statement]:
    if made.splits == 1:
        return _blocks(made, tensors, lambda *place: _finish(made, tensors, *place))
    size = made.splits * made.shape.groups * made.rows * made.padded_outputs
    partial = tirx.decl_buffer((size,), SUMS[made.element], name="partial", scope="global")
    return [
        stmt.AllocBuffer(partial, {}),
        *_blocks(made, tensors, lambda *place: _leave(made, partial, *place)),
        *_join(made, tensors, partial),
    ]


# Row, channel, group, part of the depth, place of the sums, the sums: what to do with them.
Finish = Callable[
    [tir.Expr, tir.Expr, tir.Expr, tir.Expr, tir.Expr, tir.Buffer], list[tir.Statement]
]


def _blocks(made: Plan, tensors: Memory, finish_sums: Finish) -> list[tir.Statement]:
    """A block of threads for every tile, group and part of the depth."""
    tile, groups = made.tile, made.shape.groups
    down, across = made.blocks

    def block(at: launch.Place, thread: launch.Place) -> list[tir.Statement]:
        group, split = tirx.floormod(at[2], groups), tirx.floordiv(at[2], groups)
        results = tirx.decl_buffer(
            (tile.shared_bytes // 4,), SUMS[made.element], name="results", scope="shared.dyn"
        )
        first_row, first_column = at[0] * tile.rows, at[1] * tile.columns
        return [
            stmt.AllocBuffer(results, {}),
            device_code.code(),
            _multiply(made, tensors, results, first_row, first_column, group, split),
            *_each_result(made, thread[0], lambda row, column, place: finish_sums(
                first_row + row, first_column + column, group, split, place, results
            )),
        ]  # fmt: skip

    return launch.launch((down, across, groups * made.splits), (made.threads, 1, 1), block)


def _multiply(
    made: Plan,
    tensors: Memory,
    results: tir.Buffer,
    first_row: tir.Expr,
    first_column: tir.Expr,
    group: tir.Expr,
    split: tir.Expr,
) -> tir.Statement:
    views = tensors.views
    steps: tir.Expr = tir.const(made.stages_of_split)
    first = split * made.stages_of_split
    if made.splits > 1:
        steps = tirx.min(steps, made.stages - first)
    weights = (group * made.padded_outputs + first_column) * made.padded_depth
    element = ELEMENTS[made.element]
    arithmetic = f"millifit::{made.arithmetic}<{element}, {made.tile.type}>"
    fill = tir.const(0, made.element)
    if made.kernel.integer:
        fill = tir.cast(epilogue.scalar(views["scalars"], "input_zero_point"), "uint8", 1)
    return device_code.run(
        f"block_product<{_map_type(made)}, {made.tile.type}, {arithmetic}, {made.padded_depth}>",
        address(results), address(views["input"], group * made.shape.inputs),
        address(views["weight"], weights), first_row, first * made.step, steps, fill,
    )  # fmt: skip


def _map_type(made: Plan) -> str:
    """The feature map's type in CUDA C++."""
    shape = made.shape
    numbers = (
        shape.height, shape.width, shape.inputs * shape.groups, shape.inputs, shape.out_height,
        shape.out_width, *shape.kernel,
    )  # fmt: skip
    texts = (ELEMENTS[made.element], *map(str, numbers), window_type(shape.pads, shape.strides,
             shape.dilations), str(made.rows))  # fmt: skip
    return f"millifit::FeatureMap<{', '.join(texts)}>"


def window_type(
    pads: tuple[int, int, int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> str:
    """How a kernel's window moves, in CUDA C++."""
    numbers = (*pads[:2], *strides, *dilations)
    return f"millifit::Window<{', '.join(map(str, numbers))}>"


def _each_result(
    made: Plan,
    thread: tir.Expr,
    body: Callable[[tir.Expr, tir.Expr, tir.Expr], list[tir.Statement]],
) -> list[tir.Statement]:
    """`body(row, column, place of the sums)` for the tile's outputs that exist, some at a time."""
    tile, lanes = made.tile, neighbours(made.kernel, made.shape.outputs)
    per_row = tile.columns // lanes

    def item(i: tir.Expr) -> list[tir.Statement]:
        index = i * made.threads + thread
        row = tirx.floordiv(index, per_row)
        column = tirx.floormod(index, per_row) * lanes
        return body(row, column, row * tile.result_stride + column)

    return tir.loop(tile.rows * per_row // made.threads, item, name="i")


def _exists(made: Plan, row: tir.Expr, column: tir.Expr) -> tir.Expr:
    return tirx.all(row < made.rows, column < made.shape.outputs)


def _finish(
    made: Plan,
    tensors: Memory,
    row: tir.Expr,
    column: tir.Expr,
    group: tir.Expr,
    _split: tir.Expr,
    place: tir.Expr,
    results: tir.Buffer,
) -> list[tir.Statement]:
    """Outputs out of finished sums."""
    lanes, shape = neighbours(made.kernel, made.shape.outputs), made.shape
    allocation, sums = launch.registers("sums", lanes, results.dtype)
    written = finish(
        made.kernel, tensors, lambda lane: tir.load(sums, lane),
        channel=group * made.padded_outputs + column,
        out=row * (shape.outputs * shape.groups) + group * shape.outputs + column, lanes=lanes,
    )  # fmt: skip
    reading = device_code.read(sums, results, place, 4 * lanes)
    return launch.when(_exists(made, row, column), [allocation, reading, *written])


def _partial_place(made: Plan, row: tir.Expr, column: tir.Expr, part: tir.Expr) -> tir.Expr:
    """Where a sum is among those of all parts; `part` counts splits and groups."""
    return (part * made.rows + row) * made.padded_outputs + column


def _leave(
    made: Plan,
    partial: tir.Buffer,
    row: tir.Expr,
    column: tir.Expr,
    group: tir.Expr,
    split: tir.Expr,
    place: tir.Expr,
    results: tir.Buffer,
) -> list[tir.Statement]:
    """Sums over a part of the depth, left for the second launch."""
    lanes = neighbours(made.kernel, made.shape.outputs)
    at = _partial_place(made, row, column, split * made.shape.groups + group)
    copy = device_code.copy(partial, at, results, place, 4 * lanes)
    return launch.when(_exists(made, row, column), [copy])


def _join(made: Plan, tensors: Memory, partial: tir.Buffer) -> list[tir.Statement]:
    """The second launch: sums of all parts, and outputs out of them."""
    shape, lanes = made.shape, neighbours(made.kernel, made.shape.outputs)
    extents = (shape.groups, made.rows, shape.outputs // lanes)

    def item(i: tir.Expr) -> list[tir.Statement]:
        group, row, piece = launch.unravel(i, extents)
        written: list[tir.Statement] = [device_code.code()]
        parts: list[tir.Buffer] = []
        for split in range(made.splits):
            place = _partial_place(made, row, piece * lanes, split * shape.groups + group)
            allocation, sums = launch.registers(f"sums{split}", lanes, partial.dtype)
            written += [allocation, device_code.read(sums, partial, place, 4 * lanes)]
            parts.append(sums)

        def total(lane: int) -> tir.Expr:
            return sum((tir.load(sums, lane) for sums in parts[1:]), tir.load(parts[0], lane))

        written += finish(
            made.kernel, tensors, total, channel=group * made.padded_outputs + piece * lanes,
            out=row * (shape.outputs * shape.groups) + group * shape.outputs + piece * lanes,
            lanes=lanes,
        )  # fmt: skip
        return written

    return launch.each(tensors.gpu, int(np.prod(extents)), item)
