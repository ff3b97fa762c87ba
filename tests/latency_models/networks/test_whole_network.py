"""Whole networks: kernels priced by models that have not seen the network, then the overhead."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest

from millifit.latency_models.archive import State
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import KernelModel
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.whole import fit_whole_network
from millifit.latency_models.prediction import Floats, Predictions
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def kernel(width: int) -> Kernel:
    tensor = TensorType(shape=(1, 4, 4, width), dtype="float32")
    return Kernel(op="relu", inputs=(tensor,), output=tensor, precision="fp32")


def bytes_of(batch: KernelBatch) -> Floats:
    return batch.work[:, 1]


@dataclass(frozen=True)
class PerByte:
    """Prices kernels by the bytes they move; held out, it errs by what the test says."""

    rate: float
    held_out_log_error: Floats

    def predict(self, batch: KernelBatch) -> Predictions:
        return Predictions.around(np.log(self.rate * bytes_of(batch)), 0.05, origin="predicted")

    def to_state(self) -> State:
        return State(kind="kernel", facts={"rate": self.rate})


def fit(*, error: float = 0.0) -> Callable[[KernelBatch, Floats], KernelModel]:
    def fit_kernels(batch: KernelBatch, seconds: Floats) -> KernelModel:
        rate = float(np.median(seconds / bytes_of(batch)))
        return cast("KernelModel", PerByte(rate, np.full(len(batch), error)))

    return fit_kernels


def test_prices_come_from_other_networks_alone() -> None:
    """A kernel of two networks is priced by the other's; one of a single network by a model that
    had not seen it. Networks take twice those prices, not what their own measurements say.
    """
    shared, lonely = kernel(100), kernel(200)
    batch = NetworkBatch.of([[shared], [shared], [lonely]], vector_lanes=8)
    pair_seconds = np.array([1e-5, 2e-5, 4e-5])
    model = fit_whole_network(
        batch, pair_seconds, np.array([4e-5, 2e-5, 16e-5]), fit_kernels=fit(error=math.log(0.5))
    )
    made = model.overhead.predict(
        batch, Predictions.around(np.log(np.array([2e-5, 8e-5])), 0.05, origin="predicted")
    )
    assert made.median_s == pytest.approx([4e-5, 4e-5, 16e-5], rel=0.1)


def test_a_kernel_of_several_networks_counts_as_its_median() -> None:
    """1, 2 and 9 us in three networks are 2 us to the model of kernels."""
    batch = NetworkBatch.of([[kernel(8)]] * 3, vector_lanes=8)
    model = fit_whole_network(
        batch, np.array([1e-6, 2e-6, 9e-6]), np.full(3, 3e-6), fit_kernels=fit()
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
        batch.take(np.arange(30)), pair_seconds[seen], measured[:30], fit_kernels=fit()
    )
    made = model.predict(batch.take(np.arange(30, 50)))
    assert made.median_s == pytest.approx(measured[30:], rel=0.02)
    assert model.to_state().part("overhead").kind == "overhead"
    assert model.to_state().part("kernels").kind == "table"
