"""What a few measurements say about a device that resembles others, nobody knows which.

A mixture of Gaussian priors over the coefficients of a linear model of seconds, one for each device
that the new one could resemble, for each closeness of the resemblance and for each level of noise;
the measurements weigh them by their evidence. The noise is Student's t, as timings have outliers:
each measurement has a precision of its own, approximated by variational inference (Tipping and
Lawrence, "Variational inference for Student-t models", Neurocomputing 69, 2005, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millifit.latency_models.prediction import Floats

DEGREES_OF_FREEDOM = 3.0
_ROUNDS = 6
_CLOSENESS = (1e-3, 1e-2, 1e-1, 1.0)  # share of the variance between relatives
_NOISE_VARIANCES = (5e-4, 2e-3, 8e-3)
_LEVEL_VARIANCE = 0.25
_CONSTANT_VARIANCE = 3e-3
_FEATURE_SHARE = 0.5  # variance left to the features, over that between relatives
_LEAST_VARIANCE = 0.02  # between relatives, where there is but one or all are alike
_FLOOR = 0.1  # of what the relatives say: no correction takes a latency below it


@dataclass(frozen=True, slots=True, kw_only=True)
class MixturePrior:
    """Hypotheses about the coefficients of a device, up to its speed.

    `centres` ``[m, p]`` are coefficients that the device could have; `spreads` ``[w, p, p]``
    covariances around them; `level_variance` is how far the speed may be from the first guess,
    relatively and squared; `noise_variances` ``[s]`` are of relative errors of measurements.
    Every combination of the three is equally likely.
    """

    centres: Floats
    spreads: Floats
    noise_variances: Floats
    level_variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Coefficients ``[p]`` with their covariance ``[p, p]``; `centre` ``[p]`` is the part of the
    prior's centres in them; `noise_variance` is of relative errors of a new measurement;
    `weights` ``[m]`` are the shares of the centres.
    """

    coefficients: Floats
    covariance: Floats
    centre: Floats
    noise_variance: float
    weights: Floats


def relatives_prior(reference: Floats, relatives: int) -> MixturePrior:
    """The prior of a device with so many relatives, from the columns of a sample of subjects.

    The columns ``[r, p]`` are the relatives' seconds (each of mean log 0), a constant 1, and
    standardised features. Centres are each relative and their mean. The spread is the relatives'
    own covariance and a diagonal one for the features, times a closeness that is not known.
    """
    p = reference.shape[1]
    mean = np.zeros((1, p))
    mean[0, :relatives] = 1.0 / relatives
    centres = np.vstack([np.eye(relatives, p), mean])
    between = np.zeros((p, p))
    between[:relatives, :relatives] = np.eye(relatives) / relatives - 1.0 / relatives**2
    variance = np.einsum("rp,pq,rq->r", reference, between, reference, optimize=True).mean()
    variance = max(float(variance), _LEAST_VARIANCE)
    features = np.arange(relatives + 1, p)
    between[features, features] = _FEATURE_SHARE * variance / max(1, len(features))
    spreads = np.array(_CLOSENESS)[:, None, None] * between
    spreads[:, relatives, relatives] = _CONSTANT_VARIANCE
    return MixturePrior(
        centres=centres,
        spreads=spreads,
        noise_variances=np.array(_NOISE_VARIANCES),
        level_variance=_LEVEL_VARIANCE,
    )


def estimate(columns: Floats, learnt: Posterior) -> tuple[Floats, Floats]:
    """Seconds of subjects with columns ``[n, p]``, and the standard deviation of log seconds of a
    new measurement of them: ``[n]`` each.
    """
    seconds = np.maximum(columns @ learnt.coefficients, _FLOOR * (columns @ learnt.centre))
    variance = np.einsum("np,np->n", columns @ learnt.covariance, columns)
    noise = learnt.noise_variance * DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2.0)
    return seconds, np.sqrt(np.maximum(variance, 0.0) / seconds**2 + noise)


