"""The code of an int8 depthwise convolution: the ring of staged rows, and the tiles over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import stmt

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, quads, tir
from millifit.targets.schedules.code import Signature
from millifit.targets.schedules.dot import Dot, add_products, flipped
from millifit.targets.schedules.quads import QUAD
from millifit.targets.schedules.tile import split_lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Everything decided about a kernel before code is written."""

    kernel: Kernel
    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    columns: int  # output columns of a tile
    lanes: int
    dot: Dot | None  # of four columns that are staged together; None: in float32, one by one
    chunks: int  # parts of the map that run in parallel
    block: int  # channels staged together
    packs: bool  # whether several vectors of outputs are narrowed together

    @property
    def quads(self) -> bool:
        """Whether four columns are staged together."""
        return self.dot is not None

    @property
    def interleaves(self) -> bool:
        """Whether bytes are put together by interleaving, as NEON does in one instruction."""
        return self.dot is not None and self.dot.kind.startswith("neon")

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.kernel.output.shape[3]

    @property
    def vectors(self) -> tuple[int, ...]:
        """Vectors that cover the channels."""
        return split_lanes(self.channels, self.lanes)

    @property
    def wide(self) -> int:
        """Channels with the lanes that only pad."""
        return sum(self.vectors)

    @property
    def groups(self) -> int:
        """Multiply-adds per kernel row."""
        return math.ceil(self.size[1] / QUAD) if self.quads else self.size[1]

    @property
    def reach(self) -> int:
        """Rows the kernel reaches over."""
        return (self.size[0] - 1) * self.dilations[0] + 1

    @property
    def column_step(self) -> int:
        """Columns of the map from one staged column to the next.

        Of quads only those are staged that some output reads.
        """
        shared = self.groups == 1 or QUAD * self.dilations[1] % self.strides[1] == 0
        return self.strides[1] if self.quads and shared else 1

    def column(self, output: int, group: int) -> int:
        """The staged column that output column `output` reads for a group of taps."""
        step = QUAD if self.quads else 1
        at = output * self.strides[1] + group * step * self.dilations[1]
        return at // self.column_step

    @property
    def staged_columns(self) -> int:
        """Columns of a staged row."""
        return self.column(self.kernel.output.shape[2] - 1, self.groups - 1) + 1

    @property
    def plain_columns(self) -> int:
        """Columns of the padded row that the staged ones are made from."""
        last = (self.staged_columns - 1) * self.column_step
        return last + (QUAD - 1) * self.dilations[1] + 1

    @property
    def accumulator(self) -> str:
        """Element type of sums, and of the ring."""
        return "int32" if self.quads else "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Channels staged together: where they start, how many there are, and with spare lanes."""

    first: tir.Expr
    channels: int
    wide: int


def write(plan: Design, parameters: Signature) -> list[tir.Statement]:
    """All blocks of channels of all rows, in chunks of rows that run in parallel."""

    def block(part: tir.Expr, first: tir.Expr, channels: int) -> list[tir.Statement]:
        wide = sum(split_lanes(channels, plan.lanes))
        writer = _Writer(plan, parameters, _Block(first=first, channels=channels, wide=wide))
        return writer.rows(part)

    def chunk(part: tir.Expr) -> list[tir.Statement]:
        whole, ragged = divmod(plan.channels, plan.block)
        written = tir.loop(whole, lambda b: block(part, b * plan.block, plan.block), name="block")
        if ragged:
            written += block(part, tir.const(whole * plan.block), ragged)
        return written

    return tir.loop(plan.chunks, chunk, name="chunk", parallel=plan.chunks > 1)


