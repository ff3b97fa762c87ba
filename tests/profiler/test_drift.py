"""Drift: a machine that slows down is told from kernels that are noisy."""

import numpy as np
import pytest

from millifit.profiler.drift import Reading, shifts, slower

USUAL = {"small": 1e-5, "middle": 1e-4, "large": 1e-3, "largest": 1e-2}


def readings(factors: list[float], *, noise: float = 0.005, seed: int = 0) -> list[Reading]:
    """The anchors at moments at which the machine takes `factors` times as long."""
    rng = np.random.default_rng(seed)
    return [
        {name: s * factor * float(np.exp(rng.normal(0, noise))) for name, s in USUAL.items()}
        for factor in factors
    ]


def test_a_machine_that_slows_down_is_seen() -> None:
    """Two of eight readings at 30 % more are 30 % more, and the others are calm."""
    found = shifts(readings([1, 1, 1.3, 1.3, 1, 1, 1, 1]))
    assert [found.calm(n) for n in range(8)] == [n not in (2, 3) for n in range(8)]
    assert found.relative[2] == pytest.approx(0.3, abs=0.03)


def test_one_noisy_anchor_is_no_drift() -> None:
    """What happens to a single kernel is not the machine."""
    moments = readings([1] * 6)
    moments[3] = {**moments[3], "small": 2e-5}
    found = shifts(moments)
    assert all(found.calm(n) for n in range(6))


@pytest.mark.parametrize("noise", [0.005, 0.01, 0.03])
def test_noise_alone_is_seldom_drift(noise: float) -> None:
    """However much anchors scatter, hardly one reading in a hundred is taken for drift."""
    runs = [shifts(readings([1] * 12, noise=noise, seed=seed)) for seed in range(40)]
    calm = [run.calm(n) for run in runs for n in range(12)]
    assert sum(calm) / len(calm) > 0.99


def test_of_two_readings_the_faster_one_is_calm() -> None:
    """Disturbances slow down; with nothing else to go by the slower one is in doubt."""
    found = shifts(readings([1.3, 1]))
    assert (found.calm(0), found.calm(1)) == (False, True)


def test_an_anchor_that_failed_once_is_left_out_there() -> None:
    """The others still tell."""
    moments = readings([1, 1, 1.3, 1])
    moments[2] = {name: s for name, s in moments[2].items() if name != "large"}
    assert [shifts(moments).calm(n) for n in range(4)] == [True, True, False, True]


def test_nothing_read_is_no_verdict() -> None:
    """Without readings, or without anchors in one, there is no shift and nothing raises."""
    assert shifts([]).relative == ()
    assert slower({"a": 1.0}, than={"b": 1.0}) is None
    assert slower({"a": 1.2, "b": 2.2}, than={"a": 1.0, "b": 2.0}) == pytest.approx(0.15)
    assert shifts([*readings([1, 1]), {}]).relative[2] == 0
