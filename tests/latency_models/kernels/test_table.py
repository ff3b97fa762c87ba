"""Measured kernels are looked up, neighbours are interpolated, the rest is predicted once."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.table import (
    LatencyTable,
    TableModel,
    fit_measured_table,
    fit_table,
)
from millifit.latency_models.prediction import Prediction, Predictions
from millifit.profiler.measurement import Measurement
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples, TimingPolicy

Law = Callable[[Kernel], float]


def measurement(kernel: Kernel, outcome: Samples | Failed) -> Measurement:
    return Measurement(
        kernel=kernel, target_key="t", versions="v", policy=TimingPolicy(), environment={},
        outcome=outcome,
    )  # fmt: skip


def timed(seconds: float) -> Prediction:
    return Prediction(
        median_s=seconds, low_s=seconds / 1.01, high_s=seconds * 1.01, origin="measured"
    )


@pytest.fixture
def table(convolutions: list[Kernel], seconds: Law) -> TableModel:
    """120 of the 240 convolutions, measured exactly."""
    prices = {kernel: timed(seconds(kernel)) for kernel in convolutions[:120]}
    return fit_measured_table(prices, vector_lanes=8, seed=0)


def test_what_was_measured_is_looked_up_exactly(
    table: TableModel, convolutions: list[Kernel], seconds: Law
) -> None:
    """In any order and as often as asked; what was not is predicted, between its neighbours."""
    asked = [convolutions[n] for n in (7, 130, 3, 7, 200)]
    made = table.predict(KernelBatch.of(asked, vector_lanes=8))
    assert [each.origin == "measured" for each in made] == [True, False, True, True, False]
    for number in (0, 2, 3):
        assert made[number] == timed(seconds(asked[number]))


def test_between_neighbours_a_trend_is_corrected(seconds: Law, convolutions: list[Kernel]) -> None:
    """A line of channel counts whose law the features do not know: interpolation does."""

    def odd(kernel: Kernel) -> float:
        return seconds(kernel) * (3 if kernel.inputs[0].shape[1] > 14 else 1)

    base = convolutions[0]
    line = [
        replace(base, output=replace(base.output, shape=(*base.output.shape[:-1], channels)))
        for channels in range(16, 272, 8)
    ]
    known, asked = line[::2], line[1:-1:2]
    batch = KernelBatch.of(known, vector_lanes=8)
    prices = Predictions.of([timed(odd(kernel)) for kernel in known])
    alone = fit_table(batch, prices, model=None, vector_lanes=8)
    made = alone.predict(KernelBatch.of(asked, vector_lanes=8))
    assert {each.origin for each in made} == {"interpolated"}
    truth = np.array([odd(kernel) for kernel in asked])
    np.testing.assert_allclose(made.median_s, truth, rtol=0.03)
    assert np.mean((made.low_s <= truth) & (truth <= made.high_s)) >= 0.9
    beyond = replace(base, output=replace(base.output, shape=(*base.output.shape[:-1], 4096)))
    (outside,) = alone.predict(KernelBatch.of([beyond], vector_lanes=8))
    assert outside.origin == "unknown"


def test_held_out_prices_know_nothing_of_their_kernels(
    table: TableModel, convolutions: list[Kernel], seconds: Law
) -> None:
    """Asked for unseen prices, none is the measured one, and few are far from it."""
    batch = KernelBatch.of(convolutions[:120], vector_lanes=8)
    made = table.unseen(batch)
    truth = np.array([seconds(kernel) for kernel in convolutions[:120]])
    assert {each.origin for each in made} == {"predicted"}
    assert 1e-6 < np.median(np.abs(made.median_s / truth - 1)) < 0.15


def test_a_loaded_table_has_no_held_out_prices(
    table: TableModel, convolutions: list[Kernel]
) -> None:
    """They are not saved: asking for them says so."""
    loaded = TableModel.from_state(table.to_state())
    with pytest.raises(ValueError, match="no predictions of kernels that were held out"):
        loaded.unseen(KernelBatch.of(convolutions[:1], vector_lanes=8))


def test_no_kernels_make_no_table() -> None:
    """The same as for the regressor: there is nothing to learn from."""
    with pytest.raises(DataError, match="nothing to"):
        fit_measured_table({}, vector_lanes=8, seed=0)


def test_prices_come_from_measurements_first(table: TableModel, convolutions: list[Kernel]) -> None:
    """A time is its median and interval; a failure stays one; others are predicted, once."""
    unmeasured, failed, other = convolutions[120], convolutions[121], convolutions[122]
    samples = Samples(run_s=tuple(n * 1e-3 for n in range(1, 12)))
    made: list[int] = []

    def model() -> TableModel:
        made.append(1)
        return table

    prices = LatencyTable(
        {
            unmeasured: measurement(unmeasured, samples),
            failed: measurement(failed, Failed(reason="killed by signal 11")),
        },
        model=model,
    )
    looked_up = prices.price([unmeasured, failed])
    assert looked_up == [
        Prediction(median_s=6e-3, low_s=2e-3, high_s=10e-3, origin="measured"),
        Failed(reason="killed by signal 11"),
    ]
    assert made == []  # nothing was asked for that needs a model
    first, second = prices.price([other]), prices.price([other, unmeasured, other])
    assert second == [first[0], looked_up[0], first[0]]
    assert made == [1]


def test_without_a_model_only_measured_kernels_have_a_price(convolutions: list[Kernel]) -> None:
    """The reason names the kernel that is missing."""
    (price,) = LatencyTable({}).price(convolutions[:1])
    assert isinstance(price, Failed)
    assert price.reason == f"kernel 'conv2d' ({convolutions[0].key}) was not measured"


@pytest.mark.parametrize(
    ("low", "median", "high"),
    [(0.0, 1.0, 2.0), (2.0, 1.0, 3.0), (1.0, 3.0, 2.0), (1.0, math.nan, 2.0), (1, 2, math.inf)],
)
def test_a_prediction_is_positive_finite_and_ordered(
    low: float, median: float, high: float
) -> None:
    """Nothing else can be made, so nothing downstream has to check."""
    with pytest.raises(ValueError, match="0 < low <= median <= high"):
        Prediction(median_s=median, low_s=low, high_s=high, origin="predicted")
