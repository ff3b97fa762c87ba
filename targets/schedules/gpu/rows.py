"""Reductions on a GPU: some threads of a work-group take turns along what is reduced.

Each adds up its share in a register; the shares meet in shared memory. Outputs that are neighbours
in memory are neighbouring threads, and so are the elements of a row that is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, functions, tir
from millifit.targets.schedules import normalization as normalizing
from millifit.targets.schedules.code import KernelCode, number
from millifit.targets.schedules.gpu.copies import SCALARS, with_scalars
from millifit.targets.schedules.gpu.launch import (
    Place,
    barrier,
    combined,
    each,
    launch,
    power_of_two,
    registers,
    shared,
    unravel,
)
from millifit.targets.schedules.gpu.memory import memory
from millifit.targets.target import Gpu

Combine = Callable[[tir.Expr, tir.Expr], tir.Expr]

# Elements of a row for each of its threads, and threads of a row at most.
_SHARE, _MOST_THREADS = 4, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Threads that reduce one row of `count` elements together; `index` is this thread's."""

    index: tir.Expr
    count: int
    size: int

    def loop(self, body: Callable[[tir.Expr], Sequence[tir.Statement]]) -> list[tir.Statement]:
        """`body(i)` for this thread's share of 0 .. count - 1."""
        steps = self.count // self.size
        if self.count % self.size:
            steps = (self.count - self.index + self.size - 1) // self.size
        return tir.loop(steps, lambda i: body(i * self.size + self.index), name="i")

    def reduced(
        self,
        term: Callable[[tir.Expr], tuple[list[tir.Statement], tir.Expr]],
        combine: Combine,
        neutral: float,
        *,
        name: str,
    ) -> tuple[list[tir.Statement], tir.Expr]:
        """All terms combined, float32: the code, and the value, which every thread gets."""
        allocation, own = registers(name, 1, "float32")
        zero = tir.const(0)

        def step(i: tir.Expr) -> list[tir.Statement]:
            ahead, value = term(i)
            return [*ahead, tir.store(own, zero, combine(tir.load(own, zero), value))]

        written = [allocation, tir.store(own, zero, tir.const(neutral, "float32"))]
        written += self.loop(step)
        if self.size == 1:
            return written, tir.load(own, zero)
        common, parts = shared(f"{name}_parts", self.size, "float32")
        written += [common, tir.store(parts, self.index, tir.load(own, zero))]
        written += combined(parts, self.index, self.index, self.size, 1, combine)
        named, value = tir.bind(f"{name}_all", tir.load(parts, zero), "float32")
        return [*written, named, barrier()], value


def team_size(gpu: Gpu, count: int) -> int:
    """Threads for a row of `count` elements: a power of two."""
    most = min(_MOST_THREADS, power_of_two(gpu.max_threads))
    return min(most, power_of_two(math.ceil(count / _SHARE)))


def _rows(
    gpu: Gpu,
    rows: int,
    count: int,
    body: Callable[[tir.Expr, Team], Sequence[tir.Statement]],
) -> list[tir.Statement]:
    """`body(row, team)`: a work-group for each row, or a thread where rows are short."""
    size = team_size(gpu, count)
    if size == 1:
        return each(gpu, rows, lambda r: body(r, Team(index=tir.const(0), count=count, size=1)))

    def thread(group: Place, local: Place) -> Sequence[tir.Statement]:
        return body(group[0], Team(index=local[0], count=count, size=size))

    return launch((rows, 1, 1), (size, 1, 1), thread)


