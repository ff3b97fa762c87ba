"""Timing one kernel in this process: build it, rotate its operands, subtract the call itself.

On a GPU its own clock is asked, which does not see the call.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.runner.clock import Clock, WallClock, clock_for
from millifit.targets.runner.energy import Rapl
from millifit.targets.target import Target
from millifit.targets.timing import Samples, TimingPolicy, sample

if TYPE_CHECKING:
    from millifit.targets.build import BuiltKernel

# No kernel is faster than a call from compiled code; keeps what the subtraction leaves above zero.
_FLOOR_S = 10e-9
_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7

_WALL_CLOCK = WallClock()

Operands = Sequence[Sequence[Any]]


class KernelSource(Protocol):
    """Where the code of a kernel comes from: a compiler here, or a library that was uploaded."""

    def build(self, kernel: Kernel, target: Target) -> BuiltKernel:
        """The kernel, ready to be called in this process."""
        ...

    def empty(self, operands: int) -> Callable[..., object]:
        """A compiled function of so many operands that does nothing."""
        ...


class Compiler:
    """Compiles kernels for this machine."""

    def build(self, kernel: Kernel, target: Target) -> BuiltKernel:
        """The kernel; CompileError where the code cannot be generated."""
        from millifit.targets.build import build_kernel

        return build_kernel(kernel, target)

    def empty(self, operands: int) -> Callable[..., object]:
        """A compiled function of so many operands that does nothing."""
        import tvm
        from tvm import tirx

        names = [tirx.Var(f"operand{i}", "handle") for i in range(operands)]
        empty = tirx.PrimFunc(names, tirx.Evaluate(0)).with_attr("global_symbol", "empty")
        made = tvm.compile(tvm.IRModule({"empty": empty}), target="llvm").jit()
        function: Callable[..., object] = made["empty"]
        return function


_COMPILER = Compiler()


class KernelBench:
    """Times kernels on this machine.

    What belongs to one operator is kept until another one comes, so that variants of it (the same
    kernel with other choices) can be timed in turn without building anything twice.
    """

    def __init__(self, rapl: Rapl | None = None) -> None:
        """`rapl` counts the energy of the runs; None where it is not to be read."""
        self._drawn_j: Callable[[], float | None] = rapl.drawn_j if rapl else lambda: None
        self._subject: tuple[object, ...] = ()
        self._runs: dict[Kernel, Callable[[int], float]] = {}
        self._made: dict[Any, Any] = {}
        self._overheads: dict[int, float] = {}

    def prepare(
        self,
        kernel: Kernel,
        target: Target,
        policy: TimingPolicy,
        *,
        seed: int,
        source: KernelSource = _COMPILER,
    ) -> None:
        """Build a kernel and its operands, unless it is the last operator's and was built before.

        Raises what `source` raises.
        """
        subject = (kernel.with_choice(()), target, policy.working_set_bytes, seed)
        if subject != self._subject:
            self._subject, self._runs, self._made = subject, {}, {}
        if kernel not in self._runs:
            self._runs[kernel] = self._ready(kernel, target, policy, seed, source)

    def time(self, kernel: Kernel, target: Target, policy: TimingPolicy, *, seed: int) -> Samples:
        """Samples of a kernel on `target`, which must be this machine, under `policy`.

        What was not prepared is compiled. A sample is the time inside the kernel: what it costs to
        call it from Python is measured with an empty kernel of as many operands and subtracted (its
        energy is not). On a GPU it is what the GPU's own clock shows. Raises CompileError where the
        code cannot be generated.
        """
        self.prepare(kernel, target, policy, seed=seed)
        collecting = gc.isenabled()
        gc.disable()
        try:
            return sample(self._runs[kernel], policy, drawn_j=self._meter(target))
        finally:
            if collecting:
                gc.enable()

    def _meter(self, target: Target) -> Callable[[], float | None]:
        """The joules drawn so far; nobody knows those of a GPU."""
        return self._drawn_j if target.gpu is None else lambda: None

    def _ready(
        self, kernel: Kernel, target: Target, policy: TimingPolicy, seed: int, source: KernelSource
    ) -> Callable[[int], float]:
        built = source.build(kernel, target)
        rng = np.random.default_rng(seed)
        operands = built.operands(rng, policy.working_set_bytes, self._made)
        clock = clock_for(target)
        overhead_s = self._overhead_s(source, len(operands[0])) if clock.counts_calls else 0.0
        return repeat(built.function, operands, overhead_s=overhead_s, clock=clock)

    def _overhead_s(self, source: KernelSource, operands: int) -> float:
        """Seconds that it takes Python to call a compiled function with so many operands.

        The fastest of some loops: interruptions only ever add.
        """
        import tvm

        if operands not in self._overheads:
            tensors = [tvm.runtime.tensor(np.zeros(1, np.float32)) for _ in range(operands)]
            run = repeat(source.empty(operands), [tensors], overhead_s=0.0)
            fastest = min(run(_OVERHEAD_CALLS) for _ in range(_OVERHEAD_REPEATS))
            self._overheads[operands] = fastest / _OVERHEAD_CALLS
        return self._overheads[operands]


def repeat(
    function: Callable[..., object],
    operands: Operands,
    *,
    overhead_s: float,
    clock: Clock = _WALL_CLOCK,
) -> Callable[[int], float]:
    """`run(n)`: call `function` n times on operands in rotation; seconds less the overhead."""
    rotation = itertools.cycle(operands)

    def run(n: int) -> float:
        turns = itertools.islice(rotation, n)

        def call() -> None:
            for each in turns:
                function(*each)

        return max(clock.seconds(call) - n * overhead_s, n * _FLOOR_S)

    return run
