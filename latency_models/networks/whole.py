"""Whole networks, from the kernels up: a table of kernels, and what networks take beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import KernelModel
from millifit.latency_models.kernels.table import fit_table
from millifit.latency_models.model import LatencyModel
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import OverheadModel, fit_overhead
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions

FitKernels = Callable[[KernelBatch, Floats], KernelModel]
_MEASURED = ORIGINS.index("measured")
_HALF_WIDTH = 0.05  # of the seconds of a kernel that one network alone runs


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeNetworkModel:
    """Seconds of networks: `kernels` prices what they run, `overhead` knows what that makes."""

    kernels: LatencyModel[KernelBatch]
    overhead: OverheadModel

    def predict(self, batch: NetworkBatch) -> Predictions:
        """A prediction for each network, in order."""
        return self.overhead.predict(batch, self.kernels.predict(batch.kernels))

    def to_state(self) -> State:
        """The states of both parts. `OverheadModel.from_state` reads the one, the type of the
        model of kernels its own.
        """
        parts = {"kernels": self.kernels.to_state(), "overhead": self.overhead.to_state()}
        return State(kind="network", parts=parts)


def fit_whole_network(
    batch: NetworkBatch, pair_seconds: Floats, seconds: Floats, *, fit_kernels: FitKernels
) -> WholeNetworkModel:
    """Learn from networks that were timed as a whole, ``seconds [n]``, and kernel by kernel,
    ``pair_seconds [p]`` (see `batch.seconds_of_pairs`).

    `fit_kernels` is `fit_kernel_model` with a seed. What networks take beyond their
    kernels is learnt from prices that none of the network's own measurements went into: a kernel's
    median in other networks, or what the regressor said while it had not seen the kernel.
    """
    medians = _medians(pair_seconds, batch.kernel, len(batch.kernels))
    elsewhere = _elsewhere(batch, pair_seconds)
    shared = np.isfinite(elsewhere)
    half = _HALF_WIDTH
    if shared.any():
        half = max(half, half_width(np.log(pair_seconds[shared] / elsewhere[shared])))
    measured = Predictions.around(np.log(medians), half, origin="measured")
    table = fit_table(
        batch.kernels,
        measured,
        model=fit_kernels(batch.kernels, medians),
        vector_lanes=batch.kernels.vector_lanes,
    )
    unseen = table.unseen(batch.kernels).take(batch.kernel)
    own_half = np.log(unseen.high_s / unseen.low_s) / 2
    prices = Predictions.around(
        np.log(np.where(shared, elsewhere, unseen.median_s)),
        np.where(shared, half, own_half),
        origin=np.where(shared, _MEASURED, unseen.origin).astype(np.uint8),
        extrapolated=unseen.extrapolated & ~shared,
    )
    return WholeNetworkModel(kernels=table, overhead=fit_overhead(batch, prices, seconds))


def _medians(values: Floats, group: npt.NDArray[np.intp], count: int) -> Floats:
    """The median of the values of each group: ``[count]``; every group has some."""
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=count))[:-1]
    return np.array([np.median(part) for part in np.split(values[order], ends)], np.float64)


def _elsewhere(batch: NetworkBatch, pair_seconds: Floats) -> Floats:
    """What the kernel of each pair took in other networks, NaN where none runs it: ``[p]``."""
    elsewhere = np.full(len(pair_seconds), np.nan)
    order = np.argsort(batch.kernel, kind="stable")
    ends = np.cumsum(np.bincount(batch.kernel, minlength=len(batch.kernels)))[:-1]
    for pairs in np.split(order, ends):
        if len(pairs) > 1:
            for pair in pairs:
                elsewhere[pair] = np.median(pair_seconds[pairs[pairs != pair]])
    return elsewhere
