"""Predicting kernels that were not measured, on a synthetic device whose law is known."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.archive import read_state, write_state
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import KernelModel, fit_kernel_model, fit_measured
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

Law = Callable[[Kernel], float]


def noisy(kernels: list[Kernel], seconds: Law) -> dict[Kernel, float]:
    """Measured with 3 % noise."""
    rng = np.random.default_rng(1)
    return {k: seconds(k) * math.exp(0.03 * rng.standard_normal()) for k in kernels}


def fitted(kernels: list[Kernel], seconds: Law) -> KernelModel:
    return fit_measured(noisy(kernels, seconds), vector_lanes=8, seed=0)


def test_held_out_kernels_are_predicted(convolutions: list[Kernel], seconds: Law) -> None:
    """120 measured, 120 held out: median error below 15 %, interval coverage 85 to 100 %."""
    held_out = convolutions[120:]
    predictions = fitted(convolutions[:120], seconds).predict(held_out)
    truth = noisy(held_out, seconds)
    errors = [abs(p.median_s / truth[k] - 1) for k, p in zip(held_out, predictions, strict=True)]
    covered = [p.low_s <= truth[k] <= p.high_s for k, p in zip(held_out, predictions, strict=True)]
    assert np.mean(errors) < 0.15
    assert 0.85 <= np.mean(covered) <= 1.0
    assert {p.origin for p in predictions} == {"predicted"}
    assert np.median([p.high_s / p.low_s for p in predictions]) < 2


def test_few_measurements_give_a_roofline_and_a_wide_interval(
    convolutions: list[Kernel], seconds: Law
) -> None:
    """With five of a family the error stays within the factor of 2 that the interval says."""
    predictions = fitted(convolutions[:5], seconds).predict(convolutions[5:])
    for kernel, prediction in zip(convolutions[5:], predictions, strict=True):
        assert prediction.origin == "predicted"
        assert prediction.high_s / prediction.low_s > 3.99
        assert 0.5 < prediction.median_s / seconds(kernel) < 2


def test_an_operator_that_was_never_measured_is_flagged(
    convolutions: list[Kernel], seconds: Law
) -> None:
    """It is never free: positive seconds from all measurements, marked unknown, wide."""
    tensor = TensorType(shape=(1, 28, 28, 64), dtype="float32")
    strange = Kernel(op="sigmoid", inputs=(tensor,), output=tensor, precision="fp32")
    (prediction,) = fitted(convolutions[:60], seconds).predict([strange])
    assert prediction.origin == "unknown"
    assert prediction.median_s > 1e-7
    assert prediction.high_s / prediction.low_s > 24.9
    assert prediction.low_s <= seconds(strange) <= prediction.high_s


def test_precisions_are_different_families(convolutions: list[Kernel], seconds: Law) -> None:
    """int8 is priced by int8 measurements, here twice as fast where arithmetic decides."""
    int8 = [replace(k, precision="int8") for k in convolutions]
    model = fitted(convolutions[:120] + int8[:120], seconds)
    big = max(range(120), key=lambda n: seconds(convolutions[n]))
    slow, fast = model.predict([convolutions[big], int8[big]])
    assert slow.median_s / fast.median_s == pytest.approx(2, rel=0.15)


def test_larger_than_anything_measured_is_extrapolated(
    convolutions: list[Kernel], seconds: Law
) -> None:
    """A kernel 16 times the largest takes about 16 times as long, and says that it is a guess."""
    model = fitted(convolutions[:120], seconds)
    largest = max(convolutions[:120], key=seconds)
    (_, h, w, c), out = largest.inputs[0].shape, largest.output
    huge = replace(
        largest,
        inputs=(TensorType(shape=(1, 4 * h, 4 * w, c), dtype="float32"),),
        output=replace(out, shape=(1, 4 * h, 4 * w, out.shape[-1])),
    )
    inside, outside = model.predict([largest, huge])
    assert outside.extrapolated
    assert not inside.extrapolated
    assert outside.median_s / inside.median_s == pytest.approx(16, rel=0.3)
    assert outside.high_s / outside.low_s > 2 * inside.high_s / inside.low_s


def test_the_order_of_measuring_does_not_matter(convolutions: list[Kernel], seconds: Law) -> None:
    """The same measurements in another order give the same predictions, bit by bit."""
    measured = noisy(convolutions[:40], seconds)
    backwards = dict(reversed(measured.items()))
    made = [
        list(fit_measured(each, vector_lanes=8, seed=3).predict(convolutions[40:60]))
        for each in (measured, backwards)
    ]
    assert made[0] == made[1]


def test_another_process_predicts_the_same(convolutions: list[Kernel], seconds: Law) -> None:
    """Neither the hash seed nor the process changes a prediction."""
    measured = noisy(convolutions[:20], seconds)
    script = """
