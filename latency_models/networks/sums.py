"""What the prices of its kernels say of a network: their sum, its parts, and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from millifit.latency_models.networks.batch import Indices, NetworkBatch
from millifit.latency_models.prediction import ORIGINS, Flags, Floats, Predictions

_SD_OF_95 = 2 * 1.96  # standard deviations from end to end of a normal 95 % interval
_UNKNOWN = ORIGINS.index("unknown")
_MEASURED = ORIGINS.index("measured")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkSums:
    """Of n networks: seconds and calls ``[n]``, and the families' shares of both ``[n, families]``.

    `apart` and `together` ``[n]`` are variances of the logarithm of the sum, if the errors of
    different kernels are independent, and if those of one family that were not measured are one
    error. `unknown` ``[n]`` says that a kernel is, `extrapolated` ``[n]`` which
    share of the seconds.
    """

    seconds: Floats
    calls: Floats
    seconds_shares: Floats
    calls_shares: Floats
    apart: Floats
    together: Floats
    unknown: Flags
    extrapolated: Floats

    @property
    def log_seconds(self) -> Floats:
        """``[n]``."""
        return np.asarray(np.log(self.seconds), np.float64)

    @property
    def log_seconds_per_call(self) -> Floats:
        """``[n]``."""
        return np.asarray(np.log(self.seconds / self.calls), np.float64)


def network_sums(
    batch: NetworkBatch, prices: Predictions, *, families: Sequence[str]
) -> NetworkSums:
    """The sums of networks, given a price for each pair of network and kernel, in order.

    Shares are of `families`; kernels of other families add to seconds and calls alone.
    """
    repeats = batch.repeats.astype(np.float64)
    seconds = prices.median_s * repeats
    total = _by_network(batch, seconds)
    calls = _by_network(batch, repeats)
    width = np.log(prices.high_s / prices.low_s) / _SD_OF_95
    error = seconds / total[batch.network] * width
    unsure = np.where(prices.origin == _MEASURED, 0.0, error)
    columns, own = _columns(batch, families), np.arange(len(batch.kernels.names))
    return NetworkSums(
        seconds=total,
        calls=calls,
        seconds_shares=_by_column(batch, seconds, columns, len(families)) / total[:, None],
        calls_shares=_by_column(batch, repeats, columns, len(families)) / calls[:, None],
        apart=_by_network(batch, error**2),
        together=(_by_column(batch, unsure, own, len(own)) ** 2).sum(axis=1),
        unknown=_by_network(batch, prices.origin == _UNKNOWN) > 0,
        extrapolated=_by_network(batch, seconds * prices.extrapolated) / total,
    )


def _columns(batch: NetworkBatch, families: Sequence[str]) -> Indices:
    """The column among `families` of each family of the batch; one past the last for none."""
    position = {family: column for column, family in enumerate(families)}
    return np.array(
        [position.get(family, len(families)) for family in batch.kernels.names], np.intp
    )


def _by_column(batch: NetworkBatch, values: Floats, columns: Indices, width: int) -> Floats:
    """Values of pairs summed by network and column: ``[n, width]``, column `width` left out."""
    cell = batch.network * (width + 1) + columns[batch.kernels.family[batch.kernel]]
    summed = np.bincount(cell, values, minlength=len(batch) * (width + 1)).astype(np.float64)
    return summed.reshape(len(batch), width + 1)[:, :width]


def _by_network(batch: NetworkBatch, values: Floats | Flags) -> Floats:
    """Values of pairs summed by network: ``[n]``."""
    return np.bincount(batch.network, values, minlength=len(batch)).astype(np.float64)
