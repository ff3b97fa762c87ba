"""Networks as batches: pairs of a network and a kernel, and what is summed over them."""

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.networks.batch import NetworkBatch, seconds_of_pairs
from millifit.latency_models.networks.sums import network_sums
from millifit.latency_models.prediction import Prediction, Predictions
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def kernel(width: int, op: str = "relu") -> Kernel:
    tensor = TensorType(shape=(1, 4, 4, width), dtype="float32")
    return Kernel(op=op, inputs=(tensor,), output=tensor, precision="fp32")


A, B, C = kernel(1), kernel(2), kernel(3, "dense")


def prices(*medians: float, origin: str = "predicted") -> Predictions:
    rows = [
        Prediction(median_s=m, low_s=m / 1.1, high_s=m * 1.1, origin=origin)  # type: ignore[arg-type]
        for m in medians
    ]
    return Predictions.of(rows)


def test_a_batch_counts_each_kernel_of_each_network() -> None:
    """A, A, B and B: three pairs of two kernels, the first one twice."""
    batch = NetworkBatch.of([[A, A, B], [B]], vector_lanes=8)
    assert len(batch) == 2
    assert len(batch.kernels) == 2
    assert batch.network.tolist() == [0, 0, 1]
    assert batch.kernel.tolist() == [0, 1, 1]
    assert batch.repeats.tolist() == [2, 1, 1]


def test_some_networks_keep_the_kernels_that_they_run() -> None:
    """Of networks (A, B) and (C, A), the second alone has kernels A and C."""
    batch = NetworkBatch.of([[A, B], [C, A, A]], vector_lanes=8).take(np.array([1]))
    assert (len(batch), len(batch.kernels)) == (1, 2)
    assert batch.network.tolist() == [0, 0]
    assert [batch.kernels.names[batch.kernels.family[k]] for k in batch.kernel] == [
        "dense fp32",
        "relu fp32",
    ]
    assert batch.repeats.tolist() == [1, 2]


def test_networks_can_be_taken_in_any_order() -> None:
    """Row 0 of what is taken is the network that was asked for first."""
    networks = [[A], [A, B], [A, B, C]]
    batch = NetworkBatch.of(networks, vector_lanes=8).take(np.array([2, 0]))
    assert np.bincount(batch.network, batch.repeats).tolist() == [3, 1]


def test_a_network_without_kernels_is_refused() -> None:
    """An empty program is a mistake, not a network of zero seconds."""
    with pytest.raises(DataError, match="network 1 has no kernels"):
        NetworkBatch.of([[A], []], vector_lanes=8)


def test_calls_of_one_kernel_are_averaged() -> None:
    """The two calls of A took 1 and 3 s, that of B 5 s; in the other network B took 7 s."""
    pairs = seconds_of_pairs([[A, B, A], [B]], [[1.0, 5.0, 3.0], [7.0]])
    assert pairs.tolist() == [2.0, 5.0, 7.0]
    with pytest.raises(DataError, match="network 0: 1 latencies of 2 calls"):
        seconds_of_pairs([[A, B]], [[1.0]])


def test_sums_and_shares() -> None:
    """Two calls of 1 s and one of 2 s: 4 s in 3 calls, half of the seconds in each family."""
    batch = NetworkBatch.of([[A, A, C], [C]], vector_lanes=8)
    sums = network_sums(batch, prices(1.0, 2.0).take(batch.kernel), families=batch.kernels.names)
    assert sums.seconds.tolist() == [4.0, 2.0]
    assert sums.calls.tolist() == [3.0, 1.0]
    assert sums.seconds_shares.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert sums.calls_shares[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_families_that_are_not_asked_for_have_no_share() -> None:
    """A model that never saw a dense layer sees half of this network."""
    batch = NetworkBatch.of([[A, C]], vector_lanes=8)
    sums = network_sums(
        batch, prices(1.0, 1.0).take(batch.kernel), families=["relu fp32", "add fp32"]
    )
    assert sums.seconds_shares.tolist() == [[0.5, 0.0]]
    assert sums.seconds.tolist() == [2.0]


def test_errors_of_a_family_add_up_where_it_was_not_measured() -> None:
    """A and B at 10 %: independent errors are 1/sqrt(2) of one that both share; measured ones are
    never shared.
    """
    batch = NetworkBatch.of([[A, B]], vector_lanes=8)
    predicted = network_sums(
        batch, prices(1.0, 1.0).take(batch.kernel), families=batch.kernels.names
    )
    assert predicted.together[0] == pytest.approx(2 * predicted.apart[0])
    measured = network_sums(
        batch, prices(1.0, 1.0, origin="measured").take(batch.kernel), families=batch.kernels.names
    )
    assert measured.apart == pytest.approx(predicted.apart)
    assert measured.together[0] == 0
