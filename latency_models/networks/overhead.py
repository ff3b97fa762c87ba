"""Overhead and overlap: what networks take beyond their kernels, learnt from those measured.

``log(network / sum of kernels)`` is a Gaussian process. Its terms are a scale of the target, the
overhead of calls, the scale and the overhead of each family of kernels, and a smooth function of
how many calls there are and how long they are: on a phone's GPU a queue hides part of a call's cost
behind long kernels. With no network measured the sum is believed; each one that is measured moves
whatever resembles it, and how much each term varies follows from the measurements.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from millifit.errors import DataError
from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.gaussian_process import Posterior, Prior, learnt_variances
from millifit.latency_models.networks.line import NetworkLine, fit_line
from millifit.latency_models.networks.sums import NetworkSums, network_sums
from millifit.latency_models.networks.terms import Coordinates, Terms
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions

_KIND = "overhead"
# Standard deviations of log(network / sum) before any was measured: first those of the terms ...
_TERMS = (0.2, 0.1, 0.03, 0.03, 0.03, 0.03)
# ... then what networks differ by, and how much of their own idea of it the kernels' errors are: as
# independent errors, and as one error for each family.
_NOISES = (0.03, 0.8, 0.3)
# What a family errs by is learnt from networks whose kernels were predicted; where they were
# measured they say little of it, hence the narrow priors of the last two.
_SPREADS = (1.5,) * 7 + (0.7, 0.7)
_PRIOR = Prior(variances=np.square(_TERMS + _NOISES), spreads=np.array(_SPREADS))
# Disturbed measurements: residuals are of a Student t distribution with so many degrees of freedom,
_DEGREES = 4.0
_OUTLIER = 4.0  # and beyond so many standard deviations they say nothing about the interval.
_FEWEST_FOR_OUTLIERS = 8
_ROUNDS = 4
_CALMEST = 0.01
_NORMAL_WIDTH = 1.96
_NARROWEST = 1.5  # that a few residuals are small says little
_PRIOR_RESIDUALS = 5.0
_LINE_PARAMETERS = 3
# With so many networks the interval follows their quantile as much as their deviation.
_HALF_CONFORMAL = 40.0
# What is extrapolated: networks with such a share of their seconds in extrapolated kernels, or ...
_MOST_EXTRAPOLATED = 0.05
_FARTHEST_KNOWN = 0.5  # ... so many standard deviations beyond the networks that were measured


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OverheadModel:
    """From prices of kernels to seconds of networks. Made by `fit_overhead`."""

    line: NetworkLine
    terms: Terms
    seen: Coordinates
    variances: Floats  # of `terms`, [6]
    noises: Floats  # [3]
    posterior: Posterior
    width: float  # of a 95 % interval, in standard deviations

    def predict(self, batch: NetworkBatch, prices: Predictions) -> Predictions:
        """Seconds of each network, given a price for each of ``batch.kernels``, in order.

        The origin is ``unknown`` where that of a kernel is. A network is extrapolated where kernels
        with a twentieth of its seconds are, or where it is unlike all that were measured.
        """
        sums = network_sums(batch, prices.take(batch.kernel), families=self.terms.families)
        new = self.terms.coordinates(sums)
        cross = self.terms.covariance(new, self.seen, self.variances)
        mean, variance = self.posterior.predict(cross, self.terms.variance(new, self.variances))
        variance = variance + self.noises @ _noises(sums)
        unfamiliar = self.terms.outside(new) > _FARTHEST_KNOWN
        origin = np.where(sums.unknown, ORIGINS.index("unknown"), ORIGINS.index("predicted"))
        return Predictions.around(
            np.log(self.line.seconds(sums.seconds, sums.calls)) + mean,
            self.width * np.sqrt(variance),
            origin=origin.astype(np.uint8),
            extrapolated=unfamiliar | (sums.extrapolated > _MOST_EXTRAPOLATED),
        )

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind=_KIND,
            facts={"width": self.width, "line": dataclasses.asdict(self.line)},
            arrays={
                "variances": self.variances,
                "noises": self.noises,
                "alpha": self.posterior.alpha,
                "inverse": self.posterior.inverse,
            },
            parts={"terms": self.terms.to_state(), "seen": self.seen.to_state()},
        )

    @classmethod
    def from_state(cls, state: State) -> OverheadModel:
        """The model that `to_state` described. Raises DataError where it is none."""
        return cls(
            line=NetworkLine(**state.fact("line")),
            terms=Terms.from_state(state.part("terms")),
            seen=Coordinates.from_state(state.part("seen")),
            variances=state.array("variances", ndim=1),
            noises=state.array("noises", ndim=1),
            posterior=Posterior(
                alpha=state.array("alpha", ndim=1), inverse=state.array("inverse", ndim=2)
            ),
            width=float(state.fact("width")),
        )


def fit_overhead(batch: NetworkBatch, prices: Predictions, seconds: Floats) -> OverheadModel:
    """Learn from measured networks: `seconds` ``[n]``, and a price for each pair of the batch.

    Prices of kernels are those of pairs by ``prices.take(batch.kernel)``. They should err as those
    of new networks will: see `whole.fit_whole_network`. No network at all gives a model that
    believes the sum. Networks that were disturbed while they were measured are given
    little weight. Raises DataError for seconds that are no positive numbers.
    """
    seconds = np.asarray(seconds, np.float64)
    if seconds.shape != (len(batch),):
        raise DataError(f"{len(batch)} networks need as many latencies, got {seconds.shape}.")
    wrong = np.flatnonzero(~(np.isfinite(seconds) & (seconds > 0)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"network {row} was measured as {seconds[row]} s: measure it again.")
    sums = network_sums(batch, prices, families=batch.kernels.names)
    terms = Terms.of(sums, families=batch.kernels.names)
    return _fitted(fit_line(sums.seconds, sums.calls, seconds), terms, sums, np.log(seconds))


def _fitted(line: NetworkLine, terms: Terms, sums: NetworkSums, log_s: Floats) -> OverheadModel:
    """The model of networks' log seconds ``[n]``, with weights against outliers."""
    target = log_s - np.log(line.seconds(sums.seconds, sums.calls))
    seen = terms.coordinates(sums)
    parts, noises = terms.parts(seen, seen), _noises(sums)
    robust = len(target) >= _FEWEST_FOR_OUTLIERS
    weights = _weights(_standardised(target)) if robust else np.ones(len(target))
    for _ in range(_ROUNDS if robust else 1):
        weighted = np.stack([noises[0] / weights, *noises[1:]])
        variances, amounts = learnt_variances(parts, weighted, target, prior=_PRIOR)
        posterior = Posterior.of(np.tensordot(variances, parts, axes=1), amounts @ weighted, target)
        mean, variance = posterior.left_out(target)
        undisturbed = variance + amounts @ (noises - weighted)
        residuals = (target - mean) / np.sqrt(undisturbed)
        weights = _weights(residuals)
    return OverheadModel(
        line=line,
        terms=terms,
        seen=seen,
        variances=variances,
        noises=amounts,
        posterior=posterior,
        width=_width(residuals) if robust else _NORMAL_WIDTH,
    )


