"""Who is timed when, when the rounds end, and the ratio of two networks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from millifit.errors import MeasurementError
from millifit.targets.runner.network_timing import (
    ContenderResult,
    NetworkTimingPolicy,
    Ratio,
    hold_rounds,
    paired_ratio,
    result,
)
from millifit.targets.runner.worker import take_turn

POLICY = NetworkTimingPolicy(min_rounds=3, max_rounds=5)


def summed(*rounds: float) -> ContenderResult:
    return result([[s] for s in rounds], peak_memory_bytes=1, process_peak_bytes=2)


def test_the_order_moves_on_every_round() -> None:
    """A B C, B C A, C A B: each is first, second and last equally often."""
    order: list[str] = []

    def turn(name: str) -> Callable[[], list[float]]:
        return lambda: order.append(name) or [1e-3]  # type: ignore[func-returns-value]

    hold_rounds({n: turn(n) for n in "ABC"}, policy=POLICY, on_round=lambda _: None)
    assert "".join(order) == "ABCBCACAB"


def test_rounds_end_only_when_every_network_is_known_well() -> None:
    """One unsteady network keeps all of them in the ring until the last round."""
    unsteady = iter([1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    done: list[int] = []
    rounds = hold_rounds(
        {"steady": lambda: [1e-3], "unsteady": lambda: [next(unsteady)]},
        policy=POLICY,
        on_round=done.append,
    )
    assert done == [1, 2, 3, 4, 5]
    assert rounds["unsteady"] == [[1e-3], [2e-3], [3e-3], [4e-3], [5e-3]]


def test_rounds_end_at_the_time_limit() -> None:
    """The limit comes before the fewest rounds: a network of minutes is timed once."""
    clock = iter([0.0, 31.0])
    rounds = hold_rounds(
        {"slow": lambda: [60.0]}, policy=POLICY, on_round=lambda _: None, clock=lambda: next(clock)
    )
    assert rounds == {"slow": [[60.0]]}


def test_nothing_to_time_is_an_error() -> None:
    """No contender at all is a mistake of the caller."""
    with pytest.raises(MeasurementError, match="name at least one"):
        hold_rounds({}, policy=POLICY, on_round=lambda _: None)


def test_the_ratio_pairs_rounds() -> None:
    """Drift that hits both networks alike cancels, however large it is."""
    drift = np.linspace(1, 3, 11)
    fast, slow = summed(*(drift * 1e-3)), summed(*(drift * 2e-3))
    assert paired_ratio(slow, fast) == Ratio(median=2.0, low=2.0, high=2.0)


def test_networks_of_different_rounds_have_no_ratio() -> None:
    """Rounds that were not shared cannot be paired."""
    with pytest.raises(MeasurementError, match="1 and 2 rounds"):
        paired_ratio(summed(1e-3), summed(1e-3, 1e-3))


def test_a_turn_warms_up_and_times_single_inferences() -> None:
    """At least the fewest runs are timed, after the warm-up, one inference a sample."""
    calls: list[None] = []

    def infer() -> None:
        calls.append(None)
        sum(range(40_000))  # some hundreds of microseconds

    policy = NetworkTimingPolicy(warmup_runs=4, warmup_s=0, turn_s=0, min_runs=6, min_sample_s=1e-9)
    seconds = take_turn(infer, policy)
    assert len(seconds) == 6
    assert len(calls) == 10


def test_short_inferences_are_timed_in_blocks() -> None:
    """An inference far below the clock's resolution is repeated within a sample."""
    calls: list[None] = []
    policy = NetworkTimingPolicy(warmup_runs=3, warmup_s=0, turn_s=0, min_runs=5, min_sample_s=1e-3)
    seconds = take_turn(lambda: calls.append(None), policy)
    assert len(seconds) == 5
    assert len(calls) > 5 * 100
    assert all(0 < s < 1e-4 for s in seconds)


def test_the_worker_imports_only_what_it_times() -> None:
    """Starting the worker loads neither torch, nor tvm, nor onnx, nor ONNX Runtime."""
    import subprocess
    import sys

    script = (
        "import sys, millifit.targets.runner.worker;"
        "print(sorted({'torch', 'tvm', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True,
        cwd=Path(sys.prefix),
    )  # fmt: skip
    assert ran.stdout == "[]\n"
