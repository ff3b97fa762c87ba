"""Predictions: one row keeps its invariants, and a column of rows the same."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.latency_models.prediction import ORIGINS, Prediction, Predictions


def three() -> Predictions:
    return Predictions.around(
        np.log([1e-3, 2e-3, 4e-3]),
        np.array([0.1, 0.2, 0.3]),
        origin="predicted",
        extrapolated=np.array([False, True, False]),
    )


def test_rows_of_a_column_are_predictions() -> None:
    """A row has the median and interval that the column was made with."""
    row = three()[1]
    assert row.median_s == pytest.approx(2e-3)
    assert (row.low_s, row.high_s) == pytest.approx((2e-3 * np.exp(-0.2), 2e-3 * np.exp(0.2)))
    assert (row.origin, row.extrapolated) == ("predicted", True)


def test_a_column_of_rows_is_the_column() -> None:
    """Going through single predictions loses nothing."""
    again = Predictions.of(three())
    assert list(again) == list(three())


def test_rows_can_be_taken_by_number_and_by_flag() -> None:
    """Taking keeps the order asked for."""
    assert list(three().take(np.array([2, 0]))) == [three()[2], three()[0]]
    assert list(three().take(three().extrapolated)) == [three()[1]]


def test_a_column_refuses_what_a_prediction_refuses() -> None:
    """Zero seconds are named with their row: no subject is silently free."""
    with pytest.raises(ValueError, match="row 1 needs finite seconds"):
        Predictions(
            median_s=np.array([1e-3, 0.0]),
            low_s=np.array([1e-3, 0.0]),
            high_s=np.array([1e-3, 0.0]),
            origin=np.zeros(2, np.uint8),
            extrapolated=np.zeros(2, bool),
        )


def test_columns_of_different_lengths_are_refused() -> None:
    """They cannot belong to the same rows."""
    with pytest.raises(ValueError, match="differ in length"):
        Predictions(
            median_s=np.ones(2),
            low_s=np.ones(2),
            high_s=np.ones(1),
            origin=np.zeros(2, np.uint8),
            extrapolated=np.zeros(2, bool),
        )


def test_an_absurd_width_stays_finite() -> None:
    """However little a model knows, its interval is made of numbers."""
    wide = Predictions.around(np.array([0.0, 900.0]), 1e9, origin="unknown")
    assert np.isfinite(wide.high_s).all()
    assert (wide.low_s > 0).all()


def test_the_deviation_is_that_of_a_normal_interval() -> None:
    """One row and the column agree."""
    assert three().standard_deviation_s[0] == pytest.approx(three()[0].standard_deviation_s)


def test_a_single_prediction_needs_ordered_seconds() -> None:
    """A median outside of its interval is refused."""
    with pytest.raises(ValueError, match="low <= median <= high"):
        Prediction(median_s=2.0, low_s=3.0, high_s=4.0, origin=ORIGINS[0])
