"""Timing one kernel in this process: compile it, rotate its operands, subtract the call itself."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.target import Target
from millifit.targets.timing import Samples, TimingPolicy, sample

# No kernel is faster than a call from compiled code; keeps what the subtraction leaves above zero.
_FLOOR_S = 10e-9
_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7

Operands = Sequence[Sequence[Any]]


def time_kernel(kernel: Kernel, target: Target, policy: TimingPolicy, *, seed: int) -> Samples:
    """Compile `kernel` for `target`, which must be this machine, and time it under `policy`.

    A sample is the time inside the kernel: what it costs to call it from Python is measured with an
    empty kernel of as many operands and subtracted. Raises CompileError where the code cannot be
    generated.
    """
    from millifit.targets.build import build_kernel

    built = build_kernel(kernel, target)
    operands = built.operands(np.random.default_rng(seed), policy.working_set_bytes)
    overhead_s = _call_overhead_s(len(operands[0]))
    collecting = gc.isenabled()
    gc.disable()
    try:
        return sample(repeat(built.function, operands, overhead_s=overhead_s), policy)
    finally:
        if collecting:
            gc.enable()


def repeat(
    function: Callable[..., object], operands: Operands, *, overhead_s: float
) -> Callable[[int], float]:
    """`run(n)`: call `function` n times on operands in rotation; seconds less the overhead."""
    rotation = itertools.cycle(operands)

    def run(n: int) -> float:
        turns = itertools.islice(rotation, n)
        start = time.perf_counter()
        for each in turns:
            function(*each)
        elapsed = time.perf_counter() - start
        return max(elapsed - n * overhead_s, n * _FLOOR_S)

    return run


@lru_cache
def _call_overhead_s(operands: int) -> float:
    """Seconds that it takes Python to call a compiled function with so many operands.

    The fastest of some loops: interruptions only ever add.
    """
    import tvm
    from tvm import tirx

    names = [tirx.Var(f"operand{i}", "handle") for i in range(operands)]
    empty = tirx.PrimFunc(names, tirx.Evaluate(0)).with_attr("global_symbol", "empty")
    function = tvm.compile(tvm.IRModule({"empty": empty}), target="llvm").jit()["empty"]
    tensors = [tvm.runtime.tensor(np.zeros(1, np.float32)) for _ in range(operands)]
    run = repeat(function, [tensors], overhead_s=0.0)
    return min(run(_OVERHEAD_CALLS) for _ in range(_OVERHEAD_REPEATS)) / _OVERHEAD_CALLS
