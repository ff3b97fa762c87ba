"""Measures of accuracy against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.latency_models.accuracy import accuracy, coverage, kendall, spearman
from millifit.latency_models.prediction import Predictions

MEASURED = np.array([1.0, 2.0, 4.0, 8.0])
PREDICTED = np.array([1.04, 2.18, 4.0, 6.0])  # off by 4 %, 9 %, 0 and 25 %


def test_shares_and_mean_error() -> None:
    """Two of four are within 5 %, three within 10 %."""
    found = accuracy(MEASURED, PREDICTED)
    assert (found.n, found.within_5, found.within_10) == (4, 0.5, 0.75)
    assert found.mape == pytest.approx((0.04 + 0.09 + 0.25) / 4)
    assert found.spearman == pytest.approx(1.0)


def test_rank_correlations() -> None:
    """One swap of neighbours among four: Kendall 2/3, Spearman 0.8."""
    swapped = np.array([1.0, 4.0, 2.0, 8.0])
    assert kendall(MEASURED, swapped) == pytest.approx(2 / 3)
    assert spearman(MEASURED, swapped) == pytest.approx(0.8)


def test_a_constant_prediction_ranks_nothing() -> None:
    """It correlates with nothing, rather than being undefined."""
    assert spearman(MEASURED, np.ones(4)) == 0
    assert kendall(MEASURED, np.ones(4)) == 0


def test_the_covered_share() -> None:
    """Measured values on and within the bounds count."""
    made = Predictions.around(np.log(PREDICTED), 0.1, origin="predicted")
    assert coverage(MEASURED, made) == 0.75


def test_measurements_must_be_positive_and_as_many() -> None:
    """An error relative to nothing has no meaning."""
    with pytest.raises(ValueError, match="must be positive"):
        accuracy(np.array([0.0]), np.array([1.0]))
    with pytest.raises(ValueError, match="as many predictions"):
        accuracy(MEASURED, PREDICTED[:2])
