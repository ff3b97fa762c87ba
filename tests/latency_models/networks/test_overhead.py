"""Overhead of networks: learnt from few of them or many, robust, with intervals that hold."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.archive import read_state, write_state
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import OverheadModel, fit_overhead
from millifit.latency_models.prediction import Floats, Origin, Predictions
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

_OPS = ("conv2d", "depthwise_conv2d", "dense")


def kernel(op: str, width: int) -> Kernel:
    """A kernel that takes `width` microseconds, as far as these tests are concerned."""
    tensor = TensorType(shape=(1, 4, 4, width), dtype="float32")
    return Kernel(op=op, inputs=(tensor,), output=tensor, precision="fp32")


def networks(count: int, *, seed: int = 0) -> list[list[Kernel]]:
    """Networks of 20 to 80 calls, each of 2 to 200 us, in their own proportions."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        share, size = rng.dirichlet([4, 3, 1]), rng.integers(10, 150)
        ops = rng.choice(_OPS, rng.integers(20, 80), p=share)
        made.append([kernel(str(op), int(rng.integers(2, size) + 1)) for op in ops])
    return made


def priced(
    calls: list[list[Kernel]], *, half_width: float = 0.02, origin: Origin = "measured"
) -> tuple[NetworkBatch, Predictions]:
    batch = NetworkBatch.of(calls, vector_lanes=8)
    distinct = dict.fromkeys(kernel for each in calls for kernel in each)
    log_s = np.log([k.output.shape[-1] * 1e-6 for k in distinct])
    return batch, Predictions.around(log_s, half_width, origin=origin)


def true_seconds(
    calls: list[list[Kernel]], *, scale: float, call_s: float, dense: float = 1.0
) -> Floats:
    weight = {"dense": dense}
    return np.array(
        [
            sum(scale * weight.get(k.op, 1.0) * k.output.shape[-1] * 1e-6 + call_s for k in each)
            for each in calls
        ]
    )


def fitted(calls: list[list[Kernel]], measured_s: Floats) -> OverheadModel:
    batch, prices = priced(calls)
    return fit_overhead(batch, prices.take(batch.kernel), measured_s)


def test_scale_and_calls_are_recovered() -> None:
    """Truth is 1.8 times the sum and 5 us a call: after 30 networks, new ones within 1 %."""
    seen, new = networks(30), networks(40, seed=1)
    model = fitted(seen, true_seconds(seen, scale=1.8, call_s=5e-6))
    made = model.predict(*priced(new))
    assert made.median_s == pytest.approx(true_seconds(new, scale=1.8, call_s=5e-6), rel=0.01)
    assert not made.extrapolated.all()


def test_a_family_of_its_own_scale_is_learnt() -> None:
    """Dense layers take twice what they take alone: better than any scale of all kernels."""
    seen, new = networks(40), networks(40, seed=1)
    model = fitted(seen, true_seconds(seen, scale=1.0, call_s=0, dense=2.0))
    made, truth = model.predict(*priced(new)), true_seconds(new, scale=1.0, call_s=0, dense=2.0)
    batch, prices = priced(new)
    line_s = model.line.seconds(
        np.bincount(batch.network, prices.median_s[batch.kernel] * batch.repeats),
        np.bincount(batch.network, batch.repeats).astype(float),
    )
    assert np.abs(made.median_s / truth - 1).mean() < np.abs(line_s / truth - 1).mean() / 3


def test_before_any_network_the_sum_is_believed_with_doubt() -> None:
    """The prior: the sum of the kernels, give or take two fifths."""
    model = fitted([], np.empty(0))
    made = model.predict(*priced([[kernel("conv2d", 100)] * 50]))
    assert made.median_s == pytest.approx([5e-3])
    assert 1.3 < made.high_s[0] / made.median_s[0] < 1.8
    assert made.extrapolated[0]


def test_one_network_moves_what_resembles_it() -> None:
    """A network that took 1.2 times its sum: the same again is believed within 5 %."""
    calls = [[kernel("conv2d", 100)] * 50]
    made = fitted(calls, np.array([6e-3])).predict(*priced(calls))
    assert made.median_s == pytest.approx([6e-3], rel=0.05)


