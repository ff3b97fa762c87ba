"""Whole networks, from the kernels up: a model of kernels, and what networks take beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.batch import KernelBatch
from millifit.latency_models.model import LatencyModel
from millifit.latency_models.network_batch import Indices, NetworkBatch
from millifit.latency_models.overhead import OverheadModel, fit_overhead
from millifit.latency_models.prediction import Flags, Floats, Predictions

FitKernels = Callable[[KernelBatch, Floats], LatencyModel[KernelBatch]]
_FOLDS = 5


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
    batch: NetworkBatch,
    pair_seconds: Floats,
    seconds: Floats,
    *,
    fit_kernels: FitKernels,
    seed: int,
) -> WholeNetworkModel:
    """Learn from networks that were timed as a whole, ``seconds [n]``, and kernel by kernel,
    ``pair_seconds [p]`` (see `network_batch.seconds_of_pairs`).

    `fit_kernels` makes the model of kernels, six times over: what networks take beyond their
    kernels is learnt from prices by models that have not seen the network.
    """
    prices = held_out_prices(batch, pair_seconds, fit_kernels=fit_kernels, seed=seed)
    everything = np.ones(len(pair_seconds), bool)
    return WholeNetworkModel(
        kernels=_kernel_model(batch, pair_seconds, everything, fit_kernels),
        overhead=fit_overhead(batch, prices, seconds),
    )


def held_out_prices(
    batch: NetworkBatch, pair_seconds: Floats, *, fit_kernels: FitKernels, seed: int
) -> Predictions:
    """A price for each pair ``[p]``, from models fitted to the kernels of other networks.

    Networks are dealt into five groups; each group's prices come from the other four.
    """
    order = np.random.default_rng(seed).permutation(len(batch))
    made: list[Predictions] = []
    rows: list[Indices] = []
    for group in np.array_split(order, min(_FOLDS, len(order))):
        out = np.isin(batch.network, group)
        model = _kernel_model(batch, pair_seconds, ~out, fit_kernels)
        rows.append(np.flatnonzero(out))
        made.append(model.predict(batch.kernels.take(batch.kernel[out])))
    return _joined(made).take(np.argsort(np.concatenate(rows)))


def _kernel_model(
    batch: NetworkBatch, pair_seconds: Floats, pairs: Flags, fit_kernels: FitKernels
) -> LatencyModel[KernelBatch]:
    """A model of the kernels of some pairs; of a kernel in several networks the median counts."""
    kernels, member = np.unique(batch.kernel[pairs], return_inverse=True)
    medians = [np.median(pair_seconds[pairs][member == number]) for number in range(len(kernels))]
    return fit_kernels(batch.kernels.take(kernels), np.array(medians, np.float64))


def _joined(parts: list[Predictions]) -> Predictions:
    return Predictions(
        median_s=np.concatenate([each.median_s for each in parts]),
        low_s=np.concatenate([each.low_s for each in parts]),
        high_s=np.concatenate([each.high_s for each in parts]),
        origin=np.concatenate([each.origin for each in parts]),
        extrapolated=np.concatenate([each.extrapolated for each in parts]),
    )
