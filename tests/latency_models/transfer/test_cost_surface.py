"""A profile as a sum of costs: exact where it is one, robust to noise, honest about the rest."""

import numpy as np
import pytest

from millifit.latency_models.accuracy import coverage
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.transfer.cost_surface import CostSurface, fit_cost_surface

COSTS = np.array([3e-3, 1e-3, 5e-3, 0.0])  # start, then per feature


def subjects(n: int, seed: int) -> Encoded:
    """Subjects with three counts of 0 to 4."""
    x = np.random.default_rng(seed).integers(5, size=(n, 3)).astype(float)
    return Encoded.of({"count": (("a", "b", "c"), x)}, known=np.ones(n, bool))


def test_finds_the_costs_of_an_additive_law() -> None:
    """Without noise and with hardly any ridge the costs come back."""
    some = subjects(60, 0)
    model = fit_cost_surface(some, COSTS[0] + some.x @ COSTS[1:], ridge=1e-9)
    assert np.allclose(model.costs_s, COSTS, atol=1e-8)


def test_intervals_hold_new_measurements() -> None:
    """Of 2,000 new subjects, timed with 5 % of noise, 93 to 97 % lie within the 95 % interval."""
    rng = np.random.default_rng(1)
    seen, unseen = subjects(400, 2), subjects(2000, 3)
    seconds = [
        (COSTS[0] + some.x @ COSTS[1:]) * np.exp(0.05 * rng.normal(size=len(some)))
        for some in (seen, unseen)
    ]
    predicted = fit_cost_surface(seen, seconds[0]).predict(unseen)
    assert 0.93 < coverage(seconds[1], predicted) < 0.97


def test_no_latency_is_zero_or_below() -> None:
    """Far outside of what was measured a sum of costs could fall below nothing; it is extrapolated,
    and stays positive."""
    some = subjects(60, 4)
    model = fit_cost_surface(some, 1e-2 / (1 + some.x[:, 0]))
    far = Encoded(
        x=np.array([[50.0, 0, 0]]), names=some.names, groups=some.groups, known=np.array([True])
    )
    (one,) = model.predict(far)
    assert one.median_s > 0
    assert one.extrapolated


def test_a_feature_that_never_varied_costs_nothing() -> None:
    """It cannot be told from the start, and does not break the fit."""
    some = subjects(40, 5)
    x = some.x.copy()
    x[:, 2] = 4.0
    same = Encoded(x=x, names=some.names, groups=some.groups, known=some.known)
    model = fit_cost_surface(same, 1e-3 + 2e-3 * x[:, 0])
    assert model.costs_s[3] == 0.0
    assert np.allclose(model.predict(same).median_s, 1e-3 + 2e-3 * x[:, 0], rtol=0.05)


def test_comes_back_from_its_state() -> None:
    """The same predictions, to the bit."""
    some = subjects(40, 6)
    model = fit_cost_surface(some, COSTS[0] + some.x @ COSTS[1:])
    again = CostSurface.from_state(model.to_state())
    assert np.array_equal(again.predict(some).high_s, model.predict(some).high_s)


def test_refuses_seconds_that_are_none() -> None:
    """Negative or infinite seconds, none at all, and fewer than subjects."""
    some = subjects(3, 7)
    for wrong in ([-1.0, 1.0, 1.0], [np.inf, 1.0, 1.0]):
        with pytest.raises(ValueError, match="positive and finite"):
            fit_cost_surface(some, np.array(wrong))
    with pytest.raises(ValueError, match="as many seconds as subjects"):
        fit_cost_surface(some, np.ones(2))
