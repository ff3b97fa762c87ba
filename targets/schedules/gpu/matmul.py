"""Batched product of two activations on a GPU, either of them in any order of its axes.

A thread computes some rows by 4 columns. Operands are read as they lie: 4 at a time where they are
neighbours, else one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules import matmul as multiplying
from millifit.targets.schedules.choice import check_names, decided
from millifit.targets.schedules.code import KernelCode, number
from millifit.targets.schedules.gpu.contraction import lane_of
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.launch import each, registers, unravel, when
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.schedules.movement import integers
from millifit.targets.target import Gpu

_ROWS = (1, 2, 4, 8)
_BUSY_THREADS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A matrix of each batch: where it begins, and the strides of batch, row and column.

    `length` elements of a row are read.
    """

    held: Memory
    name: str
    offset: int
    batch: int
    row: int
    column: int
    length: int

    @property
    def vectors(self) -> bool:
        """Whether 4 neighbours of a row are neighbours in memory, at a place that allows it."""
        steps = (self.offset, self.batch, self.row, self.length)
        return self.column == 1 and all(n % LANES == 0 for n in steps)

    def at(self, b: tir.Expr, i: tir.Expr, j: tir.Expr) -> tir.Expr:
        """Where an element is."""
        return b * self.batch + i * self.row + j * self.column + self.offset

    def four(self, b: tir.Expr, i: tir.Expr, j: tir.Expr) -> tir.Expr:
        """4 neighbours of a row from column j; what is beyond repeats the last."""
        if self.vectors:
            return self.held.read(self.name, self.at(b, i, j), LANES)
        columns = tir.index(j, LANES)
        if self.length % LANES:
            columns = tirx.min(columns, tir.const(self.length - 1, "int32", LANES))
        start = tir.splat(self.at(b, i, tir.const(0)), LANES)
        return self.held.gather(self.name, start + columns * tir.const(self.column, "int32", LANES))


def operand(kernel: Kernel, held: Memory, name: str, attribute: str, length: int) -> Operand:
    """The operand that an attribute of offset and three strides describes."""
    offset, batch, row, column = integers(kernel, attribute)
    return Operand(
        held=held, name=name, offset=offset, batch=batch, row=row, column=column, length=length
    )


def matmul(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a matmul kernel (see `schedules.matmul`). Tuning may choose ``rows``."""
    check_names(kernel, "rows")
    batch, rows, depth, columns = (
        int(number(kernel, name, 0)) for name in ("batch", "rows", "depth", "columns")
    )
    operands = {"scale": TensorType(shape=(1,), dtype="float32"), "scalars": epilogue.SCALARS_TYPE}
    held = memory(kernel, gpu, operands)
    left = operand(kernel, held, "input", "left", depth)
    right = operand(kernel, held, "residual", "right", columns)
    across = math.ceil(columns / LANES)
    possible = [n for n in _ROWS if n <= rows]
    wanted = gpu.compute_units * _BUSY_THREADS
    enough = [n for n in possible[:3] if batch * math.ceil(rows / n) * across >= wanted]
    height = decided(kernel, "rows", max(enough, default=1), possible)
    tiles = (batch, math.ceil(rows / height), across)

    def tile(i: tir.Expr) -> list[tir.Statement]:
        b, y, x = unravel(i, tiles)
        column, row = x * LANES, y * height
        if rows % height:  # both tiles write the same where they overlap
            row = tirx.min(row, rows - height)
        allocation, sums = registers("sums", height, "float32", LANES)
        zero = tir.const(0.0, "float32", LANES)
        written = [allocation, *(tir.store(sums, j, zero) for j in range(height))]
        written += _multiplied(left, right, b, row, column, depth, height, sums)
        scale = tir.splat(held.read("scale", tir.const(0)), LANES)
        for j in range(height):
            named, value = tir.bind("value", tir.load(sums, j) * scale, "float32", LANES)
            out = (b * rows + row + j) * columns + column
            written += [named, *stored(held, kernel, value, out, column, columns)]
        return written

    return KernelCode(
        function=held.function(each(gpu, math.prod(tiles), tile)),
        operands=tuple(operands.values()), pack=multiplying.packed,
    )  # fmt: skip


def _multiplied(
    left: Operand,
    right: Operand,
    b: tir.Expr,
    row: tir.Expr,
    column: tir.Expr,
    depth: int,
    height: int,
    sums: tir.Buffer,
) -> list[tir.Statement]:
    """Add the products of a tile to `sums`."""
    lanes = LANES if left.vectors else 1

    def step(k: tir.Expr) -> list[tir.Statement]:
        written, factors, weights = [], [], []
        for j in range(height):
            at = left.at(b, row + j, k * lanes)
            named, value = tir.bind(f"a{j}", left.held.read(left.name, at, lanes), "float32", lanes)
            written.append(named)
            factors.append(value)
        for lane in range(lanes):
            value = right.four(b, k * lanes + lane, column)
            named, value = tir.bind(f"b{lane}", value, "float32", LANES)
            written.append(named)
            weights.append(value)
        for j in range(height):
            total = tir.load(sums, j)
            for lane in range(lanes):
                total = total + tir.splat(lane_of(factors[j], lanes, lane), LANES) * weights[lane]
            written.append(tir.store(sums, j, total))
        return written

    return tir.loop(depth // lanes, step, name="k")


def stored(
    held: Memory, kernel: Kernel, value: tir.Expr, out: tir.Expr, column: tir.Expr, columns: int
) -> list[tir.Statement]:
    """Write the 4 columns from `column` on, or those of them that exist."""

    def finished(part: tir.Expr, lanes: int) -> tir.Expr:
        if kernel.output.dtype == "uint8":
            return epilogue.quantize(part, held.views["scalars"], lanes)
        return part

    if columns % LANES == 0:
        return [held.write("output", out, finished(value, LANES), LANES)]
    written: list[tir.Statement] = []
    for lane in range(LANES):
        one = finished(tir.shuffle([value], [lane]), 1)
        written += when(column + lane < columns, [held.write("output", out + lane, one)])
    return written
