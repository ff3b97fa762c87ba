"""The most multiply-adds a core does in a second: what speeds are fractions of."""

from __future__ import annotations

import statistics
import time
from functools import cache
from typing import Any

import numpy as np

from millifit.targets.build import tvm_target
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules import tir
from millifit.targets.schedules.dot import Dot, dot_for, matrix_multiply_add, multiply_add
from millifit.targets.target import Precision, Target

_STEPS = 4000
_REPEATS = 40
_PANELS = 2
_TURNS = 4


@cache
def peak_macs_per_s(target: Target, precision: Precision) -> float:
    """Multiply-adds per second of one core of this machine, in fp32 or integers.

    A loop that does nothing but the multiply-add of the schedules, with as many independent sums as
    the registers hold; one activation is read from the first cache for two of them. No memory, no
    epilogue. Of some runs the fast ones
    count, since interruptions only ever slow one down.
    """
    kind = TensorType(shape=(1,), dtype="float32")
    kernel = Kernel(op="peak", inputs=(kind,), output=kind, precision=precision)
    dot, lanes = dot_for(kernel, target), target.fp32_lanes
    # Registers besides sums: a weight, an activation, ones, and the products before they are added.
    sums = target.vector_registers * 5 // 8
    run = _compiled(dot, sums, lanes, target)
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    # usmmla adds 8 products to each sum of 2 positions by 2 channels.
    each = 8 if dot.kind == "neon_i8mm" else dot.unit
    return (
        _STEPS * (sums // _PANELS * _PANELS) * lanes * each / statistics.quantiles(taken, n=10)[0]
    )


def _compiled(dot: Dot, sums: int, lanes: int, target: Target) -> Any:
    """The loop, with its arguments bound."""
    import tvm

    rows = sums // _PANELS
    a = tir.parameter("a", (_TURNS * rows * 4,), dot.broadcast)
    w = tir.parameter("w", (_PANELS * lanes * dot.unit,), dot.weight_register)
    y = tir.parameter("y", (rows * _PANELS * lanes,), dot.accumulator)
    allocation, held = tir.scratch("sums", rows * _PANELS * lanes, dot.accumulator, registers=True)
    places = [tir.const(i * lanes) for i in range(rows * _PANELS)]

    def added(turn: tir.Expr, row: int, panel: int) -> tir.Expr:
        before = tir.load(held, places[row * _PANELS + panel], lanes)
        weights = tir.load(w, tir.const(panel * lanes * dot.unit), lanes * dot.unit)
        if dot.kind == "neon_i8mm":
            pair = tir.load(a, (turn * rows + row) * 4, 4)
            weights = tir.load(w, tir.const(panel * 16), 16)
            return matrix_multiply_add(before, tir.reinterpret(pair, "uint8", 16), weights)
        return multiply_add(dot, before, tir.load(a, turn * rows + row), weights, lanes)

    def step(i: tir.Expr) -> list[tir.Statement]:
        turn = i % _TURNS  # no product is the same in each step: none can be taken out of the loop
        return [
            tir.store(held, places[row * _PANELS + panel], added(turn, row, panel), lanes)
            for row in range(rows)
            for panel in range(_PANELS)
        ]

    body = [allocation]
    body += [tir.store(held, at, tir.load(y, at, lanes), lanes) for at in places]
    body += tir.loop(_STEPS, step, name="step")
    body += [tir.store(y, at, tir.load(held, at, lanes), lanes) for at in places]
    function = tir.function((a, w, y), body).with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": function}), target=tvm_target(target)).jit()["main"]
    values = [np.zeros([int(n) for n in each.shape], each.dtype) for each in (a, w, y)]
    given = [tvm.runtime.tensor(value) for value in values]
    return lambda: built(*given)