def posterior(columns: Floats, seconds: Floats, prior: MixturePrior) -> Posterior:
    """The posterior given seconds ``[n]`` of subjects with columns ``[n, p]``.

    Every centre must give positive seconds on them. Work is of order n cubed for each hypothesis:
    meant for up to a hundred measurements.
    """
    likely = prior.centres @ columns.T  # [m, n]
    speed = np.exp(np.median(np.log(seconds) - np.log(likely), axis=1))  # [m]
    relative = columns / likely[:, :, None]  # [m, n, p]
    residuals = seconds / (speed[:, None] * likely) - 1.0  # [m, n]
    projected = np.einsum("mip,wpq->wmiq", relative, prior.spreads)
    # Along a centre every relative latency is 1: a constant added to all.
    kernel = np.einsum("wmip,mjp->wmij", projected, relative) + prior.level_variance
    noise = prior.noise_variances[None, :, None, None]
    inverse, solved, log_evidence = _student_t(kernel[:, None], residuals, noise)
    log_evidence -= np.log(speed[:, None] * likely).sum(axis=1)  # densities per second
    weights = np.exp(log_evidence - log_evidence.max())
    weights /= weights.sum()  # [w, s, m]
    return _moments(prior, projected, speed, inverse, solved, weights)


def _student_t(kernel: Floats, residuals: Floats, noise: Floats) -> tuple[Floats, Floats, Floats]:
    """Variational inference with a precision per measurement.

    Kernels ``[w, 1, m, n, n]``, residuals ``[m, n]``, noise ``[1, s, 1, 1]``; gives the inverse of
    the marginal covariance ``[w, s, m, n, n]``, that times the residuals, and the bound of the
    log evidence ``[w, s, m]``.
    """
    from scipy.special import digamma, gammaln

    half, shape = DEGREES_OF_FREEDOM / 2, (DEGREES_OF_FREEDOM + 1) / 2
    w, _, m, n, _ = kernel.shape
    precision = np.ones((w, noise.shape[1], m, n))
    diagonal = np.eye(n)
    for round_ in range(_ROUNDS):
        variance = noise / precision
        marginal = kernel + variance[..., None] * diagonal
        inverse = np.linalg.inv(marginal)
        solved = np.einsum("wsmij,mj->wsmi", inverse, residuals)
        if round_ < _ROUNDS - 1:
            errors = variance * solved
            uncertain = variance - variance**2 * np.diagonal(inverse, axis1=-2, axis2=-1)
            precision = shape / (half + (errors**2 + uncertain) / (2 * noise))
    rate = shape / precision
    log_precision = digamma(shape) - np.log(rate)
    divergence = (
        shape * np.log(rate)
        - gammaln(shape)
        - half * np.log(half)
        + gammaln(half)
        + (shape - half) * log_precision
        + (half - rate) * precision
    )
    fit = np.einsum("wsmi,mi->wsm", solved, residuals)
    volume = np.linalg.slogdet(marginal)[1]
    corrections = ((log_precision - np.log(precision)) / 2 - divergence).sum(axis=-1)
    evidence: Floats = corrections - (fit + volume) / 2
    return np.asarray(inverse, np.float64), np.asarray(solved, np.float64), evidence


def _moments(
    prior: MixturePrior,
    projected: Floats,
    speed: Floats,
    inverse: Floats,
    solved: Floats,
    weights: Floats,
) -> Posterior:
    """Mean and covariance over all hypotheses ``[w, s, m]``."""
    level = prior.level_variance
    gain = 1.0 + level * solved.sum(axis=-1)  # [w, s, m]
    means = gain[..., None] * prior.centres + np.einsum("wsmn,wmnp->wsmp", solved, projected)
    means *= speed[:, None]
    mean = np.einsum("wsm,wsmp->p", weights, means)
    scaled = weights * speed**2
    covariance = np.einsum("wsm,wpq->pq", scaled, prior.spreads)
    covariance += np.einsum("m,mp,mq->pq", level * scaled.sum(axis=(0, 1)), *[prior.centres] * 2)
    cross = projected + level * prior.centres[:, None, :]  # [w, m, n, p]
    inner = np.einsum("wsm,wsmij->wmij", scaled, inverse)
    covariance -= _sandwich(cross, inner)
    away = means - mean
    covariance += np.einsum("wsm,wsmp,wsmq->pq", weights, away, away, optimize=True)
    return Posterior(
        coefficients=mean,
        covariance=(covariance + covariance.T) / 2,
        centre=(weights.sum(axis=(0, 1)) * speed) @ prior.centres,
        noise_variance=float(weights.sum(axis=(0, 2)) @ prior.noise_variances),
        weights=weights.sum(axis=(0, 1)),
    )


def _sandwich(cross: Floats, inner: Floats) -> Floats:
    """The sum of cross' inner cross: ``[w, m, n, p], [w, m, n, n] -> [p, p]``."""
    weighted = np.matmul(inner, cross)
    total: Floats = np.tensordot(cross, weighted, axes=((0, 1, 2), (0, 1, 2)))
    return total
