"""Attention on a GPU as one kernel: ``softmax(scale * Q K^T + mask) V`` for every head.

A work-group has some queries of one head. Its threads share the keys to compute scores, which lie
in shared memory; a part of the threads then turns each query's scores into exponentials and their
sum; at last they share the columns of V. Keys beyond what shared memory holds come in turns, and
what was summed before is scaled to the new largest score (online softmax, arXiv 1805.02867).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules import attention as attending
from millifit.targets.schedules import epilogue, functions, tir
from millifit.targets.schedules.code import KernelCode, number
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.launch import (
    Place,
    barrier,
    combined,
    launch,
    power_of_two,
    registers,
    shared,
    unravel,
    when,
)
from millifit.targets.schedules.gpu.matmul import operand
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.schedules.movement import integers
from millifit.targets.target import Gpu

_THREADS, _QUERIES, _MOST_KEYS = 64, 4, 2048
_LEAST_SCORE = -3.0e38
# What is kept of each query from one chunk to the next.
_STATE = ("largest", "total", "factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """`block` queries of a work-group of `threads`; `chunk` keys at a time."""

    kernel: Kernel
    heads: int
    queries: int
    keys: int
    depth: int
    width: int
    block: int
    chunk: int
    threads: int

    @property
    def blocks(self) -> int:
        return math.ceil(self.queries / self.block)

    @property
    def team(self) -> int:
        """Threads that reduce the scores of one query."""
        return self.threads // self.block

    @property
    def columns(self) -> int:
        """Columns of V for each thread."""
        return math.ceil(self.width / self.threads)


def _plan(kernel: Kernel, gpu: Gpu) -> _Plan:
    heads, queries, keys, depth, width = (
        int(number(kernel, name, 0)) for name in ("heads", "queries", "keys", "depth", "width")
    )
    block = min(_QUERIES, power_of_two(queries))
    room = gpu.shared_bytes // 2 // 8 // block  # half of it, for two float32 a score
    return _Plan(
        kernel=kernel, heads=heads, queries=queries, keys=keys, depth=depth, width=width,
        block=block, chunk=min(keys, _MOST_KEYS, room),
        threads=min(_THREADS, power_of_two(gpu.max_threads)),
    )  # fmt: skip


def attention(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of an attention kernel (see `schedules.attention`)."""
    made = _plan(kernel, gpu)
    operands = {"scale": TensorType(shape=(1,), dtype="float32"), "scalars": epilogue.SCALARS_TYPE}
    held = memory(kernel, gpu, operands)
    body = launch(
        (made.heads * made.blocks, 1, 1), (made.threads, 1, 1), _Writer(made, held).thread
    )
    return KernelCode(
        function=held.function(body), operands=tuple(operands.values()), pack=attending.packed
    )


