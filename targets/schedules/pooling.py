"""Pooling over windows, channels across the vector lanes.

A tile is some neighbouring output columns of one vector of channels. Every input column they reach
is reduced over the window's rows first, once for all outputs; those results are joined along the
window's columns after. Columns outside the map are left out where a tile touches its edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import KernelCode, number, pads_of, pair, signature
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    kernel: Kernel
    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    columns: int  # output columns of a tile
    lanes: int
    held: str  # element type of what is reduced

    @property
    def maximum(self) -> bool:
        return self.kernel.op == "max_pool"

    @property
    def counts_padding(self) -> bool:
        return bool(number(self.kernel, "count_include_pad", 0))

    def reached(self, columns: int) -> list[int]:
        """Input columns that a tile of so many output columns reads, counted from its first."""
        return sorted(
            {i * self.strides[1] + kx * self.dilations[1]
             for i in range(columns) for kx in range(self.size[1])}
        )  # fmt: skip


def _design(kernel: Kernel, target: Target) -> _Design:
    """As many columns as three quarters of the registers hold results for."""
    dtype = kernel.inputs[0].dtype
    held = dtype if kernel.op == "max_pool" or dtype == "float32" else "int32"
    plan = _Design(
        kernel=kernel, size=pair(kernel, "kernel"), strides=pair(kernel, "strides"),
        dilations=pair(kernel, "dilations", (1, 1)), pads=pads_of(kernel), columns=1,
        lanes=moves.widest(target, 1) if held == "uint8" else target.fp32_lanes, held=held,
    )  # fmt: skip
    width = kernel.output.shape[2]
    fitting = [
        count
        for count in range(1, min(8, width) + 1)
        if len(plan.reached(count)) <= target.vector_registers * 3 // 4
    ]
    most = max(fitting, default=1)
    columns = math.ceil(width / math.ceil(width / most))
    return _Design(**{**{f: getattr(plan, f) for f in _Design.__slots__}, "columns": columns})


def pooling(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a max_pool or avg_pool kernel; float32 or uint8 in and out.

    Averages of uint8 values are sums of integers, scaled once. With ``count_include_pad`` padding
    counts as zeros, as far as `pads` reach; what a last window has beyond them never counts.
    """
    plan = _design(kernel, target)
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    parallel = target.threads > 1 and kernel.inputs[0].elements >= moves.PARALLEL_ELEMENTS
    batch, rows = kernel.output.shape[:2]
    writer = _Writer(plan, parameters.views)
    body = tir.loop(
        batch,
        lambda n: tir.loop(rows, lambda y: writer.row(n, y), name="y", parallel=parallel),
        name="n",
    )
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )


