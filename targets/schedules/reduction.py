"""Reductions over any axes: sums, means, extremes, products, norms; also whole-map pooling.

Neighbouring axes that are all kept, or all reduced, are one. Where the innermost is kept it lies
across the vector lanes, several vectors at a time; where it is reduced, the lanes are parts of one
sum that are joined at its end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import KernelCode, signature
from millifit.targets.schedules.movement import integers
from millifit.targets.schedules.row_reduction import reduce_row
from millifit.targets.target import Target

REDUCTIONS = (
    *("reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod"),
    *("reduce_l1", "reduce_l2", "reduce_sum_square", "global_avg_pool", "global_max_pool"),
)
# Vectors in flight: an addition takes 4 cycles and two can start per cycle.
_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring axes that are all reduced, or all kept: positions, and elements between two."""

    extent: int
    stride: int
    reduced: bool


def runs_of(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[Run]:
    """The axes of more than one position, merged where neighbours are treated alike."""
    merged: list[Run] = []
    stride = 1
    for axis in range(len(shape) - 1, -1, -1):
        extent, reduced = shape[axis], axis in axes
        if extent == 1:
            continue
        if merged and merged[0].reduced == reduced:
            first = merged[0]
            merged[0] = Run(extent=extent * first.extent, stride=first.stride, reduced=reduced)
        else:
            merged.insert(0, Run(extent=extent, stride=stride, reduced=reduced))
        stride *= extent
    return merged


def reduction(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a kernel of REDUCTIONS: attribute ``axes``; pools reduce all but first and last.

    Reads float32, or uint8 for means and extremes; means of uint8 are sums of integers, scaled
    once.
    """
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    body = _Writer(kernel, target, parameters.views).code()
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )


class _Writer:
    """Writes the code of one reduction."""

    def __init__(self, kernel: Kernel, target: Target, views: Mapping[str, tir.Buffer]) -> None:
        self.kernel, self.views = kernel, views
        shape, dtype = kernel.inputs[0].shape, kernel.inputs[0].dtype
        pool = kernel.op.startswith("global")
        axes = tuple(range(1, len(shape) - 1)) if pool else integers(kernel, "axes")
        self.op = {"global_avg_pool": "reduce_mean", "global_max_pool": "reduce_max"}.get(
            kernel.op, kernel.op
        )
        self.count = math.prod(shape[axis] for axis in axes)
        runs = runs_of(shape, axes)
        self.inner = runs.pop() if runs else Run(extent=1, stride=1, reduced=False)
        self.kept = [run for run in runs if not run.reduced]
        self.reduced = [run for run in runs if run.reduced]
        self.extreme = self.op in ("reduce_max", "reduce_min")
        self.integer = dtype == "uint8"
        # Integers stay bytes where they are only compared, and add up in 32 bits.
        self.held = "float32"
        if self.integer and not self.inner.reduced:
            self.held = "uint8" if self.extreme else "int32"
        self.float_lanes = target.fp32_lanes
        self.lanes = moves.widest(target, 1) if self.held == "uint8" else target.fp32_lanes
        self.parallel = target.threads > 1
        self.parallel = self.parallel and kernel.inputs[0].elements >= moves.PARALLEL_ELEMENTS

    def code(self) -> list[tir.Statement]:
        """Loops over what is kept, each position reduced."""

        def along(runs: list[Run], read: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
            if not runs:
                return self._across(read, to) if self.inner.reduced else self._beside(read, to)
            run, *others = runs
            outermost = len(runs) == len(self.kept)
            return tir.loop(
                run.extent,
                lambda i: along(others, read + i * run.stride, to * run.extent + i),
                name="kept",
                parallel=self.parallel and outermost,
            )

        return along(self.kept, tir.const(0), tir.const(0))

    def _neutral(self) -> float:
        match self.op:
            case "reduce_max":
                return 0 if self.held == "uint8" else -math.inf
            case "reduce_min":
                return 255 if self.held == "uint8" else math.inf
            case "reduce_prod":
                return 1
        return 0

    def _join(self, first: tir.Expr, second: tir.Expr) -> tir.Expr:
        match self.op:
            case "reduce_max":
                return tirx.max(first, second)
            case "reduce_min":
                return tirx.min(first, second)
            case "reduce_prod":
                return first * second
        return first + second

    def _term(self, at: tir.Expr, lanes: int) -> tir.Expr:
        """What an element adds."""
        value = tir.load(self.views["input"], at, lanes)
        if self.integer and self.held != "uint8":
            value = tir.cast(value, "int32", lanes)
            value = value if self.held == "int32" else tir.cast(value, "float32", lanes)
        match self.op:
            case "reduce_l1":
                return tirx.max(value, tir.const(0.0, "float32", lanes) - value)
            case "reduce_l2" | "reduce_sum_square":
                return value * value
        return value

    def _finished(self, value: tir.Expr, lanes: int) -> tir.Expr:
        scalars = self.views["scalars"]
        if self.integer and self.extreme:
            return value if self.held == "uint8" else tir.cast(value, "uint8", lanes)
        if self.op == "reduce_mean":
            count = tir.const(float(self.count), "float32", lanes)
            if self.integer:
                value = tir.cast(value, "float32", lanes) if self.held == "int32" else value
                value = value - epilogue.splat_scalar(scalars, "input_zero_point", lanes) * count
                value = value * epilogue.splat_scalar(scalars, "input_scale", lanes)
            value = value / count
        if self.op == "reduce_l2":
            value = tirx.sqrt(value)
        for step in self.kernel.epilogue:
            value = epilogue.activate(value, step, scalars, lanes)
        if self.kernel.output.dtype == "uint8":
            return epilogue.quantize(value, scalars, lanes)
        return value

    def _store(self, to: tir.Expr, value: tir.Expr, lanes: int) -> tir.Statement:
        return tir.store(self.views["output"], to, self._finished(value, lanes), lanes)

    def _over(
        self, read: tir.Expr, body: moves.Body, runs: list[Run] | None = None
    ) -> list[tir.Statement]:
        """`body(read)` at every position that the outer reduced axes have."""
        runs = self.reduced if runs is None else runs
        if not runs:
            return list(body(read))
        run, *others = runs
        return tir.loop(
            run.extent, lambda i: self._over(read + i * run.stride, body, others), name="reduced"
        )

    def _across(self, read: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
        """The innermost axis is reduced: lanes are parts of one sum."""
        allocation, total = tir.scratch("total", 1, "float32", registers=True)
        start = tir.store(total, tir.const(0), tir.const(self._neutral(), "float32"))

        def row(at: tir.Expr) -> list[tir.Statement]:
            written, value = reduce_row(
                self.inner.extent,
                lambda offset, lanes: ([], self._term(at + offset, lanes)),
                self._join,
                self._neutral(),
                lanes=self.float_lanes,
                name="sum",
            )
            joined = self._join(tir.load(total, tir.const(0)), value)
            return [*written, tir.store(total, tir.const(0), joined)]

        end = self._store(to, tir.load(total, tir.const(0)), 1)
        return [allocation, start, *self._over(read, row), end]

    def _beside(self, read: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
        """The innermost axis is kept: `_IN_FLIGHT` vectors of it at a time."""
        extent, lanes = self.inner.extent, self.lanes
        to = to * extent
        while lanes > extent:
            lanes //= 2
        whole, rest = divmod(extent, lanes)
        abreast = min(whole, _IN_FLIGHT)
        blocks = whole // abreast

        def block(first: tir.Expr, offsets: list[int]) -> list[tir.Statement]:
            return self._columns(read + first, to + first, offsets, lanes)

        written = tir.loop(
            blocks,
            lambda b: block(b * (abreast * lanes), [j * lanes for j in range(abreast)]),
            name="block",
            parallel=self.parallel and not self.kept and blocks > 1,
        )
        offsets = [j * lanes for j in range(blocks * abreast, whole)]
        offsets += [extent - lanes] if rest else []
        return [*written, *(block(tir.const(0), offsets) if offsets else [])]

    def _columns(
        self, read: tir.Expr, to: tir.Expr, offsets: list[int], lanes: int
    ) -> list[tir.Statement]:
        """Vectors at `offsets`, reduced side by side; few of them with several sums each."""
        run = self.reduced[-1] if self.reduced else Run(extent=1, stride=0, reduced=True)
        chains = max(1, min(run.extent, _IN_FLIGHT // len(offsets)))
        places = list(itertools.product(range(chains), range(len(offsets))))
        allocation, totals = tir.scratch("totals", len(places) * lanes, self.held, registers=True)
        neutral = tir.const(self._neutral(), self.held, lanes)
        written = [allocation]
        written += [tir.store(totals, i * lanes, neutral, lanes) for i in range(len(places))]

        def add(at: tir.Expr, chain_count: int) -> list[tir.Statement]:
            added = []
            for i, (chain, j) in enumerate(places):
                if chain < chain_count:
                    term = self._term(at + (chain * run.stride + offsets[j]), lanes)
                    joined = self._join(tir.load(totals, i * lanes, lanes), term)
                    added.append(tir.store(totals, i * lanes, joined, lanes))
            return added

        def positions(at: tir.Expr) -> list[tir.Statement]:
            steps, ragged = divmod(run.extent, chains)
            loop = tir.loop(steps, lambda s: add(at + s * (chains * run.stride), chains), name="s")
            return [*loop, *(add(at + steps * chains * run.stride, ragged) if ragged else [])]

        written += self._over(read, positions, self.reduced[:-1])
        for j, offset in enumerate(offsets):
            total = tir.load(totals, j * lanes, lanes)
            for chain in range(1, chains):
                at = (chain * len(offsets) + j) * lanes
                total = self._join(total, tir.load(totals, at, lanes))
            written.append(self._store(to + offset, total, lanes))
        return written
