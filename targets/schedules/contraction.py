"""Convolution and dense layers as one blocked matrix product.

In channels-last layout the inputs of one output position that share a kernel row are `run`
neighbours in memory, so a convolution is a sum over kernel rows of matrix products whose left
operand is the feature map itself, read with a stride; nothing is unfolded. A pointwise convolution
and a dense layer are the case of one kernel row, with the whole map as one long row.

The register tile (`tile.matrix_tile`) covers `rows` positions by some vectors of output channels.
Weights are packed at compile time into panels of that many channels: ``[panel][kernel row][step]
[channel][unit]``, `unit` being the inputs one dot product takes.

Where the map has to be padded, or widened for the dot product, it is first copied ("staged"): as a
whole if that stays in the second-level cache, else row by row.
"""

from __future__ import annotations

import numpy as np

from millifit.targets.kernel import Choice, Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, narrow
from millifit.targets.schedules.choice import check_names, choice_of, decided
from millifit.targets.schedules.code import Constants, KernelCode, number, pads_of, pair
from millifit.targets.schedules.contraction_code import write
from millifit.targets.schedules.contraction_plan import Design, Shape, Staging
from millifit.targets.schedules.dot import Dot, dot_for
from millifit.targets.schedules.tile import Tile, matrix_tile, matrix_tiles
from millifit.targets.target import Target

# Below this many multiply-adds a kernel gains less from a second thread than it takes to start it,
# some microseconds: measured on the layers of DS-CNN and ResNet-8.
_PARALLEL_MACS, _PARALLEL_INTEGER_MACS = 300_000, 8_000_000
# Weights that come from memory come faster to two threads, whatever is computed with them.
_PARALLEL_WEIGHT_BYTES = 2 << 20

_TILES = 8  # tiles that tuning looks at, the rule's own included


def shape_of(kernel: Kernel) -> Shape:
    """The geometry of a conv2d or dense kernel."""
    source, output = kernel.inputs[0].shape, kernel.output.shape
    if kernel.op == "dense":
        return Shape(
            height=1, width=source[0], inputs=source[1], groups=1, out_height=1,
            out_width=output[0], outputs=output[1], kernel=(1, 1), strides=(1, 1),
            dilations=(1, 1), pads=(0, 0, 0, 0),
        )  # fmt: skip
    groups = int(number(kernel, "groups", 1))
    return Shape(
        height=source[1], width=source[2], inputs=source[3] // groups, groups=groups,
        out_height=output[1], out_width=output[2], outputs=output[3] // groups,
        kernel=pair(kernel, "kernel"), strides=pair(kernel, "strides"),
        dilations=pair(kernel, "dilations"), pads=pads_of(kernel),
    )  # fmt: skip


def flattened(shape: Shape, batch: int = 1) -> Shape:
    """A pointwise convolution as one row of positions."""
    positions = batch * shape.out_height * shape.out_width
    return Shape(
        height=1, width=positions, inputs=shape.inputs, groups=shape.groups, out_height=1,
        out_width=positions, outputs=shape.outputs, kernel=(1, 1), strides=(1, 1),
        dilations=(1, 1), pads=(0, 0, 0, 0),
    )  # fmt: skip


def design(kernel: Kernel, target: Target) -> Design:
    """Choose tile, staging and loop order for a kernel.

    Tuning may choose ``rows`` and ``vectors`` of the tile, its rows of the map (``tile_rows``), the
    loop order (``panels_outside``) and whether the map is staged as a ``whole``.
    """
    check_names(kernel, "algorithm", "panels_outside", "rows", "tile_rows", "vectors", "whole")
    shape, dot = shape_of(kernel), dot_for(kernel, target)
    pointwise = shape.kernel == (1, 1) and shape.strides == (1, 1)
    padded = any(shape.pads)
    needed = padded or dot.activation != kernel.inputs[0].dtype or shape.run % dot.unit != 0
    itemsize = np.dtype(dot.activation).itemsize
    staged_rows = (shape.out_height - 1) * shape.strides[0] + 1
    staged_rows += (shape.kernel[0] - 1) * shape.dilations[0]
    row_elements = _staged_width(shape) * shape.inputs * shape.groups
    whole = staged_rows * row_elements * itemsize <= target.l2_bytes // 2
    whole = bool(decided(kernel, "whole", int(whole), (0, 1) if needed else ()))
    if pointwise and not padded and (whole or not needed):
        shape = flattened(shape)
        staged_rows, row_elements = 1, shape.width * shape.inputs * shape.groups
    staging = None
    if needed:
        rows = staged_rows if whole else (shape.kernel[0] - 1) * shape.dilations[0] + 1
        staging = Staging(
            whole=whole, rows=rows, row_elements=row_elements, slack=dot.unit * target.fp32_lanes
        )
    streaming = staging is not None and not staging.whole
    tile_rows = 1 if streaming else _rows_per_tile(shape, target)
    possible = [1] if streaming else [n for n in range(1, 15) if shape.out_height % n == 0]
    tile_rows = decided(kernel, "tile_rows", tile_rows, possible)
    tile = _tile(kernel, target, shape, dot, columns=shape.out_width * tile_rows)
    weight_bytes = shape.outputs * shape.run * shape.kernel[0] * shape.taps
    weight_bytes *= np.dtype(dot.weight).itemsize
    panels_outside = not streaming and weight_bytes > target.l2_bytes // 2
    orders = (0,) if streaming else (0, 1)
    parallel_macs = _PARALLEL_INTEGER_MACS if kernel.integer else _PARALLEL_MACS
    return Design(
        kernel=kernel, shape=shape, dot=dot, tile=tile, staging=staging,
        lanes=target.vector_bits // dot.step.bits,
        tile_rows=tile_rows,
        panels_outside=bool(decided(kernel, "panels_outside", int(panels_outside), orders)),
        parallel=target.threads > 1
        and (shape.macs >= parallel_macs or weight_bytes >= _PARALLEL_WEIGHT_BYTES),
        packs=kernel.output.dtype == "uint8" and narrow.packs(target),
    )  # fmt: skip


