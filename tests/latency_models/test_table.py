"""Measured kernels are looked up, failed ones have no price, the rest is predicted once."""

from collections.abc import Sequence

import pytest

from millifit.latency_models.prediction import Prediction
from millifit.latency_models.table import LatencyTable
from millifit.profiler.measurement import Measurement
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples, TimingPolicy

GUESS = Prediction(median_s=5e-3, low_s=1e-3, high_s=9e-3, origin="predicted")


class Guesses:
    """Predicts 5 ms for everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Kernel] = []

    def predict(self, kernels: Sequence[Kernel]) -> list[Prediction]:
        self.asked.extend(kernels)
        return [GUESS] * len(kernels)


def measurement(kernel: Kernel, outcome: Samples | Failed) -> Measurement:
    return Measurement(
        kernel=kernel, target_key="t", versions="v", policy=TimingPolicy(), environment={},
        outcome=outcome,
    )  # fmt: skip


def test_prices_come_from_measurements_first(convolutions: list[Kernel]) -> None:
    """A time is its median and interval; a failure stays one; others are predicted, once."""
    timed, failed, other, *_ = convolutions
    samples = Samples(run_s=tuple(n * 1e-3 for n in range(1, 12)))
    table = {
        timed: measurement(timed, samples),
        failed: measurement(failed, Failed(reason="killed by signal 11")),
    }
    model = Guesses()
    prices = LatencyTable(table, model=model)
    expected = [
        GUESS,
        Prediction(median_s=6e-3, low_s=2e-3, high_s=10e-3, origin="measured"),
        Failed(reason="killed by signal 11"),
        GUESS,
    ]
    assert prices.price([other, timed, failed, other]) == expected
    assert prices.price([other, timed, failed, other]) == expected
    assert model.asked == [other]


def test_without_a_model_only_measured_kernels_have_a_price(convolutions: list[Kernel]) -> None:
    """The reason names the kernel that is missing."""
    (price,) = LatencyTable({}).price(convolutions[:1])
    assert isinstance(price, Failed)
    assert price.reason == f"kernel 'conv2d' ({convolutions[0].key}) was not measured"


@pytest.mark.parametrize(
    ("low", "median", "high"),
    [
        (0.0, 1.0, 2.0),
        (2.0, 1.0, 3.0),
        (1.0, 3.0, 2.0),
        (1.0, float("nan"), 2.0),
        (1, 2, float("inf")),
    ],
)
def test_a_prediction_is_positive_finite_and_ordered(
    low: float, median: float, high: float
) -> None:
    """Nothing else can be made, so nothing downstream has to check."""
    with pytest.raises(ValueError, match="0 < low <= median <= high"):
        Prediction(median_s=median, low_s=low, high_s=high, origin="predicted")
