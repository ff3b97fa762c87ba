"""Products of two activations: one is packed into panels, the other read as it lies.

The packed operand is ``[panel][depth][width]``: for every step of the reduction the vectors of one
panel are neighbours, columns beyond the last being zero. A register tile is `rows` rows by one
panel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from millifit.targets.schedules import moves, tir
from millifit.targets.schedules.lanes import transposed

# Stores a tile's vector: row in the tile, number of the vector in the panel, value.
Store = Callable[[int, int, tir.Expr], list[tir.Statement]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A matrix in a buffer: ``buffer[start + i * row + j * column]``, strides in elements."""

    buffer: tir.Buffer
    start: tir.Expr
    row: int
    column: int

    def at(self, i: tir.Expr, j: tir.Expr) -> tir.Expr:
        """Where element (i, j) is."""
        return self.start + i * self.row + j * self.column


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """How `columns` columns are cut into panels of at most `widest` vectors, of even width.

    13 vectors in panels of at most 4 are ``4, 3, 3, 3``: no panel is so narrow that it has too few
    accumulators.
    """

    columns: int
    lanes: int
    widest: int

    @property
    def vectors(self) -> int:
        """Vectors of all panels."""
        return math.ceil(self.columns / self.lanes)

    @property
    def padded(self) -> int:
        """Columns with the lanes that only pad."""
        return self.vectors * self.lanes

    @property
    def groups(self) -> tuple[tuple[int, int, int, int], ...]:
        """Equal panels: (first vector, number of panels, vectors in each, columns that exist)."""
        count = math.ceil(self.vectors / self.widest)
        narrow, wider = divmod(self.vectors, count)
        missing = self.padded - self.columns
        parts = [(0, wider, narrow + 1), (wider * (narrow + 1), count - wider, narrow)]
        found = []
        for first, number, vectors in parts:
            last = missing > 0 and number > 0 and first + number * vectors == self.vectors
            whole = number - 1 if last else number
            found.append((first, whole, vectors, vectors * self.lanes))
            if last:
                start = first + whole * vectors
                found.append((start, 1, vectors, vectors * self.lanes - missing))
        return tuple(group for group in found if group[1])

    def each(
        self,
        body: Callable[[tir.Expr, int, int], list[tir.Statement]],
        *,
        name: str,
        parallel: bool = False,
    ) -> list[tir.Statement]:
        """`body(first vector, vectors, columns that exist)` for every panel."""
        written: list[tir.Statement] = []
        for first, count, vectors, exist in self.groups:

            def panel(
                p: tir.Expr, first: int = first, vectors: int = vectors, exist: int = exist
            ) -> list[tir.Statement]:
                return body(p * vectors + first, vectors, exist)

            written += tir.loop(count, panel, name=name, parallel=parallel and count > 1)
        return written


def pack(source: Matrix, depth: int, panels: Panels, into: tir.Buffer) -> list[tir.Statement]:
    """Copy a matrix of `depth` rows into panels.

    Neighbouring columns are copied as vectors. Where the rows are neighbours instead (a transposed
    operand), square blocks are transposed in registers.
    """
    return panels.each(
        lambda first, vectors, exist: pack_panel(
            source, depth, panels.lanes, into, first=first, vectors=vectors, exist=exist
        ),
        name="pack",
    )


def pack_panel(
    source: Matrix,
    depth: int,
    lanes: int,
    into: tir.Buffer,
    *,
    first: tir.Expr,
    vectors: int,
    exist: int,
) -> list[tir.Statement]:
    """Copy one panel, `vectors` vectors from vector `first`, to its place among all panels."""
    start, width = first * (depth * lanes), vectors * lanes

    def vector(j: tir.Expr) -> list[tir.Statement]:
        column, to = (first + j) * lanes, start + j * lanes
        return _pack_vector(source, depth, lanes, into, column=column, to=to, width=width)

    whole = exist // lanes
    if source.column == 1:  # short code: unrolled
        written = [part for j in range(whole) for part in vector(tir.const(j))]
    else:
        written = tir.loop(whole, vector, name="vector")
    if exist % lanes == 0:
        return written
    column = (first + whole) * lanes

    def ragged(k: tir.Expr) -> list[tir.Statement]:
        stores = []
        for lane in range(lanes):
            value = tir.const(0.0, "float32")
            if whole * lanes + lane < exist:
                value = tir.load(source.buffer, source.at(k, column + lane))
            stores.append(tir.store(into, start + k * width + whole * lanes + lane, value))
        return stores

    return [*written, *tir.loop(depth, ragged, name="k")]


