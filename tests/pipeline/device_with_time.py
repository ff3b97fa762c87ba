"""A device on paper with a clock: measuring takes time, and now and then it is slower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from roofline import RooflineTimer

from millifit.samples import Floats
from millifit.targets.kernel import Kernel
from millifit.targets.program import Program
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
)
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy


class Clock:
    """Seconds that pass when somebody lets them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time; asking takes a little."""
        self.now_s += 0.001
        return self.now_s


class TimedDevice(RooflineTimer):
    """A kernel takes 0.25 s to measure and a network 2 s; `slowness(now)` stretches what is timed.

    After `lost_after` kernels it is gone: each one raises what `lost` gives.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        slowness: Callable[[float], float] = lambda _: 1.0,
        lost_after: int | None = None,
        lost: Callable[[], BaseException] = KeyboardInterrupt,
    ) -> None:
        super().__init__()
        self.clock = clock
        self._slowness = slowness
        self._lost_after = lost_after
        self._lost = lost

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        """Each kernel, slower or not."""
        for kernel, outcome in super().time_kernels(kernels, target, policy, seed=seed):
            if self._lost_after is not None and len(self.kernels) > self._lost_after:
                raise self._lost()
            self.clock.now_s += 0.25
            factor = self._slowness(self.clock.now_s)
            assert isinstance(outcome, Samples)
            yield kernel, Samples(run_s=tuple(factor * s for s in outcome.run_s))

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """Every contender by its weights."""
        self.clock.now_s += 2.0
        return super().time_networks(contenders, policy=policy, on_round=on_round)


def paper_bundle(path: Path, program: Program, target: Target, x: Floats) -> None:
    """A bundle that only has weights: the device on paper wants no more."""
    del target, x
    path.mkdir()
    size = sum(array.nbytes for call in program.calls for array in call.constants.values())
    (path / "weights.bin").write_bytes(bytes(size))
