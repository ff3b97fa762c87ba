"""The fast form of a kernel model says nearly what the model says."""

from collections.abc import Callable

import numpy as np
import pytest

from millifit.latency_models.kernels import distillation, perceptron
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.distillation import distilled
from millifit.latency_models.kernels.perceptron import Perceptron
from millifit.latency_models.kernels.regressor import KernelModel, fit_kernel_model
from millifit.targets.kernel import Kernel

Taught = tuple[KernelModel, KernelBatch]


@pytest.fixture
def taught(convolutions: list[Kernel], seconds: Callable[[Kernel], float]) -> Taught:
    """A model of 40 convolutions, and all 240 as a pool."""
    pool = KernelBatch.of(convolutions)
    known = np.arange(40)
    taken_s = np.array([*map(seconds, convolutions[:40])])
    return fit_kernel_model(pool.take(known), taken_s, seed=0), pool


def test_a_pupil_says_what_its_teacher_says(
    taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tenth in the mean, with intervals about as wide, and the same again."""
    monkeypatch.setattr(perceptron, "_STEPS", 600)
    monkeypatch.setattr(distillation, "_FEWEST", 100)
    monkeypatch.setattr(distillation, "_MOST_OFF", 0.2)
    model, pool = taught
    fast = distilled(model, pool, seed=1)
    slow_s, fast_s = model.predict(pool), fast.predict(pool)
    assert isinstance(fast.families["conv2d fp32"].smooth, Perceptron)
    assert np.abs(np.log(fast_s.median_s / slow_s.median_s)).mean() < 0.1
    widths = np.log(fast_s.high_s / fast_s.low_s) / np.log(slow_s.high_s / slow_s.low_s)
    assert 0.8 < np.median(widths) < 5
    again = KernelModel.from_state(distilled(model, pool, seed=1).to_state())
    assert np.array_equal(again.predict(pool).median_s, fast_s.median_s)


def test_a_pupil_that_is_off_is_not_used(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one taught where the pool is small: predictions stay as they are."""
    model, pool = taught
    assert distilled(model, pool, seed=1).families == model.families
    monkeypatch.setattr(perceptron, "_STEPS", 1)
    monkeypatch.setattr(distillation, "_FEWEST", 100)
    assert distilled(model, pool, seed=1).families == model.families
