"""Conformal intervals cover what they state, whatever the errors look like."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.latency_models.conformal import half_width

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("draw", [RNG.standard_normal, RNG.standard_cauchy, RNG.exponential])
def test_new_errors_are_covered_as_stated(draw: object) -> None:
    """Over many repetitions 95 % of new errors lie within, for light and heavy tails."""
    hits = []
    for _ in range(2000):
        errors = draw(size=61)  # type: ignore[operator]
        hits.append(abs(errors[-1]) <= half_width(errors[:-1]))
    # the standard deviation of the share over 2000 repetitions is half a point
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_few_errors_stretch_the_largest() -> None:
    """With four residuals no rank supports 95 %: the interval is wider than all of them."""
    assert half_width(np.array([0.1, -0.2, 0.3, 0.4])) > 0.4


def test_widths_are_in_units_of_the_scale() -> None:
    """Where errors are ten times as large by the model's own account, so is the interval."""
    scale = np.repeat([1.0, 10.0], 200)
    errors = RNG.standard_normal(400) * scale
    unit = half_width(errors, scale=scale)
    assert unit == pytest.approx(1.96, abs=0.3)


def test_a_width_needs_errors_and_positive_scales() -> None:
    """Nothing to judge by is refused, and so is an error of size zero."""
    with pytest.raises(ValueError, match="no residuals"):
        half_width(np.array([]))
    with pytest.raises(ValueError, match="must be positive"):
        half_width(np.ones(3), scale=np.array([1.0, 0.0, 1.0]))
