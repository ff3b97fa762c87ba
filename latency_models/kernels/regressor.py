"""Predicting kernels that were never timed, from those of their family that were."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from millifit.errors import DataError
from millifit.latency_models.archive import State
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.family import (
    FEWEST_FOR_ROOFLINE,
    FamilyModel,
    FittedFamily,
    fit_family,
    roofline_family,
)
from millifit.latency_models.prediction import ORIGINS, Flags, Floats, Predictions
from millifit.targets.kernel import Kernel

_UNKNOWN_HALF_WIDTH = math.log(5.0)  # of the interval of log seconds
_NORMAL_95 = 1.96
_BLOCK = 2048  # kernels at a time: what is computed of them stays in the cache
_PREDICTED, _UNKNOWN = ORIGINS.index("predicted"), ORIGINS.index("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModel:
    """Seconds for any kernel of one target, vectorised. Made by `fit_kernel_model`.

    `held_out_log_error` ``[n]`` has, for each kernel of the fit, the logarithm of measured over
    predicted seconds by a model that had not seen the kernel; NaN where there is none. It is not
    saved.
    """

    families: Mapping[str, FamilyModel]
    pooled: FamilyModel
    vector_lanes: int
    held_out_log_error: Floats = field(default_factory=lambda: np.empty(0))

    def predict(self, kernels: KernelBatch | Sequence[Kernel]) -> Predictions:
        """A prediction for each kernel, in order; ``unknown`` where nothing alike was measured.

        A batch that was encoded before is priced by the million; a sequence is encoded first.
        """
        log_s, half, outside, known = self._raw(self._encoded(kernels))
        origin = np.where(known, _PREDICTED, _UNKNOWN).astype(np.uint8)
        return Predictions.around(log_s, half, origin=origin, extrapolated=outside)

    def deviation(self, kernels: KernelBatch | Sequence[Kernel]) -> Floats:
        """The standard deviation of the logarithm of each kernel's seconds: ``[n]``."""
        _, half, _, _ = self._raw(self._encoded(kernels))
        deviation: Floats = half / _NORMAL_95
        return deviation

    def to_state(self) -> State:
        """All that was learnt, as plain arrays and JSON values; `from_state` is the inverse."""
        names = list(self.families)
        parts = {f"family{n}": self.families[name].to_state() for n, name in enumerate(names)}
        return State(
            kind="kernel",
            facts={"families": names, "vector_lanes": self.vector_lanes},
            parts={"pooled": self.pooled.to_state(), **parts},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described; DataError where it is none."""
        names = [str(name) for name in state.fact("families")]
        return cls(
            families={
                name: FamilyModel.from_state(state.part(f"family{n}"))
                for n, name in enumerate(names)
            },
            pooled=FamilyModel.from_state(state.part("pooled")),
            vector_lanes=int(state.fact("vector_lanes")),
        )

    def _encoded(self, kernels: KernelBatch | Sequence[Kernel]) -> KernelBatch:
        if isinstance(kernels, KernelBatch):
            return kernels
        return KernelBatch.of(kernels, vector_lanes=self.vector_lanes)

    def _raw(self, batch: KernelBatch) -> tuple[Floats, Floats, Flags, Flags]:
        """Log seconds, half-widths, whether outside, and whether of a known family."""
        n = len(batch)
        log_s, half = np.empty(n), np.empty(n)
        outside, known = np.empty(n, bool), np.empty(n, bool)
        members = batch.members()
        for name, rows in members.items():
            model = self.families.get(name)
            known[rows] = model is not None
            for start in range(0, len(rows), _BLOCK):
                part = rows[start : start + _BLOCK]
                found = (model or self.pooled).predict(batch.features[part], batch.terms[part])
                log_s[part], half[part], outside[part] = found
        return log_s, half, outside, known


def fit_kernel_model(batch: KernelBatch, seconds: Floats, *, seed: int) -> KernelModel:
    """Learn from measured medians ``[n]`` in seconds of the kernels of a batch.

    The same measurements and seed give the same model, in whatever order. A family with at least
    8 measurements gets regressors, and an interval from their errors on kernels that they have not
    seen; with at least 2 it gets a roofline of its own; any other is predicted from the roofline of
    all measurements, with a wide interval.

    Raises DataError for seconds that are no positive numbers, or where there are none at all.
    """
    seconds = np.asarray(seconds, np.float64)
    _check(batch, seconds)
    order = np.lexsort((seconds, batch.identities))
    ordered, sorted_s = batch.take(order), seconds[order]
    held_out = np.full(len(seconds), np.nan)
    families = {}
    for name, rows in sorted(ordered.members().items()):
        if len(rows) < FEWEST_FOR_ROOFLINE:
            continue
        fitted = _fitted(name, ordered.take(rows), sorted_s[rows], seed)
        families[name] = fitted.model
        held_out[order[rows]] = fitted.held_out
    pooled = roofline_family(
        ordered.features, ordered.terms, sorted_s, least_half_width=_UNKNOWN_HALF_WIDTH
    )
    return KernelModel(
        families=families,
        pooled=pooled.model,
        vector_lanes=batch.vector_lanes,
        held_out_log_error=held_out,
    )


def fit_measured(measured: Mapping[Kernel, float], *, vector_lanes: int, seed: int) -> KernelModel:
    """`fit_kernel_model` of kernels with their seconds, for a device with such vectors."""
    batch = KernelBatch.of(list(measured), vector_lanes=vector_lanes)
    return fit_kernel_model(batch, np.array(list(measured.values()), np.float64), seed=seed)


def _fitted(name: str, batch: KernelBatch, seconds: Floats, seed: int) -> FittedFamily:
    # What is drawn for one family does not depend on which others there are.
    own = zlib.crc32(f"{seed} {name}".encode())
    return fit_family(batch.features, batch.terms, seconds, seed=own)


def _check(batch: KernelBatch, seconds: Floats) -> None:
    if len(seconds) != len(batch):
        raise DataError(f"{len(batch)} kernels have {len(seconds)} latencies.")
    if not len(seconds):
        raise DataError("no kernel was measured: there is nothing to predict from.")
    wrong = np.flatnonzero(~(np.isfinite(seconds) & (seconds > 0)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"kernel {row} ({batch.names[batch.family[row]]}) was measured as {seconds[row]} s: "
            "measure again."
        )
