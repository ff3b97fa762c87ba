"""How long something takes: the policy of a timing, its samples, and the interval they support."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.target import Target

# However slow a kernel is, its median is worth nothing with fewer samples than this.
_FEWEST_SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPolicy:
    """When to stop measuring, and in which state the caches are. Part of a measurement's key.

    A sample is the mean of a block of back-to-back runs lasting at least `block_s`. Samples are
    taken until the 95 % interval of their median is narrower than `relative_interval` of the
    median, or `max_samples` or `limit_s` is reached; the limit stops a slow kernel before
    `min_samples`, too. Operands rotate through copies that together hold `working_set_bytes`, so
    that weights come from the cache level they come from in a network of that size.
    """

    warmup_s: float = 0.01
    block_s: float = 0.002
    min_samples: int = 11
    max_samples: int = 201
    relative_interval: float = 0.02
    limit_s: float = 0.5
    working_set_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Seconds per run, in the order they were taken.

    `energy_j` are the joules of a run, the mean over all samples: what the processor drew
    meanwhile, idling included. None where the device does not say.
    """

    run_s: tuple[float, ...]
    energy_j: float | None = None

    def __post_init__(self) -> None:
        if not self.run_s or not all(math.isfinite(s) and s > 0 for s in self.run_s):
            raise ValueError(f"samples must be positive and finite seconds, got {self.run_s[:5]}")
        if self.energy_j is not None and not (math.isfinite(self.energy_j) and self.energy_j >= 0):
            raise ValueError(f"the energy of a run must be finite joules, got {self.energy_j}")

    @property
    def median_s(self) -> float:
        """The sample median."""
        return float(np.median(self.run_s))

    @property
    def interval_s(self) -> tuple[float, float]:
        """The 95 % interval of the median."""
        return median_interval(self.run_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A measurement that gave no time; that is a result, too."""

    reason: str


class KernelTimer(Protocol):
    """Times kernels on the device; a runner, or a replay of what one saw."""

    def environment(self) -> dict[str, str]:
        """Facts of the device as it is now, to keep with measurements."""
        ...

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        """Each kernel with its outcome, in the order of completion.

        A kernel is pulled from `kernels` when its turn has come and nothing else is being timed on
        the machine, so a generator may still leave out what has been measured meanwhile. Consume
        the iterator before anything else is timed: it holds the machine while it is open.
        """
        ...


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median from order statistics (no distribution is assumed).

    Fewer than six values cannot support 95 %: their range is returned, and covers less.
    """
    ordered = sorted(values)
    outside = _values_outside(len(ordered))
    return ordered[outside], ordered[-1 - outside]


@lru_cache
def _values_outside(n: int) -> int:
    """How many of n ordered values may be left out at each end of a 95 % interval of the median.

    The median lies below the r-th smallest (from 0) where at most r values fall below it, which has
    the probability of at most r heads in n tosses: that may be 2.5 %.
    """
    probability, outside = 0.5**n, 0
    while probability + math.comb(n, outside + 1) * 0.5**n <= 0.025:
        outside += 1
        probability += math.comb(n, outside) * 0.5**n
    return outside


def sample(
    run: Callable[[int], float],
    policy: TimingPolicy,
    *,
    drawn_j: Callable[[], float | None] = lambda: None,
) -> Samples:
    """Time `run` under `policy`.

    `run(n)` runs the subject n times and returns the seconds taken by all of them together.
    `drawn_j` are the joules drawn since some moment, None where nobody knows.
    """
    warm_until = time.perf_counter() + policy.warmup_s
    elapsed = run(1)
    while time.perf_counter() < warm_until:
        elapsed = run(1)
    per_block = max(1, math.ceil(policy.block_s / max(elapsed, 1e-9)))
    elapsed = run(per_block) / per_block
    per_block = max(1, math.ceil(policy.block_s / max(elapsed, 1e-9)))
    stop = time.perf_counter() + policy.limit_s
    taken: list[float] = []
    before_j = drawn_j()
    while not _enough(taken, policy, late=time.perf_counter() > stop):
        taken.append(run(per_block) / per_block)
    after_j = drawn_j()
    energy_j = None
    if before_j is not None and after_j is not None:
        energy_j = max(0.0, after_j - before_j) / (per_block * len(taken))
    return Samples(run_s=tuple(taken), energy_j=energy_j)


def _enough(taken: Sequence[float], policy: TimingPolicy, *, late: bool) -> bool:
    if (late and len(taken) >= _FEWEST_SAMPLES) or len(taken) >= policy.max_samples:
        return True
    if len(taken) < policy.min_samples:
        return False
    low, high = median_interval(taken)
    return high - low <= policy.relative_interval * float(np.median(taken))
