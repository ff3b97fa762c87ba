"""Drift of a device over a measuring campaign: found where it is, not where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.latency_models.architectures.drift import find_cycles, find_sections


def _noise(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.02, n)


def test_a_drifted_start_is_a_section() -> None:
    """The first 60 of 600 rows took 30 % longer; the border is found within a few rows."""
    residuals = _noise(600)
    residuals[:60] += 0.3
    first, *rest = find_sections(np.arange(600), residuals, seed=0)
    assert first.first == 0
    assert first.last == pytest.approx(59, abs=3)
    assert first.shift == pytest.approx(0.3, abs=0.02)
    assert all(abs(section.shift) < 0.02 for section in rest)


@pytest.mark.parametrize("seed", range(5))
def test_stationary_noise_is_one_section_without_a_cycle(seed: int) -> None:
    """Nothing is found in noise."""
    order = np.random.default_rng(seed).permutation(4000)[:500]
    residuals = _noise(500, seed=seed + 100)
    sections = find_sections(order, residuals, seed=seed)
    assert len(sections) == 1
    assert sections[0].rows == 500
    assert find_cycles(order, residuals, seed=0) == ()


def test_outliers_are_no_section() -> None:
    """A few rows that took three times as long do not make a section."""
    residuals = _noise(300)
    residuals[[10, 12, 15, 200]] = np.log(3.0)
    assert len(find_sections(np.arange(300), residuals, seed=0)) == 1


def test_the_order_of_rows_does_not_matter() -> None:
    """Rows come with their places, in any order."""
    residuals = _noise(400)
    residuals[250:] -= 0.2
    shuffled = np.random.default_rng(1).permutation(400)
    expected = find_sections(np.arange(400), residuals, seed=0)
    assert find_sections(shuffled, residuals[shuffled], seed=0) == expected
    assert len(expected) == 2


def test_a_cycle_is_found_from_a_fraction_of_the_rows() -> None:
    """One row in ten is enough for the period of a thermostat that keeps its phase."""
    order = np.sort(np.random.default_rng(2).permutation(8000)[:800])
    residuals = _noise(800) + 0.05 * np.sin(2 * np.pi * order / 37.0)
    cycle, *_ = find_cycles(order, residuals, seed=0)
    assert cycle.period == pytest.approx(37.0, rel=0.02)


def test_a_cycle_that_loses_its_phase_is_found() -> None:
    """The phase wanders by several cycles over the campaign."""
    rng = np.random.default_rng(3)
    phase = 2 * np.pi * np.arange(8000) / 25 + np.cumsum(rng.normal(0, 0.06, 8000))
    order = np.sort(rng.permutation(8000)[:900])
    cycle, *_ = find_cycles(order, _noise(900) + 0.08 * np.sin(phase[order]), seed=0)
    assert cycle.period == pytest.approx(25.0, rel=0.05)
