"""The latency table: what was measured is looked up, what lies between measured kernels is
interpolated, and the rest is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.archive import State
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.coordinates import Hashes
from millifit.latency_models.kernels.interpolation import Interpolation, Measured, fit_interpolation
from millifit.latency_models.kernels.lines import Indices
from millifit.latency_models.kernels.regressor import KernelModel, fit_kernel_model
from millifit.latency_models.prediction import ORIGINS, Flags, Prediction, Predictions
from millifit.profiler.measurement import Measurement
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples

Column = TypeVar("Column", bound=npt.NDArray[Any])

_KIND = "table"
_INTERPOLATED, _UNKNOWN = ORIGINS.index("interpolated"), ORIGINS.index("unknown")
_FIRST_BITS = 17
_UNKNOWN_HALF_WIDTH = float(np.log(5.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableModel:
    """Seconds of any kernel of one target. Made by `fit_table`.

    `known` ``[m]`` are the measured kernels in ascending order of their hashes `identities`, of
    family ``names[family]``, and `held_out` what the regressor said of them while it had not seen
    them, if `judged` (a family of thousands is judged by some), which both are not saved. Where
    there is no `regressor`, a kernel that is not interpolated is unknown.
    """

    identities: Hashes
    known: Predictions
    names: tuple[str, ...]
    family: Indices
    interpolation: Interpolation
    regressor: KernelModel | None
    held_out: Predictions | None = None
    judged: Flags | None = None

    def predict(self, batch: KernelBatch) -> Predictions:
        """A prediction for each kernel of the batch, in order."""
        place = self._places(batch.identities)
        if (place >= 0).all():
            return self.known.take(place)
        new = np.flatnonzero(place < 0)
        asked = batch if len(new) == len(batch) else batch.take(new)
        trend = self._trend(asked)
        made = self._interpolated(asked, trend)
        return made if len(new) == len(batch) else _merged(self.known, place, made, new)

    def unseen(self, batch: KernelBatch) -> Predictions:
        """As `predict`, but as if no kernel of the batch had been measured: by `held_out`.

        Prices of kernels in networks that are not measured yet err like these. ValueError where the
        table was loaded from a file or has no regressor.
        """
        if self.held_out is None:
            raise ValueError("the table has no predictions of kernels that were held out")
        place = self._places(batch.identities)
        new = np.flatnonzero(place < 0)
        made = self._interpolated(batch.take(new), self._trend(batch.take(new)))
        return _merged(self.held_out, place, made, new)

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        parts = {"interpolation": self.interpolation.to_state()}
        if self.regressor is not None:
            parts["regressor"] = self.regressor.to_state()
        columns: dict[str, npt.NDArray[Any]] = {
            "low_s": self.known.low_s,
            "median_s": self.known.median_s,
            "high_s": self.known.high_s,
            "origin": self.known.origin,
            "extrapolated": self.known.extrapolated,
        }
        return State(
            kind=_KIND,
            facts={"names": self.names},
            arrays={"identities": self.identities, "family": self.family, **columns},
            parts=parts,
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The table that `to_state` described. Raises DataError where it is none."""
        columns = ("low_s", "median_s", "high_s", "origin", "extrapolated")
        try:
            known = Predictions(**{name: state.array(name, ndim=1) for name in columns})
        except ValueError as error:
            raise DataError(f"the saved table is damaged: {error}. Save it again.") from error
        regressor = state.parts.get("regressor")
        return cls(
            identities=state.array("identities", ndim=1),
            known=known,
            names=tuple(map(str, state.fact("names"))),
            family=state.array("family", ndim=1),
            interpolation=Interpolation.from_state(state.part("interpolation")),
            regressor=None if regressor is None else KernelModel.from_state(regressor),
        )

    def _places(self, asked: Hashes) -> Indices:
        if not len(self.identities):
            return np.full(len(asked), -1, np.intp)
        found = np.full(len(asked), -1, np.intp)
        maybe = self._maybe_known(asked)
        asked = asked[maybe]
        place = np.searchsorted(self.identities, asked).clip(max=len(self.identities) - 1)
        found[maybe] = np.where(self.identities[place] == asked, place, -1)
        return found

    def _maybe_known(self, asked: Hashes) -> Indices:
        """The rows whose first bits some measured kernel's hash has: most new kernels are none of
        them, and need not be searched for.
        """
        taken = np.zeros(1 << _FIRST_BITS, bool)
        taken[self.identities >> np.uint64(64 - _FIRST_BITS)] = True
        return np.flatnonzero(taken[asked >> np.uint64(64 - _FIRST_BITS)])

    def _trend(self, batch: KernelBatch) -> Predictions:
        if self.regressor is not None:
            return self.regressor.predict(batch)
        log_s = np.log(self.known.median_s)
        middle = float(np.median(log_s))
        half = 2 * float(np.abs(log_s - middle).max()) + _UNKNOWN_HALF_WIDTH
        return Predictions.around(np.full(len(batch), middle), half, origin="unknown")

    def _interpolated(self, batch: KernelBatch, trend: Predictions) -> Predictions:
        """The trend, corrected between measured neighbours."""
        if not self.interpolation.lines:
            return trend
        before = np.log(trend.median_s)
        log_s, family = self.interpolation.correct(batch.coordinates, before)
        touched = family >= 0
        half = np.log(trend.high_s / trend.low_s) / 2
        widths = self.interpolation.widths[family]
        own = half * widths if self.interpolation.trusted else widths
        return Predictions.around(
            log_s,
            np.where(touched, own, half),
            origin=np.where(touched, _INTERPOLATED, trend.origin).astype(np.uint8),
            extrapolated=trend.extrapolated & ~touched,
        )