import json, sys
from millifit.latency_models.kernels.regressor import fit_measured
from millifit.targets.kernel import Kernel
measured, asked = json.load(sys.stdin)
model = fit_measured({Kernel.from_dict(k): s for k, s in measured}, vector_lanes=8, seed=0)
print(json.dumps([p.median_s for p in model.predict([Kernel.from_dict(k) for k in asked])]))
"""
    plain = (
        [[k.to_dict(), s] for k, s in measured.items()],
        [k.to_dict() for k in convolutions[:50]],
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(plain), check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    model = fit_measured(measured, vector_lanes=8, seed=0)
    assert json.loads(ran.stdout) == [p.median_s for p in model.predict(convolutions[:50])]


def test_a_saved_model_predicts_the_same(
    convolutions: list[Kernel], seconds: Law, tmp_path: Path
) -> None:
    """Written, read and asked again: the same predictions, bit by bit."""
    model = fitted(
        convolutions[:60] + [replace(k, precision="int8") for k in convolutions[:3]], seconds
    )
    write_state(model.to_state(), tmp_path / "model.npz")
    read = KernelModel.from_state(read_state(tmp_path / "model.npz"))
    asked = KernelBatch.of(convolutions[60:], vector_lanes=8)
    assert list(read.predict(asked)) == list(model.predict(asked))


def test_errors_on_held_out_kernels_come_in_the_order_of_the_batch(
    convolutions: list[Kernel], seconds: Law
) -> None:
    """A kernel measured four times too slow stands out at its own place, and bends no other."""
    batch = KernelBatch.of(convolutions[:60], vector_lanes=8)
    measured = np.array([seconds(k) for k in convolutions[:60]])
    measured[17] *= 4
    model = fit_kernel_model(batch, measured, seed=0)
    errors = np.abs(model.held_out_log_error)
    assert errors.argmax() == 17
    assert np.median(errors) < 0.15


def test_a_kernel_far_from_measured_ones_is_less_certain(
    convolutions: list[Kernel], seconds: Law
) -> None:
    """The deviation of what was measured is below that of what was not, on average."""
    model = fitted(convolutions[:100], seconds)
    known, unknown = model.deviation(convolutions[:100]), model.deviation(convolutions[100:])
    assert known.shape == (100,)
    assert (known > 0).all()
    assert known.mean() <= unknown.mean()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1e-3])
def test_seconds_that_are_none_are_refused(
    convolutions: list[Kernel], seconds: Law, bad: float
) -> None:
    """One wrong number in a table must not poison the model."""
    measured = noisy(convolutions[:10], seconds) | {convolutions[0]: bad}
    with pytest.raises(DataError, match="measure again"):
        fit_measured(measured, vector_lanes=8, seed=0)


def test_nothing_measured_is_an_error() -> None:
    """Without a single measurement there is no prediction to make up."""
    with pytest.raises(DataError, match="nothing to predict from"):
        fit_measured({}, vector_lanes=8, seed=0)
