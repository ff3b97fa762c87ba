"""Whole networks known only by their architecture: costs that add up, and what they leave.

Seconds are a sum of costs of the choices (`additive_costs`); what remains of their logarithm is a
Gaussian process over the architectures and, where the order of measuring is known, over the state
of the device (`residual`). Devices drift while thousands of networks are measured, often by more
than the costs can be off; knowing the order tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.architectures.costs import Costs, fit_costs
from millifit.latency_models.architectures.covariance import Subjects
from millifit.latency_models.architectures.drift import Cycle, Section
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.architectures.residual import Residual, fit_residual
from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions

_FEWEST = 10
_ROWS_AT_ONCE = 2000
_NARROWEST = 0.005
_MARGIN = 0.1  # of a feature's range: so far beyond it is not outside
_UNFAMILIAR = float(np.log(2.0))  # half-width per range of a feature beyond it
_UNKNOWN = float(np.log(5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveModel:
    """Seconds of architectures of one space on one device. Made by `fit_additive_model`."""

    names: tuple[str, ...]
    costs: Costs
    reference_s: float
    residual: Residual
    familiarity: Familiarity  # of all features in units of `span`, their range when measured
    span: Floats
    half_width: float  # in units of the predicted standard deviation
    stateless_half_width: float  # of log seconds, for a prediction without a place in the order

    @property
    def sections(self) -> tuple[Section, ...]:
        """Stretches of the measuring campaign with a level of their own.

        A single one where nothing drifted, none where the order of measuring was not given.
        """
        return self.residual.sections

    @property
    def cycles(self) -> tuple[Cycle, ...]:
        """A state of the device that came back at regular intervals, if there was one."""
        return self.residual.cycles

    def predict(self, batch: Encoded, *, order: npt.ArrayLike | None = None) -> Predictions:
        """A prediction for each architecture.

        `order` ``[n]`` are places in the order of measuring of the campaign that the model was
        fitted to: the prediction is then of what would be measured there, in the state that the
        device was in. Without it, it is of the device's typical state, and the interval is that
        much wider. Raises DataError for another encoding than the model was fitted to, or for an
        order where the model was fitted without one.
        """
        places = self._places(batch, order)
        outside = self.familiarity.outside(batch.x / self.span)
        logs, widths = [np.empty(0)], [np.empty(0)]
        for begin in range(0, len(batch), _ROWS_AT_ONCE):
            rows = np.arange(begin, min(begin + _ROWS_AT_ONCE, len(batch)))
            middle, deviation = self._log_seconds(
                batch.take(rows), None if places is None else places[rows]
            )
            logs.append(middle)
            widths.append(deviation)
        width = np.concatenate(widths) * self.half_width
        if places is None and self.residual.subjects.order is not None:
            width = np.full(len(batch), self.stateless_half_width)
        width = np.maximum(width, _NARROWEST) + _UNFAMILIAR * outside
        origin = np.where(batch.known, ORIGINS.index("predicted"), ORIGINS.index("unknown"))
        return Predictions.around(
            np.concatenate(logs),
            np.where(batch.known, width, np.maximum(width, _UNKNOWN)),
            origin=origin.astype(np.uint8),
            extrapolated=(outside > 0) | ~batch.known,
        )

    def to_state(self) -> State:
        """All that was learnt; `from_state` is the inverse."""
        facts = {
            "names": list(self.names),
            "reference_s": self.reference_s,
            "half_width": self.half_width,
            "stateless_half_width": self.stateless_half_width,
        }
        parts = {
            "costs": self.costs.to_state(),
            "residual": self.residual.to_state(),
            "familiarity": self.familiarity.to_state(),
        }
        return State(kind="additive", facts=facts, arrays={"span": self.span}, parts=parts)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described; DataError where something of it is missing."""
        return cls(
            names=tuple(state.fact("names")),
            costs=Costs.from_state(state.part("costs", kind="costs")),
            reference_s=float(state.fact("reference_s")),
            residual=Residual.from_state(state.part("residual", kind="residual")),
            familiarity=Familiarity.from_state(state.part("familiarity", kind="familiarity")),
            span=state.array("span", ndim=1),
            half_width=float(state.fact("half_width")),
            stateless_half_width=float(state.fact("stateless_half_width")),
        )

    def _places(self, batch: Encoded, order: npt.ArrayLike | None) -> Floats | None:
        if batch.names != self.names:
            raise DataError(
                f"the model knows {len(self.names)} features of another encoding, this batch has "
                f"{len(batch.names)}: encode the architectures as those that it was fitted to."
            )
        if order is None:
            return None
        if self.residual.subjects.order is None:
            raise DataError("the model was fitted without an order of measuring: leave it out.")
        return _checked_order(order, len(batch))

    def _log_seconds(self, batch: Encoded, places: Floats | None) -> tuple[Floats, Floats]:
        """Log seconds and their standard deviation: ``[n]`` each."""
        x = self.costs.standardised(batch)
        seconds = self.costs.seconds(x)
        asked = Subjects.of(x, seconds, reference_s=self.reference_s, order=places)
        middle, deviation = self.residual.predict(asked)
        return np.log(seconds) + middle, deviation


