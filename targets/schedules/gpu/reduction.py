"""Reductions over any axes on a GPU: threads beside each other read neighbours in either case.

Where the innermost axis is reduced, they share a row; where it is kept, each has a column of its
own, and several of them share one if there are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.gpu.copies import SCALARS, with_scalars
from millifit.targets.schedules.gpu.launch import (
    Place,
    combined,
    launch,
    power_of_two,
    registers,
    shared,
    unravel,
    when,
)
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.schedules.movement import integers
from millifit.targets.schedules.reduction import Run, runs_of
from millifit.targets.target import Gpu

# Elements of a sum for each of its threads, and threads of a work-group.
_SHARE, _GROUP = 8, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """`threads` of a work-group: outputs side by side, and parts of one reduction."""

    op: str
    kept: tuple[Run, ...]
    reduced: tuple[Run, ...]
    threads: tuple[int, int]
    integer: bool

    @property
    def outputs(self) -> int:
        return math.prod(run.extent for run in self.kept)

    @property
    def count(self) -> int:
        """Elements of each sum."""
        return math.prod(run.extent for run in self.reduced)


def reduction(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a kernel of REDUCTIONS (see `schedules.reduction`)."""
    held = memory(kernel, gpu, SCALARS)
    made = _plan(kernel, gpu)
    return with_scalars(held, _Writer(kernel, made, held).code())


def _plan(kernel: Kernel, gpu: Gpu) -> _Plan:
    shape = kernel.inputs[0].shape
    pool = kernel.op.startswith("global")
    axes = tuple(range(1, len(shape) - 1)) if pool else integers(kernel, "axes")
    runs = runs_of(shape, axes)
    kept = tuple(run for run in runs if not run.reduced)
    reduced = tuple(run for run in runs if run.reduced)
    outputs, count = (math.prod(run.extent for run in part) for part in (kept, reduced))
    size = min(_GROUP, power_of_two(gpu.max_threads))
    parts = power_of_two(min(size, math.ceil(count / _SHARE)))
    if runs and not runs[-1].reduced:  # neighbours are outputs: they come first
        beside = min(size, max(8, power_of_two(gpu.subgroup)), power_of_two(2 * outputs - 1))
        parts = min(parts, size // beside)
    beside = min(size // parts, power_of_two(2 * outputs - 1))
    name = {"global_avg_pool": "reduce_mean", "global_max_pool": "reduce_max"}
    return _Plan(
        op=name.get(kernel.op, kernel.op), kept=kept, reduced=reduced, threads=(beside, parts),
        integer=kernel.inputs[0].dtype == "uint8",
    )  # fmt: skip


def _along(i: tir.Expr, runs: tuple[Run, ...]) -> tir.Expr:
    """Where in the input the position `i` of some runs is."""
    if not runs:
        return tir.const(0)
    places = unravel(i, [run.extent for run in runs])
    return sum((p * run.stride for p, run in zip(places, runs, strict=True)), tir.const(0))


class _Writer:
    """Writes the code of one reduction."""

    def __init__(self, kernel: Kernel, made: _Plan, held: Memory) -> None:
        self.kernel, self.plan, self.held = kernel, made, held
        self.sums = "int32" if made.integer else "float32"

    def code(self) -> list[tir.Statement]:
        """The launch; parts of a reduction lie along the faster axis where it is innermost."""
        beside, parts = self.plan.threads
        groups = (math.ceil(self.plan.outputs / beside), 1, 1)
        runs = (*self.plan.kept, *self.plan.reduced)
        across = bool(runs) and min(runs, key=lambda run: run.stride).reduced
        if across:
            return launch(groups, (parts, beside, 1), lambda g, t: self._thread(g, t[1], t[0], 1))
        return launch(groups, (beside, parts, 1), lambda g, t: self._thread(g, t[0], t[1], beside))

    def _thread(
        self, group: Place, column: tir.Expr, part: tir.Expr, stride: int
    ) -> list[tir.Statement]:
        made, zero = self.plan, tir.const(0)
        beside, parts = made.threads
        output = group[0] * beside + column
        ragged = made.outputs % beside
        # All threads meet at the barrier: those beyond the last output repeat it.
        base = _along(tirx.min(output, made.outputs - 1) if ragged else output, made.kept)
        allocation, total = registers("total", 1, self.sums)

        def step(i: tir.Expr) -> list[tir.Statement]:
            at = base + _along(i * parts + part, made.reduced)
            return [tir.store(total, zero, self._join(tir.load(total, zero), self._term(at)))]

        steps = made.count // parts
        if made.count % parts:
            steps = (made.count - part + parts - 1) // parts
        written = [allocation, tir.store(total, zero, tir.const(self._neutral(), self.sums))]
        written += tir.loop(steps, step, name="i")
        value = tir.load(total, zero)
        if parts > 1:
            common, shares = shared("shares", beside * parts, self.sums)
            place = column * parts + part if stride == 1 else part * beside + column
            written += [common, tir.store(shares, place, value)]
            written += combined(shares, place, part, parts, stride, self._join)
            value = tir.load(shares, place)
        named, value = tir.bind("all", value, self.sums)
        stored = [named, self.held.write("output", output, self._finished(value))]
        conditions = [part < 1] if parts > 1 else []
        conditions += [output < made.outputs] if ragged else []
        return [*written, *(when(tirx.all(*conditions), stored) if conditions else stored)]

    def _neutral(self) -> float:
        match self.plan.op:
            case "reduce_max":
                return 0 if self.plan.integer else -math.inf
            case "reduce_min":
                return 255 if self.plan.integer else math.inf
            case "reduce_prod":
                return 1
        return 0

    def _join(self, first: tir.Expr, second: tir.Expr) -> tir.Expr:
        match self.plan.op:
            case "reduce_max":
                return tirx.max(first, second)
            case "reduce_min":
                return tirx.min(first, second)
            case "reduce_prod":
                return first * second
        return first + second

    def _term(self, at: tir.Expr) -> tir.Expr:
        value = self.held.read("input", at)
        if self.plan.integer:
            return tir.cast(value, "int32", 1)
        match self.plan.op:
            case "reduce_l1":
                return tirx.abs(value)
            case "reduce_l2" | "reduce_sum_square":
                return value * value
        return value

    def _finished(self, value: tir.Expr) -> tir.Expr:
        """From the whole reduction to the output."""
        made, scalars = self.plan, self.held.views["scalars"]
        if made.integer and made.op in ("reduce_max", "reduce_min"):
            return tir.cast(value, "uint8", 1)
        if made.op == "reduce_mean":
            count = tir.const(float(made.count), "float32")
            if made.integer:
                value = tir.cast(value, "float32", 1)
                value = value - epilogue.scalar(scalars, "input_zero_point") * count
                value = value * epilogue.scalar(scalars, "input_scale")
            value = value / count
        if made.op == "reduce_l2":
            value = tirx.sqrt(value)
        for step in self.kernel.epilogue:
            value = epilogue.activate(value, step, scalars, 1)
        if self.kernel.output.dtype == "uint8":
            return epilogue.quantize(value, scalars, 1)
        return value