def fit_table(
    batch: KernelBatch, measured: Predictions, *, model: KernelModel | None, vector_lanes: int
) -> TableModel:
    """A table of measured kernels, with the model that was fitted to them: `fit_kernel_model` of
    the same batch. Deterministic.

    Where interpolation between neighbours brings a family nearer to what was measured than `model`
    alone, by errors on kernels that neither had seen, the two are combined; else `model` answers.
    Raises DataError for no kernels.
    """
    if not len(batch):
        raise DataError("no kernel was measured: there is nothing to make a table of.")
    order = np.argsort(batch.identities, kind="stable")
    trend = None if model is None else _held_out(batch, measured, model)
    judged = np.ones(len(batch), bool)
    if model is not None:
        judged = np.isfinite(model.held_out_log_error)
    return TableModel(
        identities=batch.identities[order],
        known=measured.take(order),
        names=batch.names,
        family=batch.family[order],
        interpolation=fit_interpolation(
            _usable(batch, measured, trend, judged), vector_lanes=vector_lanes
        ),
        regressor=model,
        held_out=None if trend is None else trend.take(order),
        judged=judged[order],
    )


def _held_out(batch: KernelBatch, measured: Predictions, model: KernelModel) -> Predictions:
    """What the model says of the kernels that it was fitted to, each not seen: ``[m]``.

    Where it has no such prediction, the one of the model itself.
    """
    seen = model.predict(batch)
    unseen = np.log(measured.median_s) - model.held_out_log_error
    return Predictions.around(
        np.where(np.isfinite(unseen), unseen, np.log(seen.median_s)),
        np.log(seen.high_s / seen.low_s) / 2,
        origin=seen.origin,
        extrapolated=seen.extrapolated,
    )


def _usable(
    batch: KernelBatch, measured: Predictions, trend: Predictions | None, judged: Flags
) -> Measured:
    """The kernels that interpolation can learn from: those whose trend had not seen them."""
    return Measured(
        coordinates=batch.coordinates.take(judged),
        log_s=np.log(measured.median_s[judged]),
        trend_log_s=None if trend is None else np.log(trend.median_s[judged]),
    )


def fit_measured_table(
    measured: Mapping[Kernel, Prediction], *, vector_lanes: int, seed: int
) -> TableModel:
    """A table, and the model for all that is not in it, from prices of measured kernels.

    The order of measuring does not matter. Raises DataError for no kernels.
    """
    kernels = sorted(measured, key=lambda kernel: kernel.key)
    batch = KernelBatch.of(kernels, vector_lanes=vector_lanes)
    prices = Predictions.of([measured[kernel] for kernel in kernels])
    model = fit_kernel_model(batch, prices.median_s, seed=seed) if kernels else None
    return fit_table(batch, prices, model=model, vector_lanes=vector_lanes)


class LatencyTable:
    """Prices of kernels on one target. Each is worked out once and then remembered."""

    def __init__(
        self,
        measured: Mapping[Kernel, Measurement],
        *,
        model: Callable[[], TableModel] | None = None,
        vector_lanes: int = 8,
    ) -> None:
        """`model` predicts what was not measured, and is made when that is first asked for;
        without one such a kernel has no price.
        """
        self._make = model
        self._model: TableModel | None = None
        self._vector_lanes = vector_lanes
        self._prices = {kernel: price_of(each) for kernel, each in measured.items()}

    def price(self, kernels: Sequence[Kernel]) -> list[Prediction | Failed]:
        """A price for each kernel, in order, or why it has none.

        A kernel whose measurement failed has no price, whatever a model would say: it does not
        run on the device.
        """
        new = [kernel for kernel in dict.fromkeys(kernels) if kernel not in self._prices]
        if new:
            self._prices.update(zip(new, self._predict(new), strict=True))
        return [self._prices[kernel] for kernel in kernels]

    def _predict(self, kernels: Sequence[Kernel]) -> Sequence[Prediction | Failed]:
        if self._model is None and self._make is not None:
            self._model = self._make()
        if self._model is not None:
            return self._model.predict(KernelBatch.of(kernels, vector_lanes=self._vector_lanes))
        return [
            Failed(reason=f"kernel '{kernel.op}' ({kernel.key}) was not measured")
            for kernel in kernels
        ]


def price_of(measurement: Measurement) -> Prediction | Failed:
    """A measurement as a prediction: its median, with the interval of its samples."""
    outcome = measurement.outcome
    match outcome:
        case Samples():
            low, high = outcome.interval_s
            return Prediction(median_s=outcome.median_s, low_s=low, high_s=high, origin="measured")
        case Failed():
            return outcome


def _merged(known: Predictions, place: Indices, made: Predictions, new: Indices) -> Predictions:
    """Rows of `known` by their places, and rows `new` as they were `made`."""

    def column(of_known: Column, of_made: Column) -> Column:
        values = of_known[place]
        values[new] = of_made
        return cast("Column", values)

    return Predictions(
        low_s=column(known.low_s, made.low_s),
        median_s=column(known.median_s, made.median_s),
        high_s=column(known.high_s, made.high_s),
        origin=column(known.origin, made.origin),
        extrapolated=column(known.extrapolated, made.extrapolated),
    )