def fit_additive_model(
    encoded: Encoded, seconds: npt.ArrayLike, *, seed: int, order: npt.ArrayLike | None = None
) -> AdditiveModel:
    """Learn from measured `seconds` ``[n]`` of architectures. The same input gives the same model.

    `order` ``[n]`` are the places of the measurements in the order that they were taken in, not
    necessarily all of it: 0 for the first network of the campaign, and so on. With it drift of
    the device is noticed, told apart from the architectures, and reported as `sections` and
    `cycles`. All parameters come from the measurements given: costs by cross-validation, the rest
    by likelihood, a cycle only where it lowers the leave-one-out error.

    Raises DataError for fewer than 10 measurements, for seconds that are not positive numbers, for
    an architecture of another space, or for an order that does not fit.
    """
    measured = _checked(encoded, seconds)
    places = None if order is None else _checked_order(order, len(encoded))
    costs = fit_costs(encoded, measured, seed=seed)
    x = costs.standardised(encoded)
    cost_s = costs.seconds(x)
    reference_s = float(np.median(measured))
    residual = fit_residual(
        Subjects.of(x, cost_s, reference_s=reference_s, order=places),
        np.log(measured / cost_s),
        seed=seed,
    )
    errors, deviations = residual.left_out()
    familiarity, span = _familiar(encoded.x)
    return AdditiveModel(
        names=encoded.names,
        costs=costs,
        reference_s=reference_s,
        residual=residual,
        familiarity=familiarity,
        span=span,
        half_width=half_width(errors, scale=deviations),
        stateless_half_width=half_width(errors + residual.state()),
    )


def _checked(encoded: Encoded, seconds: npt.ArrayLike) -> Floats:
    measured = np.asarray(seconds, np.float64)
    if measured.shape != (len(encoded),):
        raise DataError(f"{len(encoded)} architectures need as many seconds, got {measured.shape}.")
    if len(measured) < _FEWEST:
        raise DataError(
            f"{len(measured)} architectures were measured: an additive model needs {_FEWEST}."
        )
    wrong = np.flatnonzero(~(np.isfinite(measured) & (measured > 0)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(f"architecture {row} was measured as {measured[row]} s: measure again.")
    if not encoded.known.all():
        row = int(np.flatnonzero(~encoded.known)[0])
        raise DataError(f"architecture {row} has a choice of another space: leave it out.")
    return measured


def _checked_order(order: npt.ArrayLike, n: int) -> Floats:
    places = np.asarray(order, np.float64)
    if places.shape != (n,) or not np.isfinite(places).all():
        raise DataError(f"{n} architectures need as many finite places in order.")
    return places


def _familiar(x: Floats) -> tuple[Familiarity, Floats]:
    """The ranges of features ``[n, features]``, a little wider, in units of each one's range.

    What never varied, such as an operator that was on no edge, is not made wider.
    """
    width = np.ptp(x, axis=0)
    varied = width > 0
    span = np.where(varied, width, 1.0)
    ranges = Familiarity.of(x / span)
    margin = np.where(varied, _MARGIN, 0.0)
    wider = replace(ranges, lowest=ranges.lowest - margin, highest=ranges.highest + margin)
    return wider, span
