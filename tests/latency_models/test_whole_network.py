"""Whole networks: kernels priced by models that have not seen the network, then the overhead."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from millifit.latency_models.archive import State
from millifit.latency_models.batch import KernelBatch
from millifit.latency_models.network_batch import NetworkBatch
from millifit.latency_models.prediction import Floats, Predictions
from millifit.latency_models.whole_network import fit_whole_network, held_out_prices
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def kernel(width: int) -> Kernel:
    tensor = TensorType(shape=(1, 4, 4, width), dtype="float32")
    return Kernel(op="relu", inputs=(tensor,), output=tensor, precision="fp32")


def bytes_of(batch: KernelBatch) -> Floats:
    return batch.work[:, 1]


@dataclass(frozen=True)
class PerByte:
    """Prices kernels by the bytes they move, at the rate of those that it was fitted to."""

    rate: float
    seen: frozenset[int]

    def predict(self, batch: KernelBatch) -> Predictions:
        return Predictions.around(np.log(self.rate * bytes_of(batch)), 0.05, origin="predicted")

    def to_state(self) -> State:
        return State(kind="kernel", facts={"rate": self.rate})


@dataclass
class Fits:
    """Makes such models and keeps them."""

    made: list[PerByte] = field(default_factory=list)

    def __call__(self, batch: KernelBatch, seconds: Floats) -> PerByte:
        rate = float(np.median(seconds / bytes_of(batch)))
        self.made.append(PerByte(rate, frozenset(batch.identities.tolist())))
        return self.made[-1]


def test_no_price_comes_from_the_network_itself() -> None:
    """Ten networks of a kernel each: every model saw the eight of the other groups."""
    networks = [[kernel(width)] for width in range(1, 11)]
    batch, fits = NetworkBatch.of(networks, vector_lanes=8), Fits()
    pair_seconds = np.arange(1, 11) * 1e-6
    prices = held_out_prices(batch, pair_seconds, fit_kernels=fits, seed=0)
    assert len(prices) == 10
    assert [len(model.seen) for model in fits.made] == [8] * 5
    hidden = [set(batch.kernels.identities.tolist()) - model.seen for model in fits.made]
    assert len(set().union(*hidden)) == 10


def test_prices_come_in_the_order_of_pairs() -> None:
    """Kernels of 1 to 30 channels at 2 ns a byte are priced so, wherever they were held out."""
    networks = [[kernel(width), kernel(width + 20)] for width in range(1, 11)]
    batch = NetworkBatch.of(networks, vector_lanes=8)
    truth = 2e-9 * bytes_of(batch.kernels)[batch.kernel]
    prices = held_out_prices(batch, truth, fit_kernels=Fits(), seed=0)
    assert prices.median_s == pytest.approx(truth)


def test_a_kernel_of_several_networks_counts_as_its_median() -> None:
    """1, 2 and 9 us in three networks are 2 us to the model of kernels."""
    batch, fits = NetworkBatch.of([[kernel(8)]] * 3, vector_lanes=8), Fits()
    model = fit_whole_network(
        batch, np.array([1e-6, 2e-6, 9e-6]), np.full(3, 3e-6), fit_kernels=fits, seed=0
    )
    assert model.kernels.predict(batch.kernels).median_s == pytest.approx([2e-6])


def test_kernels_and_overhead_together_predict_new_networks() -> None:
    """Networks take 1.8 times their kernels plus 3 us a call: unseen ones within 2 %."""
    rng = np.random.default_rng(0)
    networks = [
        [kernel(int(width)) for width in rng.integers(50, 500, rng.integers(10, 60))]
        for _ in range(50)
    ]
    batch = NetworkBatch.of(networks, vector_lanes=8)
    pair_seconds = 1e-9 * bytes_of(batch.kernels)[batch.kernel]
    sums = np.bincount(batch.network, pair_seconds * batch.repeats)
    measured = 1.8 * sums + 3e-6 * np.bincount(batch.network, batch.repeats)
    seen = batch.network < 30
    model = fit_whole_network(
        batch.take(np.arange(30)), pair_seconds[seen], measured[:30], fit_kernels=Fits(), seed=0
    )
    made = model.predict(batch.take(np.arange(30, 50)))
    assert made.median_s == pytest.approx(measured[30:], rel=0.02)
    assert model.to_state().part("overhead").kind == "overhead"
    assert model.to_state().part("kernels").fact("rate") == pytest.approx(1e-9)
