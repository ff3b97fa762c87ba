"""Gaussian processes of some dozens of samples whose covariance is a weighted sum of given ones.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): prediction by equations
2.25 and 2.26, the marginal likelihood and its gradient by 5.8 and 5.9, leaving one out by 5.12.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from millifit.latency_models.prediction import Floats

_JITTER = 1e-9
_MAX_STEPS = 60
_FARTHEST = 3.0  # standard deviations of the prior that a variance may be off


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is believed of variances before any sample: medians, and how far they may be off.

    `spreads` are the standard deviations of the logarithms of the variances.
    """

    variances: Floats
    spreads: Floats


def learnt_variances(
    parts: Floats, noises: Floats, target: Floats, *, prior: Prior
) -> tuple[Floats, Floats]:
    """The most probable variances of a sum of independent terms.

    ``target [n] ~ N(0, sum_i v_i parts[i] + diag(sum_j w_j noises[j]))`` with `parts` ``[p, n, n]``
    and `noises` ``[q, n]``; `prior` is of all p + q variances. Returns v ``[p]`` and w ``[q]``.
    """
    diagonals = np.zeros((len(noises), len(target), len(target)))
    rows = np.arange(len(target))
    diagonals[:, rows, rows] = noises
    terms = np.concatenate([parts, diagonals])
    start = np.log(prior.variances)

    def cost(log_variances: Floats) -> tuple[float, Floats]:
        weighted = np.exp(log_variances)[:, None, None] * terms
        covariance = weighted.sum(axis=0)
        covariance[rows, rows] += _JITTER
        factor = cho_factor(covariance, lower=True)
        inverse = cho_solve(factor, np.eye(len(target)))
        alpha = inverse @ target
        away = (log_variances - start) / prior.spreads
        value = target @ alpha / 2 + np.log(np.diag(factor[0])).sum() + away @ away / 2
        slope = np.einsum("ij,kij->k", inverse - np.outer(alpha, alpha), weighted) / 2
        return float(value), slope + away / prior.spreads

    farthest = _FARTHEST * prior.spreads
    bounds = list(zip(start - farthest, start + farthest, strict=True))
    found = minimize(
        cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _MAX_STEPS}
    )
    variances: Floats = np.exp(found.x)
    return variances[: len(parts)], variances[len(parts) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """What samples taught: `alpha` ``[n]`` and the inverse ``[n, n]`` of their covariance."""

    alpha: Floats
    inverse: Floats

    @classmethod
    def of(cls, covariance: Floats, noise: Floats, target: Floats) -> Posterior:
        """From the covariance ``[n, n]`` of samples, their noise variances and values ``[n]``."""
        noisy = covariance + np.diag(noise + _JITTER)
        factor = cho_factor(noisy, lower=True)
        inverse: Floats = cho_solve(factor, np.eye(len(target)))
        return cls(alpha=inverse @ target, inverse=inverse)

    def predict(self, cross: Floats, own: Floats) -> tuple[Floats, Floats]:
        """Means and variances ``[m]`` of new subjects, without their noise.

        `cross` ``[m, n]`` is their covariance with the samples, `own` ``[m]`` their variance.
        """
        explained = (cross @ self.inverse * cross).sum(axis=1)
        return cross @ self.alpha, np.maximum(own - explained, 0.0)

    def left_out(self, target: Floats) -> tuple[Floats, Floats]:
        """Of every sample the mean and variance, noise included, that the others give it."""
        precision = np.diag(self.inverse)
        return target - self.alpha / precision, 1 / precision


def squared_exponential(a: Floats, b: Floats, *, length: float) -> npt.NDArray[np.float64]:
    """``exp(-|a_i - b_j|^2 / (2 length^2))`` of rows: ``[len(a), len(b)]``."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    covariance: Floats = np.exp(-np.maximum(squares, 0.0) / (2 * length**2))
    return covariance
