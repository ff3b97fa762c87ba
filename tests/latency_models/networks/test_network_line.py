"""The line through measured networks: scale, seconds per call and seconds per run."""

import numpy as np
import pytest

from millifit.latency_models.networks.line import fit_line
from millifit.latency_models.prediction import Floats


def networks(count: int) -> tuple[Floats, Floats]:
    """Sums of kernels from 0.2 to 20 ms, of 10 to 100 calls."""
    rng = np.random.default_rng(0)
    return np.exp(rng.uniform(np.log(2e-4), np.log(2e-2), count)), rng.integers(
        10, 100, count
    ) * 1.0


def test_the_line_is_recovered() -> None:
    """1.8 times the sum, 5 us a call and 0.5 ms a run: each within 3 %."""
    kernels_s, calls = networks(60)
    line = fit_line(kernels_s, calls, 1.8 * kernels_s + 5e-6 * calls + 5e-4)
    assert line.scale == pytest.approx(1.8, rel=0.03)
    assert line.call_s == pytest.approx(5e-6, rel=0.03)
    assert line.run_s == pytest.approx(5e-4, rel=0.03)


def test_disturbed_measurements_do_not_pull() -> None:
    """Three of 25 networks took 1.5 times as long as they do: the others stay within 1 %."""
    kernels_s, calls = networks(25)
    true_s = 1.05 * kernels_s
    measured_s = true_s.copy()
    measured_s[:3] *= 1.5
    line = fit_line(kernels_s, calls, measured_s)
    assert line.seconds(kernels_s, calls) == pytest.approx(true_s, rel=0.01)


def test_without_networks_the_sum_is_the_line() -> None:
    """Nothing measured, nothing learnt."""
    nothing = np.empty(0)
    line = fit_line(nothing, nothing, nothing)
    assert line.seconds(np.array([2e-3]), np.array([30.0])).tolist() == [2e-3]


def test_nothing_is_negative() -> None:
    """Networks whose calls overlap take less than the sum: by scale, not by negative calls."""
    kernels_s, calls = networks(40)
    line = fit_line(kernels_s, calls, 0.7 * kernels_s)
    assert line.call_s == line.run_s == 0
    assert line.scale == pytest.approx(0.7, rel=0.01)