def softmax(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a softmax kernel over the last axis; the exponentials are computed twice."""
    count = kernel.output.shape[-1]
    held = memory(kernel, gpu, SCALARS)

    def row(r: tir.Expr, team: Team) -> list[tir.Statement]:
        start = r * count
        code, largest = team.reduced(
            lambda i: ([], held.read("input", start + i)), tirx.max, -3.0e38, name="most"
        )

        def exponential(i: tir.Expr) -> tuple[list[tir.Statement], tir.Expr]:
            return tir_bound("e", functions.exp(held.read("input", start + i) - largest, 1))

        summing, total = team.reduced(exponential, lambda a, b: a + b, 0.0, name="total")

        def scale(i: tir.Expr) -> list[tir.Statement]:
            ahead, value = exponential(i)
            value = value / total
            if kernel.output.dtype == "uint8":
                value = epilogue.quantize(value, held.views["scalars"], 1)
            return [*ahead, held.write("output", start + i, value)]

        return [*code, *summing, *team.loop(scale)]

    return with_scalars(held, _rows(gpu, kernel.output.elements // count, count, row))


def tir_bound(name: str, value: tir.Expr) -> tuple[list[tir.Statement], tir.Expr]:
    """A float32 value computed once: the code, and the variable."""
    named, variable = tir.bind(name, value, "float32")
    return [named], variable


def normalization(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a layer_norm or rms_norm kernel over the last axis (`schedules.normalization`)."""
    channels = kernel.output.shape[-1]
    operands = normalizing.operands_of(kernel)
    held = memory(kernel, gpu, operands)
    share = tir.const(float(channels), "float32")

    def add(a: tir.Expr, b: tir.Expr) -> tir.Expr:
        return a + b

    def row(r: tir.Expr, team: Team) -> list[tir.Statement]:
        start = r * channels
        written: list[tir.Statement] = []
        mean = tir.const(0.0, "float32")
        if kernel.op == "layer_norm":
            written, total = team.reduced(
                lambda i: ([], held.read("input", start + i)), add, 0.0, name="sum"
            )
            named, mean = tir.bind("mean", total / share, "float32")
            written.append(named)

        def squared(i: tir.Expr) -> tuple[list[tir.Statement], tir.Expr]:
            code, distance = tir_bound("distance", held.read("input", start + i) - mean)
            return code, distance * distance

        summing, total = team.reduced(squared, add, 0.0, name="squares")
        spread = tirx.sqrt(total / share + held.read("epsilon", tir.const(0)))
        named, factor = tir.bind("factor", tir.const(1.0, "float32") / spread, "float32")

        def scale(i: tir.Expr) -> list[tir.Statement]:
            value = (held.read("input", start + i) - mean) * factor * held.read("weight", i)
            value = value + held.read("bias", i)
            if kernel.output.dtype == "uint8":
                value = epilogue.quantize(value, held.views["scalars"], 1)
            return [held.write("output", start + i, value)]

        return [*written, *summing, named, *team.loop(scale)]

    return KernelCode(
        function=held.function(_rows(gpu, kernel.output.elements // channels, channels, row)),
        operands=tuple(operands.values()), pack=lambda c: normalizing.pack(c, channels),
    )  # fmt: skip


def argument(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of an arg_max or arg_min kernel along `axis` (see `schedules.argument`)."""
    shape, axis = kernel.inputs[0].shape, int(number(kernel, "axis", 0))
    extent, inner = shape[axis], math.prod(shape[axis + 1 :])
    held = memory(kernel, gpu, SCALARS)
    dtype = held.views["input"].dtype if kernel.inputs[0].dtype == "uint8" else "float32"
    if np.dtype(kernel.inputs[0].dtype).kind == "i":
        dtype = kernel.inputs[0].dtype
    later = bool(number(kernel, "last", 0))

    def better(value: tir.Expr, best: tir.Expr) -> tir.Expr:
        if kernel.op == "arg_max":
            return value >= best if later else value > best
        return value <= best if later else value < best

    def position(i: tir.Expr) -> list[tir.Statement]:
        o, within = unravel(i, (kernel.output.elements // inner, inner))
        base, zero = o * (extent * inner) + within, tir.const(0)
        value_memory, best = registers("best", 1, dtype)
        place_memory, place = registers("place", 1, "int32")

        def step(at: tir.Expr) -> list[tir.Statement]:
            named, value = tir.bind("value", held.read("input", base + at * inner), dtype)
            so_far, known = tir.load(best, zero), tir.load(place, zero)
            found, is_better = tir.bind("better", better(value, so_far), "bool")
            return [
                named, found, tir.store(place, zero, tirx.if_then_else(is_better, at, known)),
                tir.store(best, zero, tirx.if_then_else(is_better, value, so_far)),
            ]  # fmt: skip

        return [
            value_memory, place_memory, tir.store(best, zero, held.read("input", base)),
            tir.store(place, zero, zero), *tir.loop(extent - 1, step, name="at", start=1),
            held.write("output", i, tir.cast(tir.load(place, zero), "int64", 1)),
        ]  # fmt: skip

    return with_scalars(held, each(gpu, kernel.output.elements, position))
