"""The perceptron predicts from arrays what it was trained to."""

import numpy as np
import pytest

from millifit.latency_models.kernels import perceptron
from millifit.latency_models.kernels.error_size import ErrorSize, fit_error_size
from millifit.latency_models.kernels.matern import Singles
from millifit.latency_models.kernels.perceptron import (
    Perceptron,
    _backward,
    _layers,
    fit_perceptron,
)


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


def test_slopes_are_derivatives() -> None:
    """Of every weight and bias, against difference quotients, to the accuracy of float32."""
    rng = np.random.default_rng(0)
    x, y = (
        rng.standard_normal((40, 3)).astype(np.float32),
        rng.standard_normal(40).astype(np.float32),
    )
    values, layers = _layers((3, 5, 4, 1), rng)
    slopes, by_layer = _layers((3, 5, 4, 1), None)
    values *= 3
    _backward(x, y, layers, by_layer, 0.5)
    for number in range(0, len(values), 3):
        kept = values[number]
        ends = []
        for moved in (kept + np.float32(1e-2), kept - np.float32(1e-2)):
            values[number] = moved
            ends.append(_cost(x, y, layers, 0.5))
        values[number] = kept
        assert slopes[number] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.05, abs=5e-3)


def _cost(x: Singles, y: Singles, layers: list[tuple[Singles, Singles]], tolerance: float) -> float:
    z = x.astype(np.float64)
    for weight, bias in layers[:-1]:
        z = z @ weight + bias
        z = z * np.clip(z / 6 + 0.5, 0, 1)
    error = np.abs((z @ layers[-1][0])[:, 0] + layers[-1][1] - y)
    small = error < tolerance
    return float(np.where(small, error**2 / (2 * tolerance), error - tolerance / 2).mean())


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
