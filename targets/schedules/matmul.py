"""Batched product of two activations, either of them in any order of its axes.

The right operand is packed panel by panel, each of which then meets all rows of the left one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.schedules.product import (
    Matrix,
    Panels,
    multiply,
    pack_panel,
    row_blocks,
    store_valid,
)
from millifit.targets.schedules.tile import Tile, matrix_tile
from millifit.targets.target import Target

_PARALLEL_MACS = 1_000_000


def matmul(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a matmul kernel: ``scale * left[b] @ right[b]``; float32 in, float32 or uint8 out.

    Attributes ``batch``, ``rows``, ``depth``, ``columns``, and ``left`` and ``right``: offset and
    strides of batch, row and column of an operand. The output is ``[batch, rows, columns]``.
    """
    rows, columns = (int(number(kernel, name, 0)) for name in ("rows", "columns"))
    batch, depth = (int(number(kernel, name, 0)) for name in ("batch", "depth"))
    operands = {
        "scale": TensorType(shape=(1,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    parameters = signature(kernel, operands)
    tile = matrix_tile(target, rows=rows, channels=columns)
    panels = Panels(columns=columns, lanes=target.fp32_lanes, widest=tile.vectors)
    parallel = target.threads > 1 and batch * rows * depth * columns >= _PARALLEL_MACS
    over_panels = parallel and batch < target.threads

    def sample(b: tir.Expr) -> list[tir.Statement]:
        return panels.each(
            lambda first, vectors, exist: _panel(
                kernel, parameters.views, b, tile, panels.lanes, (rows, depth, columns),
                first=first, vectors=vectors, exist=exist,
            ),
            name="panel",
            parallel=over_panels,
        )  # fmt: skip

    body = tir.loop(batch, sample, name="batch", parallel=parallel and not over_panels)
    return KernelCode(
        function=parameters.function(body), operands=tuple(operands.values()), pack=packed
    )


def packed(constants: Constants) -> tuple[Array, ...]:
    """The operands of a call."""
    scale = np.asarray(constants.get("scale", 1.0), np.float32).reshape(1)
    return (scale, epilogue.pack_scalars(constants))


def _operand(kernel: Kernel, buffer: tir.Buffer, name: str, batch: tir.Expr) -> Matrix:
    layout = kernel.attribute(name)
    assert isinstance(layout, tuple)
    offset, per_batch, row, column = layout
    return Matrix(buffer=buffer, start=batch * per_batch + offset, row=row, column=column)


def _panel(
    kernel: Kernel,
    views: Mapping[str, tir.Buffer],
    batch: tir.Expr,
    tile: Tile,
    lanes: int,
    extents: tuple[int, int, int],
    *,
    first: tir.Expr,
    vectors: int,
    exist: int,
) -> list[tir.Statement]:
    """Pack one panel of the right operand and multiply all rows with it."""
    rows, depth, columns = extents
    left = _operand(kernel, views["input"], "left", batch)
    right = _operand(kernel, views["residual"], "right", batch)
    allocation, packed = tir.scratch("packed", depth * vectors * lanes, "float32")
    moved = Matrix(
        buffer=right.buffer, start=right.at(tir.const(0), first * lanes), row=right.row,
        column=right.column,
    )  # fmt: skip
    scale = tir.load(views["scale"], tir.const(0))

    def block(row: tir.Expr, height: int) -> list[tir.Statement]:
        def store(i: int, j: int, value: tir.Expr) -> list[tir.Statement]:
            value = value * tir.splat(scale, lanes)
            if kernel.output.dtype == "uint8":
                value = epilogue.quantize(value, views["scalars"], lanes)
            at = (batch * rows + row + i) * columns + (first + j) * lanes
            valid = min(lanes, exist - j * lanes)
            return store_valid(views["output"], at, value, lanes=lanes, valid=valid)

        start = left.at(row, tir.const(0))
        tall = Matrix(buffer=left.buffer, start=start, row=left.row, column=left.column)
        return multiply(
            tall, packed, tir.const(0), store, rows=height, depth=depth, vectors=vectors,
            lanes=lanes,
        )  # fmt: skip

    return [
        allocation,
        *pack_panel(moved, depth, lanes, packed, first=tir.const(0), vectors=vectors, exist=exist),
        *row_blocks(rows, tile.rows, block, name="rows"),
    ]
