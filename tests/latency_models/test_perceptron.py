"""The perceptron predicts from arrays what it was trained to."""

import numpy as np
import pytest

from millifit.latency_models import perceptron
from millifit.latency_models.error_size import ErrorSize, fit_error_size
from millifit.latency_models.perceptron import Perceptron, fit_perceptron


def test_a_product_is_learnt_and_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1500 rows to 5 % of its spread; the same seed and the saved one agree bit by bit."""
    monkeypatch.setattr(perceptron, "_STEPS", 500)
    monkeypatch.setattr(perceptron, "_WIDTHS", (24, 24))
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 3, (2000, 4)).astype(np.float32)
    x[:, 3] = 5  # says nothing
    y = 0.3 * x[:, 0].astype(np.float64) * x[:, 1] + 7
    model = fit_perceptron(x[:1500], y[:1500], seed=1)
    made = model.predict(x[1500:])
    assert np.abs(made - y[1500:]).mean() < 0.05 * y.std()
    assert np.array_equal(Perceptron.from_state(model.to_state()).predict(x), model.predict(x))
    assert np.array_equal(fit_perceptron(x[:1500], y[:1500], seed=1).predict(x), model.predict(x))


def test_sizes_of_errors_are_learnt() -> None:
    """Errors that are four times as large on one side are expected to be, within a half."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (2000, 3)).astype(np.float32)
    errors = np.where(x[:, 1] > 0, 0.08, 0.02) * rng.standard_normal(2000)
    size = fit_error_size(x, errors)
    small, large = size.predict(np.array([[0, 0, 0], [0, 1, 0]], np.float32))
    assert large / small == pytest.approx(4, rel=0.5)
    again = ErrorSize.from_state(size.to_state())
    assert np.array_equal(again.predict(x), size.predict(x))