def _tile(kernel: Kernel, target: Target, shape: Shape, dot: Dot, *, columns: int) -> Tile:
    """The rule's tile, unless tuning chose another that the registers hold."""
    tile = matrix_tile(target, rows=columns, channels=shape.outputs, step=dot.step)
    vectors = decided(kernel, "vectors", tile.vectors, range(1, 9))
    free = target.vector_registers - vectors - 1 - dot.step.temporaries
    rows = decided(kernel, "rows", tile.rows, range(1, min(columns, free // vectors) + 1))
    return Tile(rows=rows, vectors=vectors)


def _staged_width(shape: Shape) -> int:
    return shape.pads[1] + shape.width + shape.pads[3]


def _rows_per_tile(shape: Shape, target: Target) -> int:
    """Map rows in one tile: more than one where a row is much shorter than a good tile."""
    budget = 14 if target.vector_registers >= 32 else 6
    for rows in range(min(shape.out_height, budget // shape.out_width), 1, -1):
        if shape.out_height % rows == 0:
            return rows
    return 1


def contraction(kernel: Kernel, target: Target) -> KernelCode:
    """Code and operands of a conv2d or dense kernel (any groups, strides, dilations, padding)."""
    plan = design(kernel, target)
    packed = plan.shape.groups * plan.padded_outputs
    operands = {
        "weight": TensorType(shape=(packed * plan.depth,), dtype=plan.dot.weight),
        "bias": TensorType(shape=(packed,), dtype=plan.dot.accumulator),
        "multiplier": TensorType(shape=(packed,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    if not kernel.integer:
        del operands["multiplier"]
    return KernelCode(
        function=write(plan, operands),
        operands=tuple(operands.values()),
        pack=lambda constants: _pack(plan, constants),
    )


def _pack(plan: Design, constants: Constants) -> tuple[Array, ...]:
    shape, dot, kernel = plan.shape, plan.dot, plan.kernel
    weight = constants["weight"].astype(dot.weight)
    if weight.ndim == 2:  # [O, I] of a dense layer
        weight = weight[:, :, None, None]
    # [G, O/G, KH, taps, run]: the run is what is contiguous in a channels-last map
    runs = weight.reshape(shape.groups, shape.outputs, shape.inputs, *weight.shape[2:])
    runs = runs.transpose(0, 1, 3, 4, 2)
    runs = runs.reshape(shape.groups, shape.outputs, weight.shape[2], shape.taps, shape.run)
    steps, unit = plan.steps, dot.unit
    wide = plan.padded_outputs
    full = np.zeros((shape.groups, wide, weight.shape[2], shape.taps, steps * unit), dot.weight)
    full[:, : shape.outputs, :, :, : shape.run] = runs
    full = full.reshape(shape.groups, wide, weight.shape[2], shape.taps, steps, unit)
    pieces: list[Array] = []
    for group in range(shape.groups):
        start = 0
        for panel in plan.panels:
            block = full[group, start : start + sum(panel)]  # [width, KH, taps, steps, unit]
            pieces.append(block.transpose(1, 2, 3, 0, 4).ravel())
            start += sum(panel)
    packed = [np.concatenate(pieces)]
    bias = constants["bias"]
    if kernel.integer:
        sums = weight.astype(np.int64).sum(axis=(1, 2, 3))
        zero_point = int(constants["input_zero_point"]) - dot.offset
        bias = bias.astype(np.int64) - zero_point * sums
        packed.append(_per_channel(plan, bias, "int32"))
        packed.append(_per_channel(plan, epilogue.channel_multiplier(constants, kernel), "float32"))
    else:
        packed.append(_per_channel(plan, bias, "float32"))
    packed.append(epilogue.pack_scalars(constants))
    return tuple(packed)


def _per_channel(plan: Design, values: Array, dtype: str) -> Array:
    padded = np.zeros((plan.shape.groups, plan.padded_outputs), dtype)
    padded[:, : plan.shape.outputs] = values.reshape(plan.shape.groups, plan.shape.outputs)
    return padded.ravel()


def contraction_candidates(kernel: Kernel, target: Target) -> tuple[Choice, ...]:
    """Choices worth measuring besides the rule's own: other tiles, and the other loop order.

    The tiles are the most promising ones of each number of vectors. The loop order matters where
    neither weights nor map stay in the nearest cache; it is tried with the two best tiles.
    """
    plan = design(kernel.with_choice(()), target)
    columns = plan.shape.out_width * plan.tile_rows
    ranked = matrix_tiles(target, rows=columns, channels=plan.shape.outputs, step=plan.dot.step)
    tiles = [plan.tile]
    for tile in ranked[1:]:
        if sum(other.vectors == tile.vectors for other in tiles) < 2:
            tiles.append(tile)
    others = [choice_of(rows=tile.rows, vectors=tile.vectors) for tile in tiles[1:_TILES]]
    found = list(others)
    streaming = plan.staging is not None and not plan.staging.whole
    if not streaming:
        other = int(not plan.panels_outside)
        found.append(choice_of(panels_outside=other))
        found += [choice_of(panels_outside=other, **dict(choice)) for choice in others[:1]]
    if plan.staging is not None:
        found.append(choice_of(whole=int(not plan.staging.whole)))
    if plan.tile_rows > 1:
        found.append(choice_of(tile_rows=1))
    return tuple(found)