def _weights(residuals: Floats) -> Floats:
    """What each residual, in standard deviations, says of how calmly it was measured: ``[n]``."""
    weights: Floats = (_DEGREES + 1) / (_DEGREES + residuals**2)
    return weights


def _standardised(target: Floats) -> Floats:
    """Around their median, in units of their median distance from it: ``[n]``."""
    away = target - np.median(target)
    unit: Floats = away / max(_CALMEST, 1.48 * float(np.median(np.abs(away))))
    return unit


def _noises(sums: NetworkSums) -> Floats:
    """What the residual's variance is made of: ``[3, n]``."""
    return np.stack([np.ones(len(sums.seconds)), sums.apart, sums.together])


def _width(residuals: Floats) -> float:
    """The width of an interval, in standard deviations, from residuals in units of them ``[n]``.

    The quantile of few residuals is little more than their maximum, so the fewer there are, the
    more the interval follows that of a normal distribution of their size. What was disturbed
    counts as a large residual in the one, and not at all in the other.
    """
    n = len(residuals)
    # The line was fitted to the network that is left out, too.
    residuals = residuals * math.sqrt(n / (n - _LINE_PARAMETERS))
    kept = residuals[np.abs(residuals) <= _OUTLIER]
    squares = (_PRIOR_RESIDUALS + float(kept @ kept)) / (_PRIOR_RESIDUALS + len(kept))
    # Student's quantile: the deviation of few residuals is itself uncertain.
    normal = float(stdtrit(n - _LINE_PARAMETERS, 0.975)) * math.sqrt(squares)
    quantile = half_width(np.clip(residuals, -_OUTLIER, _OUTLIER))
    share = n / (n + _HALF_CONFORMAL)
    blended = math.exp((1 - share) * math.log(normal) + share * math.log(quantile))
    return max(_NARROWEST, blended)
