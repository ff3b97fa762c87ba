"""The terms of overhead: which networks err alike."""

import numpy as np
import pytest

from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.sums import NetworkSums, network_sums
from millifit.latency_models.networks.terms import Terms
from millifit.latency_models.prediction import Predictions
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

FAMILIES = ("relu fp32", "dense fp32")


def sums_of(*networks: tuple[str, int, float]) -> NetworkSums:
    """Networks of one operator, so many calls of so many seconds each."""
    tensor = TensorType(shape=(1, 8), dtype="float32")
    calls, log_s = [], []
    for number, (op, count, seconds) in enumerate(networks):
        attributes = (("number", number),)
        calls.append(
            [
                Kernel(
                    op=op, inputs=(tensor,), output=tensor, precision="fp32", attributes=attributes
                )
            ]
            * count
        )
        log_s.append(np.log(seconds))
    batch = NetworkBatch.of(calls, vector_lanes=8)
    prices = Predictions.around(np.array(log_s), 0.1, origin="predicted").take(batch.kernel)
    return network_sums(batch, prices, families=FAMILIES)


def test_the_variance_of_a_network_is_its_covariance_with_itself() -> None:
    """For networks of known families, term by term."""
    sums = sums_of(("relu", 10, 1e-5), ("dense", 50, 1e-4), ("relu", 30, 1e-3))
    terms = Terms.of(sums, families=FAMILIES)
    seen, variances = terms.coordinates(sums), np.arange(1.0, 7.0)
    covariance = terms.covariance(seen, seen, variances)
    assert terms.variance(seen, variances) == pytest.approx(np.diag(covariance))
    assert covariance == pytest.approx(covariance.T)
    assert np.all(np.linalg.eigvalsh(covariance) > -1e-9)


def test_networks_of_one_family_share_its_scale() -> None:
    """Third term: 1 between two networks of relu alone, 0 with one of dense layers."""
    sums = sums_of(("relu", 10, 1e-5), ("relu", 20, 1e-4), ("dense", 20, 1e-4))
    terms = Terms.of(sums, families=FAMILIES)
    seen = terms.coordinates(sums)
    assert terms.parts(seen, seen)[2].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_short_calls_have_more_overhead() -> None:
    """About 1 for the network in the middle, more where calls are shorter, less where longer."""
    sums = sums_of(("relu", 20, 1e-5), ("relu", 20, 1e-4), ("relu", 20, 1e-3))
    overhead = Terms.of(sums, families=FAMILIES).coordinates(sums).overhead
    assert overhead[1] == pytest.approx(1.0)
    assert overhead[0] > 2 > 0.5 > overhead[2] > 0


def test_what_lies_outside_of_the_measured_networks_is_said() -> None:
    """Within the range of calls and seconds: 0; a hundred times as many calls: far outside."""
    sums = sums_of(("relu", 10, 1e-5), ("relu", 40, 1e-4))
    terms = Terms.of(sums, families=FAMILIES)
    outside = terms.outside(terms.coordinates(sums_of(("relu", 20, 3e-5), ("relu", 4000, 3e-5))))
    assert outside[0] == 0
    assert outside[1] > 1
