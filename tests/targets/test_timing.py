"""Samples, their interval, and when sampling stops."""

import math
from itertools import pairwise

import numpy as np
import pytest

from millifit.targets.runner.kernel_timing import repeat
from millifit.targets.timing import Samples, TimingPolicy, median_interval, sample


@pytest.mark.parametrize("bad", [(), (0.0,), (-1e-3,), (math.nan,), (math.inf,)])
def test_only_positive_finite_seconds_are_samples(bad: tuple[float, ...]) -> None:
    """Zero, negative and not-a-number times are refused where they enter."""
    with pytest.raises(ValueError, match="positive and finite"):
        Samples(run_s=bad)


@pytest.mark.parametrize("n", range(9, 202))
def test_the_interval_holds_the_median_95_times_in_100(n: int) -> None:
    """Exact binomial coverage of the order statistics chosen, for every possible sample size."""
    low, high = median_interval([float(i) for i in range(n)])
    # The true median lies between the i-th and j-th smallest (from 0) unless at most i or at least
    # j + 1 samples fall below it.
    below = sum(math.comb(n, k) for k in range(int(low) + 1))
    above = sum(math.comb(n, k) for k in range(int(high) + 1, n + 1))
    assert 0.95 <= 1 - (below + above) / 2**n <= 0.99


def test_few_samples_give_their_range() -> None:
    """Below nine samples nothing can be left out at either end."""
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0]) == (1.0, 5.0)


def test_sampling_stops_once_the_median_is_known() -> None:
    """Equal times need no more than the fewest samples."""
    policy = TimingPolicy(warmup_s=0, block_s=1e-3, min_samples=11)
    assert sample(lambda n: n * 1e-3, policy) == Samples(run_s=(1e-3,) * 11)


def test_sampling_stops_at_the_most_samples() -> None:
    """Times that never settle are cut off."""
    rng = np.random.default_rng(0)
    policy = TimingPolicy(warmup_s=0, block_s=1e-3, max_samples=20, limit_s=60)
    taken = sample(lambda n: n * float(rng.choice([1e-3, 9e-3])), policy)
    assert len(taken.run_s) == 20


def test_a_slow_kernel_stops_at_the_limit() -> None:
    """The limit comes before the fewest samples asked for, but never below three."""
    policy = TimingPolicy(warmup_s=0, min_samples=1000, limit_s=0)
    assert len(sample(lambda n: n * 1.0, policy).run_s) == 3


def test_short_runs_are_timed_in_blocks() -> None:
    """A block lasts as long as the policy says, and a sample is its mean."""
    sizes: list[int] = []

    def run(n: int) -> float:
        sizes.append(n)
        return n * 2.0**-20

    sample(run, TimingPolicy(warmup_s=0, block_s=2.0**-10, min_samples=11))
    assert sizes[-11:] == [1024] * 11


def test_operands_rotate_across_blocks() -> None:
    """Successive runs take the next operands, also where a block ends."""
    seen: list[int] = []
    run = repeat(seen.append, [(0,), (1,), (2,)], overhead_s=0.0)
    run(2)
    run(5)
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_the_cost_of_calling_is_subtracted_but_never_all_time() -> None:
    """An overhead larger than the time leaves a floor above zero that grows with the runs."""
    run = repeat(lambda: None, [()], overhead_s=1.0)
    times = [run(n) for n in (1, 10, 100)]
    assert times == pytest.approx([1e-8, 1e-7, 1e-6])
    assert all(a < b for a, b in pairwise(times))