def _pack_vector(
    source: Matrix,
    depth: int,
    lanes: int,
    into: tir.Buffer,
    *,
    column: tir.Expr,
    to: tir.Expr,
    width: int,
) -> list[tir.Statement]:
    """`lanes` columns from `column`, of all rows; row k goes to ``to + k * width``."""

    def copy(k: tir.Expr) -> list[tir.Statement]:
        value = tir.load(source.buffer, source.at(k, column), lanes)
        return [tir.store(into, to + k * width, value, lanes)]

    def gather(k: tir.Expr) -> list[tir.Statement]:
        return [
            tir.store(
                into, to + k * width + lane, tir.load(source.buffer, source.at(k, column + lane))
            )
            for lane in range(lanes)
        ]

    def block(b: tir.Expr) -> list[tir.Statement]:
        loads = [
            tir.load(source.buffer, source.at(b * lanes, column + lane), lanes)
            for lane in range(lanes)
        ]
        written, rows = moves.named(loads, "float32", lanes)
        turning, turned = transposed(rows, "float32")
        stores = [
            tir.store(into, to + (b * lanes + k) * width, value, lanes)
            for k, value in enumerate(turned)
        ]
        return [*written, *turning, *stores]

    if source.column == 1:
        return tir.loop(depth, copy, name="k")
    if source.row != 1:
        return tir.loop(depth, gather, name="k")
    blocks = depth // lanes
    rest = [part for k in range(blocks * lanes, depth) for part in gather(tir.const(k))]
    return [*tir.loop(blocks, block, name="block"), *rest]


def multiply(
    left: Matrix,
    packed: tir.Buffer,
    panel: tir.Expr,
    store: Store,
    *,
    rows: int,
    depth: int,
    vectors: int,
    lanes: int,
) -> list[tir.Statement]:
    """One register tile: `rows` rows of `left` by the panel that starts at `panel` in `packed`."""
    width = vectors * lanes
    allocation, totals = tir.scratch("totals", rows * width, "float32", registers=True)
    zero = tir.const(0.0, "float32", lanes)
    places = [(i, j, i * width + j * lanes) for i in range(rows) for j in range(vectors)]

    def step(k: tir.Expr) -> list[tir.Statement]:
        written, weights = [], []
        for j in range(vectors):
            value = tir.load(packed, panel + k * width + j * lanes, lanes)
            named, value = tir.bind(f"b{j}", value, "float32", lanes)
            written.append(named)
            weights.append(value)
        for i in range(rows):
            value = tir.load(left.buffer, left.at(tir.const(i), k))
            named, value = tir.bind(f"a{i}", value, "float32")
            written.append(named)
            for j in range(vectors):
                at = i * width + j * lanes
                total = tir.load(totals, at, lanes) + tir.splat(value, lanes) * weights[j]
                written.append(tir.store(totals, at, total, lanes))
        return written

    finished = [part for i, j, at in places for part in store(i, j, tir.load(totals, at, lanes))]
    return [
        allocation,
        *(tir.store(totals, at, zero, lanes) for _, _, at in places),
        *tir.loop(depth, step, name="k"),
        *finished,
    ]


def row_blocks(
    rows: int, height: int, body: Callable[[tir.Expr, int], list[tir.Statement]], *, name: str
) -> list[tir.Statement]:
    """`body(first row, rows)` for blocks of `height` rows, and for the shorter last one."""
    whole, ragged = divmod(rows, height)
    written = tir.loop(whole, lambda b: body(b * height, height), name=name)
    return written + (body(tir.const(whole * height), ragged) if ragged else [])


def load_valid(
    buffer: tir.Buffer, at: tir.Expr, *, lanes: int, valid: int
) -> tuple[list[tir.Statement], tir.Expr]:
    """A vector of which only the first `valid` lanes exist; the others repeat the last."""
    if valid == lanes:
        return [], tir.load(buffer, at, lanes)
    allocation, ragged = tir.scratch("ragged_load", lanes, buffer.dtype, registers=True)
    copies = [
        tir.store(ragged, lane, tir.load(buffer, at + min(lane, valid - 1)))
        for lane in range(lanes)
    ]
    return [allocation, *copies], tir.load(ragged, tir.const(0), lanes)


def store_valid(
    buffer: tir.Buffer, at: tir.Expr, value: tir.Expr, *, lanes: int, valid: int
) -> list[tir.Statement]:
    """Store the first `valid` lanes of a vector."""
    if valid == lanes:
        return [tir.store(buffer, at, value, lanes)]
    allocation, ragged = tir.scratch("ragged_store", lanes, buffer.dtype, registers=True)
    return [
        allocation,
        tir.store(ragged, 0, value, lanes),
        *(tir.store(buffer, at + lane, tir.load(ragged, lane)) for lane in range(valid)),
    ]
