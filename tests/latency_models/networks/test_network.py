"""From kernels to networks: the residual is learnt, with an interval that stays honest."""

import math

import numpy as np
import pytest

from millifit.errors import MeasurementError
from millifit.latency_models.networks.scaled_sum import (
    NetworkModel,
    NetworkObservation,
    observe,
    sum_of_kernels,
)
from millifit.latency_models.prediction import Origin, Prediction
from millifit.targets.timing import Failed


def price(seconds: float, *, relative: float = 0.0, origin: Origin = "measured") -> Prediction:
    spread = 1 + relative
    return Prediction(
        median_s=seconds, low_s=seconds / spread, high_s=seconds * spread, origin=origin
    )


def width(prediction: Prediction) -> float:
    return prediction.high_s / prediction.low_s


def test_before_any_network_the_sum_is_believed_within_15_percent() -> None:
    """Ten kernels of 100 us are 1 ms plus ten calls; the interval is 1.96 standard deviations."""
    made = NetworkModel().predict([price(1e-4)] * 10)
    assert made.median_s == pytest.approx(1e-3 + 10 * 0.2e-6)
    relative = math.sqrt(0.15**2 * 1e-3**2 + (10 * 0.2e-6) ** 2 + (0.02 * made.median_s) ** 2)
    assert made.high_s == pytest.approx(made.median_s * math.exp(1.96 * relative / made.median_s))
    assert made.origin == "predicted"


def test_the_residual_converges() -> None:
    """Networks that take 1.2 times their kernels plus 1 us a call: learnt within 2 %."""
    rng = np.random.default_rng(0)
    model = NetworkModel()
    widths = [width(model.predict([price(1e-4)] * 50))]
    for _ in range(12):
        calls, each_s = int(rng.integers(10, 100)), float(rng.uniform(2e-6, 2e-4))
        measured_s = 1.2 * calls * each_s + calls * 1e-6
        model = model.updated(observe([price(each_s)] * calls, measured_s))
        widths.append(width(model.predict([price(1e-4)] * 50)))
    assert model.scale == pytest.approx(1.2, rel=0.02)
    made = model.predict([price(1e-4)] * 50)
    assert made.median_s == pytest.approx(1.2 * 5e-3 + 50e-6, rel=0.02)
    assert widths[0] > 1.5 > 1.2 > widths[1] > widths[-1]
    assert widths[-1] < 1.1


def test_one_observation_moves_most_of_the_way() -> None:
    """The loop measures a network and predicts its neighbours: one measurement must count."""
    model = NetworkModel().updated(observe([price(1e-4)] * 50, 6e-3))
    assert model.predict([price(1e-4)] * 50).median_s == pytest.approx(6e-3, rel=0.01)
    assert model.predict([price(1e-4)] * 50).low_s < 0.98 * 6e-3


def test_networks_do_not_agree_better_than_they_do() -> None:
    """However many networks were measured, the next one may differ by 2 % (one sigma)."""
    model = NetworkModel()
    for _ in range(200):
        model = model.updated(observe([price(1e-4)] * 50, 5e-3))
    assert width(model.predict([price(1e-4)] * 50)) >= math.exp(2 * 1.96 * 0.02)


def test_uncertain_kernels_teach_less() -> None:
    """If the kernels themselves are guesses, a surprise is not all the residual's fault."""
    sure, unsure = (
        NetworkModel().updated(
            NetworkObservation(kernels_s=1e-3, kernels_sd_s=sd_s, calls=10, measured_s=1.3e-3)
        )
        for sd_s in (0.0, 3e-4)
    )
    assert 1 < unsure.scale < 1.1 < sure.scale < 1.3


def test_errors_of_one_model_add_up_and_those_of_samples_average_out() -> None:
    """100 kernels at 10 %: measured ones average out, predicted ones do not."""
    for origin, expected in (("measured", 0.01), ("predicted", 0.07)):
        prices = [price(1e-5, relative=0.1, origin=origin)] * 100  # type: ignore[arg-type]
        total_s, sd_s = sum_of_kernels(prices)
        assert total_s == pytest.approx(1e-3)
        assert sd_s / total_s * 1.96 == pytest.approx(expected, rel=0.05)


def test_an_unknown_kernel_marks_the_network() -> None:
    """One kernel that nothing is known about makes the whole prediction a guess."""
    made = NetworkModel().predict([price(1e-4), price(1e-4, relative=4, origin="unknown")])
    assert made.origin == "unknown"
    assert width(made) > 3


def test_a_kernel_that_failed_has_no_price_and_neither_has_its_network() -> None:
    """The reason of the failed measurement is passed on."""
    with pytest.raises(MeasurementError, match="killed by signal 11"):
        NetworkModel().predict([price(1e-4), Failed(reason="killed by signal 11")])


def test_no_kernels_have_no_latency() -> None:
    """An empty program is a mistake, not a network of zero seconds."""
    with pytest.raises(MeasurementError, match="without kernels"):
        NetworkModel().predict([])


@pytest.mark.parametrize("measured_s", [0.0, -1.0, math.nan])
def test_a_network_takes_positive_seconds(measured_s: float) -> None:
    """Wrong observations are refused where they enter."""
    with pytest.raises(ValueError, match="positive seconds"):
        observe([price(1e-4)], measured_s)
