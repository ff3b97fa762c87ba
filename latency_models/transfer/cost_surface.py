"""Seconds as a sum of costs, one per feature: what a device's profile becomes for its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions

_ROUNDS = 8
_SETTLED = 1e-4
_LEAST = 0.05  # of the typical latency: no sum of costs falls below it
_UNKNOWN_HALF_WIDTH = float(np.log(10.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSurface:
    """A latency that is additive in the features: ``seconds = costs @ [1, features]``.

    Few dozen costs (`costs_s` ``[1 + features]``), so that a profile of some hundred subjects loses
    its noise and is known on subjects that it never measured, too.
    """

    costs_s: Floats
    least_s: float
    half_width: float
    familiarity: Familiarity

    def predict(self, batch: Encoded) -> Predictions:
        """A prediction for each architecture: ``[n]``; `batch` as in `fit_cost_surface`."""
        seconds = np.maximum(self.costs_s[0] + batch.x @ self.costs_s[1:], self.least_s)
        outside = self.familiarity.outside(batch.x)
        half = self.half_width * (1.0 + outside)
        return Predictions.around(
            np.log(seconds),
            np.where(batch.known, half, np.maximum(half, _UNKNOWN_HALF_WIDTH)),
            origin=np.where(
                batch.known, ORIGINS.index("predicted"), ORIGINS.index("unknown")
            ).astype(np.uint8),
            extrapolated=(outside > 0) | ~batch.known,
        )

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="cost surface",
            facts={"least_s": self.least_s, "half_width": self.half_width},
            arrays={"costs_s": self.costs_s},
            parts={"familiarity": self.familiarity.to_state()},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described."""
        return cls(
            costs_s=state.array("costs_s", ndim=1),
            least_s=float(state.fact("least_s")),
            half_width=float(state.fact("half_width")),
            familiarity=Familiarity.from_state(state.part("familiarity")),
        )


def fit_cost_surface(batch: Encoded, seconds: Floats, *, ridge: float = 1.0) -> CostSurface:
    """The costs that make the relative errors smallest.

    Least squares on seconds relative to what the last round predicted (a constant relative noise is
    what timing has), with a ridge of `ridge` observations per standardised feature. The interval
    is from leave-one-out errors. Raises ValueError for no rows, or seconds that are not positive.
    """
    seconds = np.asarray(seconds, np.float64)
    if len(batch) != len(seconds) or not len(seconds):
        raise ValueError(f"needs as many seconds as subjects, got {len(seconds)}, {len(batch)}")
    if not np.all(seconds > 0) or not np.all(np.isfinite(seconds)):
        raise ValueError("seconds must be positive and finite")
    mean, spread = batch.x.mean(axis=0), batch.x.std(axis=0)
    varies = spread > 0
    unit = np.where(varies, spread, 1.0)
    rows = np.column_stack([np.ones(len(seconds)), (batch.x - mean) / unit])
    scale = float(np.median(seconds))
    penalty = np.diag(np.r_[0.0, np.where(varies, ridge, 1.0)])
    least = _LEAST * scale
    expected = np.full(len(seconds), np.exp(np.log(seconds).mean()))
    for _ in range(_ROUNDS):
        weighted = rows * (scale / expected)[:, None]
        gram = weighted.T @ weighted + penalty
        costs = np.linalg.solve(gram, weighted.T @ (seconds / expected))
        last, expected = expected, np.maximum(rows @ costs * scale, least)
        if np.max(np.abs(expected / last - 1)) < _SETTLED:
            break
    leverage = np.einsum("np,np->n", weighted @ np.linalg.inv(gram), weighted)
    errors = np.log(seconds / expected) / np.clip(1 - leverage, 0.1, 1.0)
    slopes = costs[1:] * scale / unit
    return CostSurface(
        costs_s=np.r_[costs[0] * scale - mean @ slopes, slopes],
        least_s=least,
        half_width=half_width(errors),
        familiarity=Familiarity.of(batch.x),
    )