class _Writer:
    """Writes the code of one design."""

    def __init__(self, plan: _Design, views: Mapping[str, tir.Buffer]) -> None:
        self.plan, self.views = plan, views
        _, self.height, self.width, self.channels = plan.kernel.inputs[0].shape

    def row(self, n: tir.Expr, y: tir.Expr) -> list[tir.Statement]:
        """One output row: the window rows that lie in the map, and all tiles."""
        plan, step = self.plan, self.plan.dilations[0]
        top = y * plan.strides[0] - plan.pads[0]
        low = tirx.max(tir.const(0), tirx.floordiv(step - 1 - top, step))
        named_low, first = tir.bind("ky_low", low, "int32")

        def end(extent: int) -> tir.Expr:
            return tirx.min(tir.const(plan.size[0]), tirx.floordiv(extent - top + step - 1, step))

        named_high, last = tir.bind("ky_high", end(self.height), "int32")
        counted = last - first
        if plan.counts_padding:
            counted = end(self.height + plan.pads[2])
        named_count, rows = tir.bind("rows", counted.astype("float32"), "float32")

        def channel(c: tir.Expr, lanes: int) -> list[tir.Statement]:
            return self._columns(n, y, top, first, last, rows, c, lanes)

        body = moves.overlapping(self.channels, plan.lanes, channel)
        return [named_low, named_high, named_count, *body]

    def _columns(
        self,
        n: tir.Expr,
        y: tir.Expr,
        top: tir.Expr,
        first: tir.Expr,
        last: tir.Expr,
        rows: tir.Expr,
        channel: tir.Expr,
        lanes: int,
    ) -> list[tir.Statement]:
        """All tiles of one row and one vector of channels; those inside the map in a loop."""
        plan = self.plan
        width = plan.kernel.output.shape[2]
        starts = range(0, width, plan.columns)
        inner = [x for x in starts if x + plan.columns <= width and self._inside(x, plan.columns)]

        def tile(x: tir.Expr, columns: int, known: int | None) -> list[tir.Statement]:
            reached = [o for o in plan.reached(columns) if known is None or self._exists(known, o)]
            place = (n * self.height + top) * self.width + x * plan.strides[1] - plan.pads[1]
            written, totals = self._vertical(place, first, last, reached, channel, lanes)
            for i in range(columns):
                taps = [i * plan.strides[1] + kx * plan.dilations[1] for kx in range(plan.size[1])]
                found = [totals[tap] for tap in taps if tap in totals]
                value = self._joined(found, lanes)
                counted = plan.size[1] if known is None else self._counted(known, taps)
                value = self._finished(value, rows, first, last, len(found), counted, lanes)
                out = (n * plan.kernel.output.shape[1] + y) * width + x + i
                at = out * self.channels + channel
                written.append(tir.store(self.views["output"], at, value, lanes))
            return written

        written: list[tir.Statement] = []
        for x in starts:
            if x not in inner:
                written += tile(tir.const(x), min(plan.columns, width - x), x)
            elif x == inner[0]:
                written += tir.loop(
                    len(inner),
                    lambda t: tile(t * plan.columns + inner[0], plan.columns, None),
                    name="tile",
                )
        return written

    def _inside(self, x: int, columns: int) -> bool:
        return all(self._exists(x, offset) for offset in self.plan.reached(columns))

    def _exists(self, x: int, offset: int) -> bool:
        return 0 <= x * self.plan.strides[1] - self.plan.pads[1] + offset < self.width

    def _counted(self, x: int, taps: list[int]) -> int:
        """Window columns that an average counts."""
        if not self.plan.counts_padding:
            return sum(self._exists(x, tap) for tap in taps)
        start = x * self.plan.strides[1] - self.plan.pads[1]
        return sum(start + tap < self.width + self.plan.pads[3] for tap in taps)

    def _vertical(
        self,
        place: tir.Expr,
        first: tir.Expr,
        last: tir.Expr,
        reached: list[int],
        channel: tir.Expr,
        lanes: int,
    ) -> tuple[list[tir.Statement], dict[int, tir.Expr]]:
        """Every reached column over the window's rows: the code, and the values by column."""
        plan, source = self.plan, self.views["input"]
        allocation, totals = tir.scratch(
            "totals", max(1, len(reached)) * lanes, plan.held, registers=True
        )
        neutral = 0 if not plan.maximum or plan.held == "uint8" else -math.inf
        start = tir.const(neutral, plan.held, lanes)
        written = [allocation]
        written += [tir.store(totals, j * lanes, start, lanes) for j in range(len(reached))]

        def window_row(ky: tir.Expr) -> list[tir.Statement]:
            base = (place + ky * (plan.dilations[0] * self.width)) * self.channels + channel
            added = []
            for j, offset in enumerate(reached):
                value = tir.load(source, base + offset * self.channels, lanes)
                if plan.held != plan.kernel.inputs[0].dtype:
                    value = tir.cast(value, plan.held, lanes)
                joined = self._join(tir.load(totals, j * lanes, lanes), value)
                added.append(tir.store(totals, j * lanes, joined, lanes))
            return added

        if reached:
            written += tir.loop(last - first, window_row, name="ky", start=first)
        named, values = moves.named(
            [tir.load(totals, j * lanes, lanes) for j in range(len(reached))], plan.held, lanes
        )
        return [*written, *named], dict(zip(reached, values, strict=True))

    def _join(self, left: tir.Expr, right: tir.Expr) -> tir.Expr:
        return tirx.max(left, right) if self.plan.maximum else left + right

    def _joined(self, values: list[tir.Expr], lanes: int) -> tir.Expr:
        if not values:  # a window that lies in the padding
            return tir.const(0, self.plan.held, lanes)
        total = values[0]
        for value in values[1:]:
            total = self._join(total, value)
        return total

    def _finished(
        self,
        value: tir.Expr,
        rows: tir.Expr,
        first: tir.Expr,
        last: tir.Expr,
        found: int,
        counted: int,
        lanes: int,
    ) -> tir.Expr:
        """From a maximum or a sum to the output."""
        kernel, scalars = self.plan.kernel, self.views["scalars"]
        if not self.plan.maximum:
            if self.plan.held == "int32":
                read = (last - first).astype("float32") * float(found)
                offset = epilogue.scalar(scalars, "input_zero_point") * read
                value = tir.cast(value, "float32", lanes) - tir.splat(offset, lanes)
                value = value * epilogue.splat_scalar(scalars, "input_scale", lanes)
            value = value / tir.splat(rows * float(max(1, counted)), lanes)
        elif self.plan.held == "uint8":
            return value
        for step in kernel.epilogue:
            value = epilogue.activate(value, step, scalars, lanes)
        if kernel.output.dtype == "uint8":
            return epilogue.quantize(value, scalars, lanes)
        return value