def test_disturbed_networks_move_neither_prediction_nor_interval() -> None:
    """Three of 30 read 1.5 times too long: still within 2 %, intervals less than twice as wide."""
    rng = np.random.default_rng(5)
    seen, new = networks(30), networks(30, seed=1)
    measured_s = 1.05 * true_seconds(seen, scale=1, call_s=0) * rng.normal(1, 0.01, 30)
    calm = fitted(seen, measured_s).predict(*priced(new))
    measured_s[[3, 11, 20]] *= 1.5
    disturbed = fitted(seen, measured_s).predict(*priced(new))
    assert disturbed.median_s == pytest.approx(calm.median_s, rel=0.02)
    assert np.median(np.log(disturbed.high_s / disturbed.median_s)) < 2 * np.median(
        np.log(calm.high_s / calm.median_s)
    )


@pytest.mark.parametrize("count", [20, 60])
def test_intervals_cover_what_they_say(count: int) -> None:
    """Networks that differ by 3 %: 95 % intervals hold 91 to 98 % of new ones, over eight draws."""
    new = networks(200, seed=1)
    held = []
    for draw in range(8):
        rng, seen = np.random.default_rng(draw), networks(count, seed=10 + draw)
        noisy = [
            true_seconds(each, scale=1.4, call_s=2e-6) * np.exp(rng.normal(0, 0.03, len(each)))
            for each in (seen, new)
        ]
        made = fitted(seen, noisy[0]).predict(*priced(new))
        held.append(np.mean((made.low_s <= noisy[1]) & (noisy[1] <= made.high_s)))
    assert 0.91 <= np.mean(held) <= 0.98


def test_uncertain_kernels_widen_the_interval() -> None:
    """Kernels predicted at 20 % instead of measured at 2 %: more doubt of the network."""
    seen = networks(20)
    model = fitted(seen, true_seconds(seen, scale=1.0, call_s=0))
    new = networks(1, seed=1)
    sure, unsure = (
        model.predict(*priced(new, half_width=half, origin=origin))  # type: ignore[arg-type]
        for half, origin in ((0.02, "measured"), (0.2, "predicted"))
    )
    assert unsure.high_s[0] / unsure.median_s[0] > 1.02 * sure.high_s[0] / sure.median_s[0]


def test_an_unknown_kernel_marks_the_network() -> None:
    """One kernel that nothing is known of makes the whole prediction a guess."""
    seen = networks(10)
    model = fitted(seen, true_seconds(seen, scale=1.0, call_s=0))
    batch, prices = priced([[kernel("conv2d", 100), kernel("dense", 100)]])
    prices = dataclasses.replace(prices, origin=np.array([0, 3], np.uint8))
    assert model.predict(batch, prices)[0].origin == "unknown"


def test_a_network_of_another_kind_is_extrapolated() -> None:
    """Kernels of a family that no measured network has: flagged, and with a wider interval."""
    seen = networks(20)
    model = fitted(seen, true_seconds(seen, scale=1.0, call_s=0))
    alike, other = (model.predict(*priced([[kernel(op, 60)] * 40]))[0] for op in ("conv2d", "lstm"))
    assert other.extrapolated
    assert other.high_s / other.median_s > alike.high_s / alike.median_s


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    """Written, read, and equal to the last bit."""
    seen, new = networks(12), priced(networks(5, seed=1))
    model = fitted(seen, true_seconds(seen, scale=1.3, call_s=1e-6))
    write_state(model.to_state(), tmp_path / "overhead.npz")
    again = OverheadModel.from_state(read_state(tmp_path / "overhead.npz"))
    assert again.predict(*new).median_s.tolist() == model.predict(*new).median_s.tolist()
    assert again.predict(*new).high_s.tolist() == model.predict(*new).high_s.tolist()


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_networks_take_positive_seconds(wrong: float) -> None:
    """What was not measured right is named."""
    with pytest.raises(DataError, match="network 1 was measured as"):
        fitted(networks(2), np.array([1e-3, wrong]))


def test_every_network_needs_its_latency() -> None:
    """Two networks and one latency are a mistake of the caller."""
    with pytest.raises(DataError, match="2 networks need as many latencies"):
        fitted(networks(2), np.array([1e-3]))
