"""The register tile: some output positions by one panel of channels, the innermost code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.contraction_plan import Design
from millifit.targets.schedules.dot import load_activation, load_weights, multiply_add
from millifit.targets.schedules.prefetch import LINE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Output channels of one panel: the lanes of its vectors, and where it starts.

    `first` counts channels within the group, `packed` in the packed per-channel operands, `weight`
    elements in the packed weights. `valid` channels exist, the rest of the last vector only pads.
    """

    lanes: tuple[int, ...]
    first: tir.Expr
    packed: tir.Expr
    weight: tir.Expr
    valid: int

    @property
    def width(self) -> int:
        """Channels of the panel, padding included."""
        return sum(self.lanes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each vector starts in the panel."""
        return tuple(sum(self.lanes[:j]) for j in range(len(self.lanes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Output positions x .. x + positions - 1, counted from the start of row y.

    `source_row` is the row of the source, padding included, that holds row y's first inputs.
    """

    y: tir.Expr
    x: tir.Expr
    positions: int
    source_row: tir.Expr


# Stores an accumulator: position in the tile, offset in the panel, value, lanes.
Store = Callable[[int, int, tir.Expr, int], list[tir.Statement]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterTile:
    """Writes one tile of a design, reading activations from `source`.

    Accumulators start at the ``bias`` of `buffers`, or at 0 where there is none. They end in the
    kernel's epilogue and output, or in `store` where that is given.
    """

    plan: Design
    buffers: Mapping[str, tir.Buffer]
    source: tir.Buffer
    group: tir.Expr
    panel: Panel
    place: Place
    store: Store | None = None

    @property
    def held(self) -> int:
        """Positions there are accumulators for."""
        return self.place.positions

    def code(self) -> list[tir.Statement]:
        """Accumulators, reduction and epilogue."""
        allocation, accumulators = tir.scratch(
            "accumulators",
            self.held * self.panel.width,
            self.plan.dot.accumulator,
            registers=True,
        )
        spots = [self._spot(i) for i in range(self.place.positions)]
        reads = [self._read_at(dy, column) for dy, column in spots]

        return [
            allocation,
            *self._prefetch(spots),
            *self._start(accumulators),
            *self._reduction(accumulators, reads),
            *self._finish(accumulators, spots),
        ]

    def _prefetch(self, spots: list[tuple[tir.Expr, tir.Expr]]) -> list[tir.Statement]:
        """Fetch what the epilogue reads and writes while the reduction runs."""
        if self.store is not None:
            return []
        written: list[tir.Statement] = []
        for name in self.plan.prefetched:
            buffer = self.buffers[name]
            line = LINE_BYTES // np.dtype(buffer.dtype).itemsize
            for spot in spots:
                start = self._written_at(spot)
                written += [
                    tir.prefetch(buffer, start + at, write=name == "output")
                    for at in range(0, self.panel.valid, line)
                ]
        return written

    def _written_at(self, spot: tuple[tir.Expr, tir.Expr]) -> tir.Expr:
        """Where the outputs of a position start."""
        shape, (dy, column) = self.plan.shape, spot
        position = (self.place.y + dy) * shape.out_width + column
        out = position * (shape.outputs * shape.groups) + self.group * shape.outputs
        return out + self.panel.first

    def _spot(self, i: int) -> tuple[tir.Expr, tir.Expr]:
        """Row and column, from (y, 0), of the i-th position."""
        linear = self.place.x + i
        if self.plan.tile_rows == 1:
            return tir.const(0), linear
        width = self.plan.shape.out_width
        return linear // width, linear % width

    def _read_at(self, dy: tir.Expr, column: tir.Expr) -> tir.Expr:
        """Where the inputs of a position start in the source."""
        shape = self.plan.shape
        row = self.place.source_row + dy * shape.strides[0]
        step = shape.strides[1] * shape.inputs * shape.groups
        return row * self.plan.row_elements + column * step + self.group * shape.inputs

    def _start(self, accumulators: tir.Buffer) -> list[tir.Statement]:
        """Every accumulator starts as its channel's bias, or at 0."""
        written: list[tir.Statement] = []
        dtype = self.plan.dot.accumulator
        for j, (lanes, offset) in enumerate(zip(self.panel.lanes, self.panel.offsets, strict=True)):
            bias = tir.const(0, dtype, lanes)
            if "bias" in self.buffers:
                bias = tir.load(self.buffers["bias"], self.panel.packed + offset, lanes)
            named, start = tir.bind(f"bias{j}", bias, dtype, lanes)
            written.append(named)
            written += [
                tir.store(accumulators, i * self.panel.width + offset, start, lanes)
                for i in range(self.held)
            ]
        return written

    def _reduction(self, sums: tir.Buffer, reads: list[tir.Expr]) -> list[tir.Statement]:
        """All products, added to `sums`."""
        return tir.loop(
            self.plan.shape.kernel[0], lambda ky: self._kernel_row(sums, reads, ky), name="ky"
        )

    def _kernel_row(
        self, sums: tir.Buffer, reads: list[tir.Expr], ky: tir.Expr
    ) -> list[tir.Statement]:
        return tir.loop(
            self.plan.shape.taps,
            lambda kx: self._run(sums, reads, ky, kx, 0, self.plan.steps),
            name="kx",
        )

    def _run(
        self,
        sums: tir.Buffer,
        reads: list[tir.Expr],
        ky: tir.Expr,
        kx: tir.Expr,
        first: tir.Expr,
        count: int,
    ) -> list[tir.Statement]:
        """`count` of the steps of one run, from the `first`."""
        group = self.plan.dot.group

        def some(start: tir.Expr, number: int) -> list[tir.Statement]:
            whole, rest = divmod(number, group)

            def steps(at: tir.Expr, together: int) -> list[tir.Statement]:
                reached = self._reached(ky, kx, first + start + at)
                return self._steps(sums, reads, reached, together)

            written = tir.loop(whole, lambda k: steps(k * group, group), name="k")
            return written + tir.loop(rest, lambda k: steps(whole * group + k, 1), name="k")

        if not self.plan.prefetches_input:
            return some(tir.const(0), count)
        line = LINE_BYTES // (np.dtype(self.plan.dot.activation).itemsize * self.plan.dot.unit)

        def ahead(start: tir.Expr, number: int) -> list[tir.Statement]:
            _, read_at = self._reached(ky, kx, first + start)
            return [*self._next_inputs(reads, read_at), *some(start, number)]

        written = tir.loop(count // line, lambda b: ahead(b * line, line), name="line")
        rest = count % line
        return written + (ahead(tir.const(count - rest), rest) if rest else [])

    def _next_inputs(self, reads: list[tir.Expr], read_at: tir.Expr) -> list[tir.Statement]:
        """Ask for the line of the next tile's inputs that corresponds to what is read now."""
        step = self.plan.shape.strides[1] * self.plan.shape.inputs * self.plan.shape.groups
        beyond = len(reads) * step
        return [tir.prefetch(self.source, base + read_at + beyond, write=False) for base in reads]

    def _steps(
        self,
        accumulators: tir.Buffer,
        reads: list[tir.Expr],
        reached: tuple[tir.Expr, tir.Expr],
        count: int,
    ) -> list[tir.Statement]:
        """`count` dot products for every position and channel; their activations loaded at once."""
        dot, panel = self.plan.dot, self.panel
        weights_at, read_at = reached
        written: list[tir.Statement] = []
        loaded = []
        if count > 1:
            for i, base in enumerate(reads):
                value = load_activation(dot, self.source, base + read_at, count)
                named, vector = tir.bind(f"a{i}", value, dot.broadcast, count)
                written.append(named)
                loaded.append(vector)
        for step in range(count):
            weights = []
            at = weights_at + step * (panel.width * dot.unit)
            for j, (lanes, offset) in enumerate(zip(panel.lanes, panel.offsets, strict=True)):
                value = load_weights(dot, self.buffers["weight"], at + offset * dot.unit, lanes)
                named, variable = tir.bind(f"w{j}", value, dot.weight_register, lanes * dot.unit)
                written.append(named)
                weights.append(variable)
            for i, base in enumerate(reads):
                if loaded:
                    activation = tir.shuffle([loaded[i]], [step])
                else:
                    value = load_activation(dot, self.source, base + read_at, 1)
                    named, activation = tir.bind(f"a{i}", value, dot.broadcast)
                    written.append(named)
                for j, (lanes, offset) in enumerate(zip(panel.lanes, panel.offsets, strict=True)):
                    at_total = i * panel.width + offset
                    total = tir.load(accumulators, at_total, lanes)
                    total = multiply_add(dot, total, activation, weights[j], lanes)
                    written.append(tir.store(accumulators, at_total, total, lanes))
        return written

    def _reached(self, ky: tir.Expr, kx: tir.Expr, k: tir.Expr) -> tuple[tir.Expr, tir.Expr]:
        """Where the weights of a step are, and its activations from a position's first."""
        plan, shape, dot = self.plan, self.plan.shape, self.plan.dot
        step = (ky * shape.taps + kx) * plan.steps + k
        read_at = ky * (shape.dilations[0] * plan.row_elements)
        read_at += kx * (shape.dilations[1] * shape.inputs * shape.groups) + k * dot.unit
        return self.panel.weight + step * (self.panel.width * dot.unit), read_at

    def _finish(
        self, accumulators: tir.Buffer, spots: list[tuple[tir.Expr, tir.Expr]]
    ) -> list[tir.Statement]:
        """Epilogue and store of every vector."""
        panel = self.panel
        whole = panel.valid == panel.width and set(panel.lanes) == {self.plan.lanes}
        if self.store is None and whole and self.plan.packs:
            return self._finish_packed(accumulators, spots)
        written: list[tir.Statement] = []
        for i, spot in enumerate(spots):
            out = self._written_at(spot)
            for lanes, offset in zip(panel.lanes, panel.offsets, strict=True):
                value = tir.load(accumulators, i * panel.width + offset, lanes)
                if self.store is not None:
                    written += self.store(i, offset, value, lanes)
                    continue
                written += epilogue.write(
                    value,
                    kernel=self.plan.kernel,
                    channel=panel.packed + offset,
                    buffers=self.buffers,
                    out=out + offset,
                    lanes=lanes,
                    valid=min(lanes, panel.valid - offset),
                )
        return written

    def _finish_packed(
        self, accumulators: tir.Buffer, spots: list[tuple[tir.Expr, tir.Expr]]
    ) -> list[tir.Statement]:
        """Epilogue and store of all vectors, several at a time."""
        panel, lanes = self.panel, self.plan.lanes
        tile = [
            (
                tir.load(accumulators, i * panel.width + offset, lanes),
                panel.packed + offset,
                self._written_at(spot) + offset,
            )
            for i, spot in enumerate(spots)
            for offset in panel.offsets
        ]
        return epilogue.write_packed(
            tile, kernel=self.plan.kernel, buffers=self.buffers, lanes=lanes,
            adjacent=len(panel.lanes),
        )  # fmt: skip