class _Writer:
    """Writes the code of one block of channels."""

    def __init__(self, plan: Design, parameters: Signature, block: _Block) -> None:
        self.plan = plan
        self.block = block
        self.buffers = parameters.views
        self.zero_point = epilogue.scalar(self.buffers["scalars"], "input_zero_point")

    def rows(self, part: tir.Expr) -> list[tir.Statement]:
        """The rows of one chunk, with a ring of their own."""
        plan, wide = self.plan, self.block.wide
        height = plan.kernel.output.shape[1]
        per_chunk = math.ceil(height / plan.chunks)
        elements = plan.reach * plan.staged_columns * wide
        allocation, ring = tir.scratch("ring", elements, plan.accumulator)
        statements = [allocation]
        plain = None
        if plan.quads:
            allocation, plain = tir.scratch("plain", plan.plain_columns * wide, "uint8")
            statements.append(allocation)
        first = part * per_chunk
        count = tirx.min(tir.const(per_chunk), height - first)
        return [
            *statements,
            *tir.loop(count, lambda i: self._row(ring, plain, first + i, i), name="row"),
        ]

    def _row(
        self, ring: tir.Buffer, plain: tir.Buffer | None, y: tir.Expr, since: tir.Expr
    ) -> list[tir.Statement]:
        """Stage the rows new to output row `y`, the `since`-th of its chunk, and compute it."""
        plan = self.plan
        top = y * plan.strides[0] - plan.pads[0]
        fresh = min(plan.strides[0], plan.reach)
        known = tirx.Select(since == 0, tir.const(0), tir.const(plan.reach - fresh))
        named, start = tir.bind("first_new", known, "int32")
        staged = tir.loop(
            tir.const(plan.reach) - start,
            lambda i: self._stage(ring, plain, top + i),
            name="stage",
            start=start,
        )
        return [named, *staged, *self._tiles(ring, y, top)]

    def _slot(self, row: tir.Expr) -> tir.Expr:
        """Where a row of the map is in the ring."""
        return tirx.floormod(row + self.plan.pads[0], self.plan.reach) * (
            self.plan.staged_columns * self.block.wide
        )

    def _stage(
        self, ring: tir.Buffer, plain: tir.Buffer | None, row: tir.Expr
    ) -> list[tir.Statement]:
        plan = self.plan
        height = plan.kernel.inputs[0].shape[1]
        named, at = tir.bind("slot", self._slot(row), "int32")
        inside = (row >= 0) & (row < height)
        if plain is None:
            copied = tir.sequence(self._copy(ring, at, row, plan.staged_columns))
            zeros = tir.sequence(self._fill(ring, at, plan.staged_columns * self.block.wide))
            return [named, stmt.IfThenElse(inside, copied, zeros)]
        nothing = tir.const(0)
        copied = tir.sequence(self._copy(plain, nothing, row, plan.plain_columns))
        zeros = tir.sequence(self._fill(plain, nothing, plan.plain_columns * self.block.wide))
        return [
            named,
            stmt.IfThenElse(inside, copied, zeros),
            *self._quads(ring, plain, at),
        ]

    def _fill(self, buffer: tir.Buffer, at: tir.Expr, count: int) -> list[tir.Statement]:
        """Padding: the zero point, or zero where it was subtracted already."""
        value = tir.const(0.0, "float32")
        if self.plan.dot is not None:
            value = flipped(self.plan.dot, self.zero_point.astype("uint8"), 1)
        return tir.vectors(
            count, lambda i, lanes: [tir.store(buffer, at + i, tir.splat(value, lanes), lanes)]
        )

    def _copy(
        self, buffer: tir.Buffer, at: tir.Expr, row: tir.Expr, columns: int
    ) -> list[tir.Statement]:
        """One row of the map with its padding, channels padded to whole vectors."""
        plan = self.plan
        width, channels = plan.kernel.inputs[0].shape[2:]
        left = min(plan.pads[1], columns)
        middle = max(0, min(width, columns - left))
        source = self.buffers["input"]

        def move(to: tir.Expr, read: tir.Expr, lanes: int) -> list[tir.Statement]:
            value = tir.load(source, read, lanes)
            if plan.dot is not None:
                return [tir.store(buffer, to, flipped(plan.dot, value, lanes), lanes)]
            value = tir.cast(tir.cast(value, "int32", lanes), "float32", lanes)
            value = value - tir.splat(self.zero_point, lanes)
            return [tir.store(buffer, to, value, lanes)]

        start = at + left * self.block.wide
        first = self.block.first
        if channels == self.block.channels == self.block.wide:
            moved = tir.vectors(
                middle * channels,
                lambda i, lanes: move(start + i, row * (width * channels) + i, lanes),
                widest=64 if plan.quads else 16,
            )
        else:
            moved = tir.loop(
                middle,
                lambda x: tir.vectors(
                    self.block.channels,
                    lambda c, lanes: move(
                        start + x * self.block.wide + c,
                        (row * width + x) * channels + first + c,
                        lanes,
                    ),
                ),
                name="x",
            )
        right = columns - left - middle
        return [
            *self._fill(buffer, at, left * self.block.wide),
            *moved,
            *self._fill(buffer, start + middle * self.block.wide, right * self.block.wide),
        ]

    def _quads(self, ring: tir.Buffer, plain: tir.Buffer, at: tir.Expr) -> list[tir.Statement]:
        """Four columns of each channel into 32 bits."""
        plan = self.plan
        next_tap = plan.dilations[1] * self.block.wide
        used = min(QUAD, plan.size[1])

        def element(read: tir.Expr, to: tir.Expr, lanes: int) -> list[tir.Statement]:
            taps = [tir.load(plain, read + tap * next_tap, lanes) for tap in range(used)]
            together = quads.interleaved if plan.interleaves else quads.shifted
            return [tir.store(ring, at + to, together(taps, lanes), lanes)]

        widest = 16 if plan.interleaves else plan.lanes
        if plan.column_step == 1:
            count = plan.staged_columns * self.block.wide
            return tir.vectors(count, lambda i, lanes: element(i, i, lanes), widest=widest)
        return tir.loop(
            plan.staged_columns,
            lambda x: tir.vectors(
                self.block.wide,
                lambda c, lanes: element(
                    x * (plan.column_step * self.block.wide) + c, x * self.block.wide + c, lanes
                ),
                widest=widest,
            ),
            name="quad",
        )

    def _tiles(self, ring: tir.Buffer, y: tir.Expr, top: tir.Expr) -> list[tir.Statement]:
        """All vectors of channels and all tiles of one output row."""
        plan = self.plan
        width = plan.kernel.output.shape[2]
        whole, ragged = divmod(width, plan.columns)
        slots = [
            tir.bind(f"slot{ky}", self._slot(top + ky * plan.dilations[0]), "int32")
            for ky in range(plan.size[0])
        ]

        def channels(c: tir.Expr, lanes: int, valid: int) -> list[tir.Statement]:
            def tile(x: tir.Expr, columns: int) -> list[tir.Statement]:
                return self._tile(ring, [slot for _, slot in slots], y, x, columns, c, lanes, valid)

            tiles = tir.loop(whole, lambda t: tile(t * plan.columns, plan.columns), name="tile")
            return [*tiles, *(tile(tir.const(whole * plan.columns), ragged) if ragged else [])]

        full = self.block.channels // plan.lanes
        written = tir.loop(
            full, lambda c: channels(c * plan.lanes, plan.lanes, plan.lanes), name="c"
        )
        start = full * plan.lanes
        for lanes in split_lanes(self.block.channels, plan.lanes)[full:]:
            written += channels(tir.const(start), lanes, min(lanes, self.block.channels - start))
            start += lanes
        return [*(named for named, _ in slots), *written]

    def _tile(
        self,
        ring: tir.Buffer,
        slots: list[tir.Expr],
        y: tir.Expr,
        x: tir.Expr,
        columns: int,
        c: tir.Expr,
        lanes: int,
        valid: int,
    ) -> list[tir.Statement]:
        """`columns` outputs from column `x`, for one vector of channels."""
        plan, kernel, buffers = self.plan, self.plan.kernel, self.buffers
        channel = self.block.first + c
        allocation, totals = tir.scratch(
            "totals", columns * lanes, plan.accumulator, registers=True
        )
        body: list[tir.Statement] = [allocation]
        start = tir.const(0, plan.accumulator, lanes)
        if plan.quads:
            named, start = tir.bind(
                "bias", tir.load(buffers["bias"], channel, lanes), "int32", lanes
            )
            body.append(named)
        body += [tir.store(totals, i * lanes, start, lanes) for i in range(columns)]
        readers: dict[int, list[tuple[int, int]]] = {}  # staged column -> (output, group of taps)
        for i in range(columns):
            for group in range(plan.groups):
                readers.setdefault(plan.column(i, group), []).append((i, group))
        first = x * (plan.strides[1] // plan.column_step)
        for ky, slot in enumerate(slots):
            named_weights = [self._weight(ky, group, c, lanes) for group in range(plan.groups)]
            body += [named for named, _ in named_weights]
            for column in sorted(readers):
                value = tir.load(ring, slot + (first + column) * self.block.wide + c, lanes)
                named, staged = tir.bind(f"x{ky}_{column}", value, plan.accumulator, lanes)
                body.append(named)
                for i, group in readers[column]:
                    total = tir.load(totals, i * lanes, lanes)
                    total = self._add(total, staged, named_weights[group][1], lanes)
                    body.append(tir.store(totals, i * lanes, total, lanes))
        tile = []
        for i in range(columns):
            total = tir.load(totals, i * lanes, lanes)
            if not plan.quads:
                total = tir.cast(total, "int32", lanes) + tir.load(buffers["bias"], channel, lanes)
            out = (y * kernel.output.shape[2] + x + i) * plan.channels + channel
            tile.append((total, channel, out))
        if plan.packs and valid == lanes == plan.lanes:
            return body + epilogue.write_packed(
                tile, kernel=kernel, buffers=buffers, lanes=lanes, adjacent=1
            )
        for total, _, out in tile:
            body += epilogue.write(
                total, kernel=kernel, channel=channel, buffers=buffers, out=out, lanes=lanes,
                valid=valid,
            )  # fmt: skip
        return body

    def _weight(
        self, ky: int, group: int, c: tir.Expr, lanes: int
    ) -> tuple[tir.Statement, tir.Expr]:
        """One group of taps of a kernel row, for one vector of channels."""
        plan = self.plan
        unit, dtype = (QUAD, "int8") if plan.quads else (1, "float32")
        at = ((ky * plan.groups + group) * plan.wide + self.block.first + c) * unit
        value = tir.load(self.buffers["weight"], at, lanes * unit)
        return tir.bind(f"w{ky}_{group}", value, dtype, lanes * unit)

    def _add(self, total: tir.Expr, value: tir.Expr, weight: tir.Expr, lanes: int) -> tir.Expr:
        if self.plan.dot is None:
            return total + value * weight
        return add_products(self.plan.dot, total, value, weight, lanes)
