"""Gaussian processes: what is learnt of variances, and what the others say of each sample."""

import numpy as np
import pytest

from millifit.latency_models.networks.gaussian_process import (
    Posterior,
    Prior,
    learnt_variances,
    squared_exponential,
)


def test_a_sample_left_out_is_predicted_as_if_it_had_never_been() -> None:
    """The closed form agrees with fitting again without the sample."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(12, 2)), rng.normal(size=12)
    covariance, noise = squared_exponential(x, x, length=1.0), np.full(12, 0.1)
    mean, variance = Posterior.of(covariance, noise, target).left_out(target)
    rest = np.arange(12) != 4
    others = Posterior.of(covariance[np.ix_(rest, rest)], noise[rest], target[rest])
    again, spread = others.predict(covariance[4:5, rest], covariance[4:5, 4])
    assert mean[4] == pytest.approx(again[0])
    assert variance[4] == pytest.approx(spread[0] + 0.1, rel=1e-6)


def test_variances_follow_the_samples() -> None:
    """Values that differ by group alone: the group's variance is learnt, the noise vanishes."""
    groups = np.repeat(np.arange(30), 4)
    together = (groups[:, None] == groups[None]).astype(float)
    target = np.random.default_rng(1).normal(size=30)[groups] * 0.5
    prior = Prior(variances=np.array([0.01, 0.01]), spreads=np.full(2, 3.0))
    parts, noises = learnt_variances(together[None], np.ones((1, 120)), target, prior=prior)
    assert np.sqrt(parts[0]) == pytest.approx(0.5, rel=0.2)
    assert np.sqrt(noises[0]) < 0.01


def test_a_confident_prior_stays() -> None:
    """One sample says little against a prior that is sure."""
    prior = Prior(variances=np.array([0.04, 0.01]), spreads=np.full(2, 0.1))
    parts, noises = learnt_variances(np.ones((1, 1, 1)), np.ones((1, 1)), np.ones(1), prior=prior)
    assert parts[0] == pytest.approx(0.04, rel=0.3)
    assert noises[0] == pytest.approx(0.01, rel=0.3)


def test_neighbours_are_alike() -> None:
    """The covariance is 1 with itself and exp(-1/2) at one length."""
    x = np.array([[0.0], [2.0]])
    assert squared_exponential(x, x, length=2.0) == pytest.approx(
        np.array([[1.0, np.exp(-0.5)], [np.exp(-0.5), 1.0]])
    )