class _Writer:
    """Writes the code of one plan."""

    def __init__(self, made: _Plan, held: Memory) -> None:
        self.plan, self.held = made, held
        kernel = made.kernel
        self.query = operand(kernel, held, "input", "query", made.depth)
        self.key = operand(kernel, held, "residual", "key", made.depth)
        self.value = operand(kernel, held, "input2", "value", made.width)
        self.output = operand(kernel, held, "output", "output", made.width)
        self.allocations: list[tir.Statement] = []

    def _shared(self, name: str, count: int) -> tir.Buffer:
        allocation, made = shared(name, count, "float32")
        self.allocations.append(allocation)
        return made

    def thread(self, group: Place, local: Place) -> list[tir.Statement]:
        """One thread: all chunks of keys, then its columns of the output."""
        made = self.plan
        head, block = unravel(group[0], (made.heads, made.blocks))
        first, thread = block * made.block, local[0]
        if made.queries % made.block:  # both groups write the same where they overlap
            first = tirx.min(first, made.queries - made.block)
        scores = self._shared("scores", made.block * made.chunk)
        parts = self._shared("parts", made.threads)
        weights = self._shared("weights", made.block * made.chunk)
        # One buffer: TVM would let several share memory although they live at the same time.
        self.state = self._shared("state", len(_STATE) * made.block)
        allocation, sums = registers("sums", made.block * made.columns, "float32")
        nothing = tir.const(0.0, "float32")
        written = [*self.allocations, allocation]
        written += [tir.store(sums, j, nothing) for j in range(made.block * made.columns)]
        start = [
            self._remember("largest", thread, tir.const(_LEAST_SCORE, "float32")),
            self._remember("total", thread, nothing),
        ]
        written += [*when(thread < made.block, start), barrier()]

        def chunk(c: tir.Expr) -> list[tir.Statement]:
            at = c * made.chunk
            return [
                *self._scores(head, first, at, thread, scores), barrier(),
                *self._exponentials(thread, scores, weights, parts),
                *self._summed(head, at, thread, weights, sums), barrier(),
            ]  # fmt: skip

        written += tir.loop(math.ceil(made.keys / made.chunk), chunk, name="chunk")
        return [*written, *self._stored(head, first, thread, sums)]

    def _remember(self, name: str, query: tir.Expr, value: tir.Expr) -> tir.Statement:
        return tir.store(self.state, query + _STATE.index(name) * self.plan.block, value)

    def _known(self, name: str, query: tir.Expr) -> tir.Expr:
        return tir.load(self.state, query + _STATE.index(name) * self.plan.block)

    def _scores(
        self,
        head: tir.Expr,
        first: tir.Expr,
        at: tir.Expr,
        thread: tir.Expr,
        scores: tir.Buffer,
    ) -> list[tir.Statement]:
        """Scores of this thread's keys; those beyond the last key are the least possible."""
        made = self.plan
        lanes = LANES if self.query.vectors and self.key.vectors else 1

        def key(i: tir.Expr) -> list[tir.Statement]:
            place = i * made.threads + thread
            named, known = tir.bind("key_row", tirx.min(at + place, made.keys - 1), "int32")
            allocation, dots = registers("dots", made.block, "float32", lanes)
            zero = tir.const(0.0, "float32", lanes)
            written = [named, allocation, *(tir.store(dots, q, zero) for q in range(made.block))]

            def step(d: tir.Expr) -> list[tir.Statement]:
                column = d * lanes
                value = self.held.read("residual", self.key.at(head, known, column), lanes)
                bound, value = tir.bind("k", value, "float32", lanes)
                code = [bound]
                for q in range(made.block):
                    query = self.query.at(head, first + q, column)
                    product = self.held.read("input", query, lanes) * value
                    code.append(tir.store(dots, q, tir.load(dots, q) + product))
                return code

            written += tir.loop(made.depth // lanes, step, name="d")
            scale = self.held.read("scale", tir.const(0))
            for q in range(made.block):
                bound, dot = tir.bind("dot", tir.load(dots, q), "float32", lanes)
                total = tir.shuffle([dot], [0]) if lanes > 1 else dot
                for lane in range(1, lanes):
                    total = total + tir.shuffle([dot], [lane])
                score = total * scale
                if "input3" in self.held.views:
                    score = score + self._mask(head, first + q, known)
                if made.keys % made.chunk:
                    least = tir.const(_LEAST_SCORE, "float32")
                    score = tirx.if_then_else(at + place < made.keys, score, least)
                written += [bound, tir.store(scores, place + q * made.chunk, score)]
            return written

        return _turns(made.chunk, made.threads, thread, key)

    def _mask(self, head: tir.Expr, query: tir.Expr, key: tir.Expr) -> tir.Expr:
        per_head, row, column = integers(self.plan.kernel, "mask")
        return self.held.read("input3", head * per_head + query * row + key * column)

    def _exponentials(
        self,
        thread: tir.Expr,
        scores: tir.Buffer,
        weights: tir.Buffer,
        parts: tir.Buffer,
    ) -> list[tir.Statement]:
        """Each team of threads: its query's scores become exponentials of a known sum.

        Those are written elsewhere: where a loop reads and writes shared memory TVM puts barriers
        into it, which not all threads would reach as often.
        """
        made, zero = self.plan, tir.const(0)
        query, index = unravel(thread, (made.block, made.team))
        allocation, own = registers("own", 1, "float32")
        base = query * made.chunk

        def most(i: tir.Expr) -> list[tir.Statement]:
            value = tir.load(scores, base + i * made.team + index)
            return [tir.store(own, zero, tirx.max(tir.load(own, zero), value))]

        def exponential(i: tir.Expr) -> list[tir.Statement]:
            at = base + i * made.team + index
            value = functions.exp(tir.load(scores, at) - largest, 1)
            named, value = tir.bind("e", value, "float32")
            return [
                named, tir.store(weights, at, value),
                tir.store(own, zero, tir.load(own, zero) + value),
            ]  # fmt: skip

        before, known = tir.bind("before", self._known("largest", query), "float32")
        written = [allocation, before, tir.store(own, zero, known)]
        written += _turns(made.chunk, made.team, index, most)
        written.append(tir.store(parts, thread, tir.load(own, zero)))
        written += combined(parts, thread, index, made.team, 1, tirx.max)
        named, largest = tir.bind("largest_now", tir.load(parts, thread - index), "float32")
        written += [named, barrier(), tir.store(own, zero, tir.const(0.0, "float32"))]
        written += _turns(made.chunk, made.team, index, exponential)
        written.append(tir.store(parts, thread, tir.load(own, zero)))
        written += combined(parts, thread, index, made.team, 1, lambda a, b: a + b)
        bound, factor = tir.bind("shrunk", functions.exp(known - largest, 1), "float32")
        total = self._known("total", query) * factor + tir.load(parts, thread)
        summed, total = tir.bind("total_now", total, "float32")
        keep = [
            self._remember("factor", query, factor), self._remember("total", query, total),
            self._remember("largest", query, largest),
        ]  # fmt: skip
        written += [bound, summed, barrier()]  # read before anything is written
        return [*written, *when(index < 1, keep), barrier()]

    def _summed(
        self,
        head: tir.Expr,
        at: tir.Expr,
        thread: tir.Expr,
        weights: tir.Buffer,
        sums: tir.Buffer,
    ) -> list[tir.Statement]:
        """Add the chunk's share of this thread's columns."""
        made, written = self.plan, []
        places = [(q, j) for q in range(made.block) for j in range(made.columns)]
        for slot, (q, _) in enumerate(places):
            scaled = tir.load(sums, slot) * self._known("factor", tir.const(q))
            written.append(tir.store(sums, slot, scaled))

        def step(i: tir.Expr) -> list[tir.Statement]:
            row = at + i
            if made.keys % made.chunk:
                row = tirx.min(row, made.keys - 1)
            code, values = [], []
            for j in range(made.columns):
                column = self._column(thread, j)
                value = self.held.read("input2", self.value.at(head, row, column))
                named, value = tir.bind(f"v{j}", value, "float32")
                code.append(named)
                values.append(value)
            for slot, (q, j) in enumerate(places):
                product = tir.load(weights, i + q * made.chunk) * values[j]
                code.append(tir.store(sums, slot, tir.load(sums, slot) + product))
            return code

        return [*written, *tir.loop(made.chunk, step, name="row")]

    def _column(self, thread: tir.Expr, j: int) -> tir.Expr:
        column = thread + j * self.plan.threads
        if self.plan.width % self.plan.threads == 0:
            return column
        return tirx.min(column, self.plan.width - 1)

    def _stored(
        self,
        head: tir.Expr,
        first: tir.Expr,
        thread: tir.Expr,
        sums: tir.Buffer,
    ) -> list[tir.Statement]:
        made, written = self.plan, []
        for q in range(made.block):
            for j in range(made.columns):
                column = thread + j * made.threads
                value = tir.load(sums, q * made.columns + j) / self._known("total", tir.const(q))
                if made.kernel.output.dtype == "uint8":
                    value = epilogue.quantize(value, self.held.views["scalars"], 1)
                out = self.output.at(head, first + q, column)
                written += when(column < made.width, [self.held.write("output", out, value)])
        return written


def _turns(
    count: int,
    size: int,
    index: tir.Expr,
    body: Callable[[tir.Expr], Sequence[tir.Statement]],
) -> list[tir.Statement]:
    """`body(i)` while ``i * size + index`` is less than `count`."""
    steps = count // size if count % size == 0 else (count - index + size - 1) // size
    return tir.loop(steps, body, name="turn")
