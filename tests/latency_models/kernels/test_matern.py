"""Gaussian processes over features: what they learn, and how sure they are of it."""

import numpy as np
import numpy.typing as npt
import pytest

from millifit.latency_models.kernels import matern
from millifit.latency_models.kernels.matern import Process, Singles, _cost, _start, fit_process

Floats = npt.NDArray[np.float64]


def wavy(n: int, seed: int) -> tuple[Singles, Floats]:
    """One of six features matters, with 1 % noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 6)).astype(np.float32)
    return x, np.sin(2 * x[:, 3].astype(np.float64)) + 0.01 * rng.standard_normal(n)


def learnt(x: Singles, y: Floats) -> Process:
    return fit_process(x, y, rng=np.random.default_rng(0))


def test_the_slope_of_the_cost_is_its_derivative() -> None:
    """Every parameter's slope agrees with a difference quotient."""
    x, y = wavy(20, 1)
    z, weighing = x.astype(np.float64), np.linspace(0.5, 2, 20)
    values = _start(6) + np.linspace(-0.3, 0.4, 9)
    _, slope = _cost(z, y, values, weighing)
    for number in range(len(values)):
        step = np.zeros(len(values))
        step[number] = 1e-5
        ahead, behind = (_cost(z, y, values + sign * step, weighing)[0] for sign in (1, -1))
        assert slope[number] == pytest.approx((ahead - behind) / 2e-5, rel=1e-4, abs=1e-4)


def test_a_wave_is_learnt_from_the_feature_that_matters() -> None:
    """80 rows give a root mean squared error below a tenth of the wave's height."""
    process = learnt(*wavy(80, 0))
    x, y = wavy(200, 1)
    made, deviation = process.predict(x)
    assert np.sqrt(np.mean((made - y) ** 2)) < 0.1
    assert process.columns[process.scale.argmax()] == 3
    assert (deviation > 0).all()


def test_one_wrong_measurement_bends_nothing() -> None:
    """A row that is off by three times the wave's height changes others by less than a tenth."""
    x, y = wavy(80, 0)
    bent = y.copy()
    bent[11] += 3
    asked = wavy(100, 2)[0]
    moved = np.abs(learnt(x, bent).predict(asked)[0] - learnt(x, y).predict(asked)[0])
    assert np.median(moved) < 0.1


def test_far_away_is_less_certain() -> None:
    """The deviation grows with the distance to the nearest row, to the process's amplitude."""
    process = learnt(*wavy(80, 0))
    near, far = wavy(80, 0)[0], np.full((1, 6), 40, np.float32)
    assert process.predict(far)[1][0] > 2 * process.predict(near)[1].max()


def test_a_saved_process_predicts_the_same() -> None:
    """Bit by bit."""
    process = learnt(*wavy(30, 0))
    asked = wavy(50, 3)[0]
    for ours, theirs in zip(
        process.predict(asked), Process.from_state(process.to_state()).predict(asked), strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_some_rows_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 centres of 120 rows predict what 120 do, within a twentieth of the wave's height."""
    x, y = wavy(120, 0)
    asked = wavy(100, 2)[0]
    of_all = learnt(x, y).predict(asked)[0]
    monkeypatch.setattr(matern, "_MOST_CENTRES", 100)
    monkeypatch.setattr(matern, "_CENTRES_OF_MANY", 40)
    process = learnt(x, y)
    assert process.centres.shape[0] == 40
    assert np.abs(process.predict(asked)[0] - of_all).mean() < 0.05


def test_rows_that_are_all_equal_have_their_value() -> None:
    """Nothing varies: the median is predicted, and nothing is divided by zero."""
    made, _ = learnt(np.ones((9, 4), np.float32), np.full(9, 0.25)).predict(
        np.ones((2, 4), np.float32)
    )
    assert made == pytest.approx([0.25, 0.25])
