"""Gaussian process regression with noise that allows for outliers.

The usual equations (Rasmussen and Williams 2006, algorithm 2.1, equations 5.9 and 5.12); Student's
t noise by expectation maximisation, in which a measurement far from what all others say gets a
larger noise of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from millifit.latency_models.architectures.covariance import (
    PARAMETERS,
    Pairs,
    Term,
    covariance,
    slopes,
)
from millifit.latency_models.prediction import Floats

_DEGREES = 4.0  # of freedom of the noise
_JITTER = 1e-8
_ROUNDS = 2
_INNER_ROUNDS = 3
_STEPS = 25
_FIRST_LOG_NOISE = -5.0
_NOISE_BOUNDS = (-14.0, 1.0)
_NEGLIGIBLE = float(np.log(1e-3))  # of the noise's variance

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A term with logarithms of its parameters: where to start, and the bounds of the search."""

    term: Term
    logs: tuple[float, ...]
    bounds: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Terms with their parameters, and the noise of an ordinary measurement.

    `noise` ``[n]`` is the variance of each measurement's own noise, larger for outliers.
    """

    terms: tuple[Term, ...]
    logs: tuple[tuple[float, ...], ...]
    noise_variance: float
    noise: Floats


def fit(starts: Sequence[Start], pairs: Pairs, targets: Floats, *, most: int, seed: int) -> Fitted:
    """The parameters under which `targets` ``[n]`` are likeliest, and each one's noise.

    With more than `most` targets the parameters come from so many of them, drawn with `seed`; the
    noise comes from all.
    """
    few = _some(len(targets), most, seed)
    few_pairs = _taken(pairs, few)
    weights = np.ones(len(few))
    parts, log_variance = list(starts), _FIRST_LOG_NOISE
    for _ in range(_ROUNDS):
        parts, log_variance = _likeliest(parts, log_variance, few_pairs, targets[few], weights)
        terms, logs = [part.term for part in parts], [part.logs for part in parts]
        shared = _total(terms, logs, few_pairs)
        weights = _weights(shared, targets[few], np.exp(log_variance), weights)
    variance = float(np.exp(log_variance))
    if len(few) < len(targets):
        shared = _total(terms, logs, pairs)
        weights = _weights(shared, targets, variance, np.ones(len(targets)))
    return Fitted(
        terms=tuple(terms),
        logs=tuple(logs),
        noise_variance=variance,
        noise=variance * weights + _JITTER,
    )


def total(fitted: Fitted, pairs: Pairs, terms: Sequence[Term] | None = None) -> Floats:
    """The covariance of pairs under all terms, or some of them: ``[n, m]``."""
    chosen = [number for number, term in enumerate(fitted.terms) if terms is None or term in terms]
    return _total(
        [fitted.terms[number] for number in chosen],
        [fitted.logs[number] for number in chosen],
        pairs,
    )


def factor(fitted: Fitted, pairs: Pairs) -> Floats:
    """The lower Cholesky factor of the measurements' covariance ``[n, n]``, noise included."""
    found: Floats = scipy.linalg.cholesky(
        total(fitted, pairs) + np.diag(fitted.noise), lower=True, check_finite=False
    )
    return found


def _likeliest(
    parts: Sequence[Start], log_variance: float, pairs: Pairs, targets: Floats, weights: Floats
) -> tuple[list[Start], float]:
    """The parts at their likeliest, without those that explain nothing; and log noise."""
    terms = [part.term for part in parts]
    found = scipy.optimize.minimize(
        _negative_log_likelihood,
        np.array([*(log for part in parts for log in part.logs), log_variance]),
        args=(terms, pairs, targets, weights),
        jac=True,
        method="L-BFGS-B",
        bounds=[*(bound for part in parts for bound in part.bounds), _NOISE_BOUNDS],
        options={"maxiter": _STEPS},
    ).x
    moved = [
        replace(part, logs=tuple(map(float, logs)))
        for part, logs in zip(parts, _split(terms, found), strict=True)
    ]
    kept = [part for part in moved if part.logs[0] > found[-1] + _NEGLIGIBLE]
    return kept or moved[:1], float(found[-1])


def _some(n: int, most: int, seed: int) -> Rows:
    chosen: Rows = np.sort(np.random.default_rng(seed).permutation(n)[:most])
    return chosen


def _taken(pairs: Pairs, rows: Rows) -> Pairs:
    square = np.ix_(rows, rows)
    return Pairs(
        products=pairs.products[square],
        apart=pairs.apart[square],
        between=None if pairs.between is None else pairs.between[square],
    )


def _split(terms: Sequence[Term], logs: Floats) -> list[Floats]:
    ends = np.cumsum([len(PARAMETERS[term]) for term in terms])
    return np.split(logs[: ends[-1]], ends[:-1])


def _total(terms: Sequence[Term], logs: Sequence[tuple[float, ...]], pairs: Pairs) -> Floats:
    found: Floats = np.zeros_like(pairs.products)
    for term, part in zip(terms, logs, strict=True):
        found += covariance(term, part, pairs)
    return found


def _negative_log_likelihood(
    logs: Floats, terms: Sequence[Term], pairs: Pairs, targets: Floats, weights: Floats
) -> tuple[float, Floats]:
    """Equations 5.8 and 5.9, times -1; the last of `logs` is of the variance of the noise."""
    parts = _split(terms, logs)
    values = [covariance(term, part, pairs) for term, part in zip(terms, parts, strict=True)]
    noise = np.exp(logs[-1]) * weights
    try:
        lower = scipy.linalg.cholesky(
            sum(values[1:], values[0]) + np.diag(noise + _JITTER), lower=True, check_finite=False
        )
    except scipy.linalg.LinAlgError:
        return 1e10, np.zeros(len(logs))
    inverse = inverted(lower)
    explained = inverse @ targets
    likelihood = 0.5 * float(targets @ explained) + float(np.log(np.diag(lower)).sum())
    left = inverse - np.outer(explained, explained)
    gradient = [
        0.5 * float(np.vdot(left, slope))
        for term, part, value in zip(terms, parts, values, strict=True)
        for slope in slopes(term, part, pairs, value)
    ]
    gradient.append(0.5 * float((np.diag(left) * noise).sum()))
    return likelihood, np.array(gradient)


def inverted(lower: Floats) -> Floats:
    """The inverse of a matrix, from its lower Cholesky factor."""
    lower = np.tril(scipy.linalg.lapack.dpotri(lower, lower=1)[0])
    inverse: Floats = lower + np.tril(lower, -1).T
    return inverse


def _weights(shared: Floats, targets: Floats, variance: float, weights: Floats) -> Floats:
    """Each measurement's noise in units of `variance`: the expectation step for Student's t."""
    for _ in range(_INNER_ROUNDS):
        noise = variance * weights + _JITTER
        inverse = inverted(
            scipy.linalg.cholesky(shared + np.diag(noise), lower=True, check_finite=False)
        )
        errors = noise * (inverse @ targets)
        uncertainty = np.maximum(noise - noise**2 * np.diag(inverse), 0.0)
        weights = (_DEGREES + (errors**2 + uncertainty) / variance) / (_DEGREES + 1)
    return weights
