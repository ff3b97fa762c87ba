"""The mixture's posterior: like a Gaussian one where it is one, and right about which centre."""

import numpy as np

from millifit.latency_models.prediction import Floats
from millifit.latency_models.transfer.posterior import (
    MixturePrior,
    estimate,
    posterior,
    relatives_prior,
)


def columns_of(n: int, seed: int) -> Floats:
    """Two relatives that differ, a constant, and one feature."""
    feature = np.random.default_rng(seed).normal(size=n)
    return np.column_stack(
        [np.exp(0.3 * feature), np.exp(-0.3 * feature), np.ones(n), np.abs(feature)]
    )


def test_forty_exact_measurements_settle_the_coefficients() -> None:
    """What is a combination of the columns is found to a hundredth."""
    columns = columns_of(40, 0)
    seconds = columns @ np.array([0.8, 0.1, 0.05, 0.1]) * 1e-3
    learnt = posterior(columns, seconds, relatives_prior(columns_of(500, 1), 2))
    assert np.allclose(columns @ learnt.coefficients / seconds, 1.0, atol=0.01)


def test_the_evidence_goes_to_the_centre_that_fits() -> None:
    """Three measurements of a device like the second relative tell it from the first."""
    columns = columns_of(200, 2)[[0, 1, 2]]
    learnt = posterior(columns, 7e-3 * columns[:, 1], relatives_prior(columns_of(500, 3), 2))
    assert learnt.weights[1] > learnt.weights[0]
    assert np.isclose(learnt.weights.sum(), 1.0)


def test_the_unit_of_time_does_not_matter() -> None:
    """Milliseconds in place of seconds scale everything by a thousand."""
    columns = columns_of(10, 4)
    prior = relatives_prior(columns_of(500, 5), 2)
    seconds = 1e-3 * columns[:, 0] * np.exp(0.05 * np.random.default_rng(6).normal(size=10))
    small, large = posterior(columns, seconds, prior), posterior(columns, 1e3 * seconds, prior)
    assert np.allclose(1e3 * small.coefficients, large.coefficients)
    assert np.allclose(1e6 * small.covariance, large.covariance)
    assert np.allclose(estimate(columns, small)[1], estimate(columns, large)[1])


def test_the_covariance_is_that_of_a_conjugate_gaussian() -> None:
    """One centre without spread leaves only the speed, whose variance after n exact measurements
    with noise v is 1 / (1 / level + n / v'), v' the noise that the t distribution came to."""
    prior = MixturePrior(
        centres=np.array([[1.0]]),
        spreads=np.zeros((1, 1, 1)),
        noise_variances=np.array([1e-2]),
        level_variance=0.25,
    )
    n = 8
    learnt = posterior(np.ones((n, 1)), np.ones(n), prior)
    # Of residuals 0 the precision settles where p = (nu + 1) / (nu + its own posterior variance).
    precision = 1.0
    for _ in range(50):
        precision = 4.0 / (3.0 + 1 / (1 / 0.25 + n * precision / 1e-2) / 1e-2)
    assert np.isclose(learnt.covariance[0, 0], 1 / (4.0 + n * precision / 1e-2), rtol=1e-4)
    assert np.isclose(learnt.coefficients[0], 1.0)


def test_no_estimate_falls_below_a_tenth_of_what_relatives_say() -> None:
    """However negative a correction is, the seconds stay positive."""
    columns = columns_of(10, 7)
    learnt = posterior(columns, columns[:, 0], relatives_prior(columns_of(500, 8), 2))
    far = np.array([[1.0, 1.0, 1.0, -1e6], [1.0, 1.0, 1.0, 1e6]])
    seconds, scale = estimate(far, learnt)
    assert np.all(seconds >= 0.1 * (far @ learnt.centre) * (1 - 1e-12))
    assert np.all(np.isfinite(scale))
