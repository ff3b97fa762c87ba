"""What lies outside of what a model has seen is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.latency_models.familiarity import Familiarity

SEEN = np.array([[0.0, 1.0, 0.0], [4.0, 0.0, 0.0], [2.0, 1.0, 0.0]])


def test_rows_within_the_ranges_are_familiar() -> None:
    """Every row that was seen, and what lies between them."""
    known = Familiarity.of(SEEN)
    assert known.outside(SEEN).tolist() == [0, 0, 0]
    assert known.outside(np.array([[3.0, 0.5, 0.0]])).tolist() == [0]


def test_the_farthest_feature_counts() -> None:
    """One above its range by 2 and another by 1: the distance is 2."""
    assert Familiarity.of(SEEN).outside(np.array([[6.0, 2.0, 0.0]])).tolist() == [2]


def test_a_choice_that_was_never_seen_is_outside() -> None:
    """A one-hot column that was always 0 is left by a 1."""
    assert Familiarity.of(SEEN).outside(np.array([[1.0, 0.0, 1.0]])).tolist() == [1]


def test_it_survives_being_saved() -> None:
    """The ranges of a saved model are the same."""
    again = Familiarity.from_state(Familiarity.of(SEEN).to_state())
    np.testing.assert_array_equal(again.highest, SEEN.max(axis=0))


def test_no_subjects_have_no_ranges() -> None:
    """Nothing can be familiar to a model that has seen nothing."""
    with pytest.raises(ValueError, match="no subjects"):
        Familiarity.of(np.empty((0, 3)))
