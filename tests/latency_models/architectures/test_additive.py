"""The additive model: recovers what is additive, what is not, and what the device added."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.architectures.additive import AdditiveModel, fit_additive_model
from millifit.latency_models.architectures.cells import OPERATORS, encode_cells
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.archive import read_state, write_state

CELL = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"
COSTS = np.array([0.0, 0.4e-3, 1.5e-3, 3.0e-3, 1.0e-3])  # seconds of each operator


@cache
def _cells(n: int, *, seed: int = 0, operators: int = len(OPERATORS)) -> Encoded:
    rng = np.random.default_rng(seed)
    space = list(product(OPERATORS[:operators], repeat=6))
    return encode_cells([CELL.format(*space[i]) for i in rng.permutation(len(space))[:n]])


def _seconds(cells: Encoded) -> np.ndarray:
    per_edge = cells.group("edge").reshape(len(cells), 6, 5) @ COSTS
    return 2e-3 + per_edge @ np.linspace(0.6, 1.4, 6)


def _rows(begin: int, end: int) -> np.ndarray:
    return np.arange(begin, end)


def test_additive_costs_are_recovered() -> None:
    """With 2 % noise on 150 cells, unseen cells are predicted within the noise."""
    cells = _cells(600)
    truth = _seconds(cells)
    noisy = truth * np.exp(np.random.default_rng(0).normal(0, 0.02, 600))
    model = fit_additive_model(cells.take(_rows(0, 150)), noisy[:150], seed=0)
    found = accuracy(truth[150:], model.predict(cells.take(_rows(150, 600))).median_s)
    assert found.mape < 0.012
    assert found.spearman > 0.995


def test_an_interaction_is_recovered() -> None:
    """A pair of operators that costs half as much together is more than costs can express."""
    cells = _cells(600)
    edges = cells.group("edge").reshape(600, 6, 5)
    together = edges[:, 0, 3] * edges[:, 2, 3] + edges[:, 3, 2] * edges[:, 5, 2]
    truth = _seconds(cells) * (1 - 0.3 * together)
    model = fit_additive_model(cells.take(_rows(0, 300)), truth[:300], seed=0)
    unseen = cells.take(_rows(300, 600))
    costs = model.costs.seconds(model.costs.standardised(unseen))
    mape = accuracy(truth[300:], model.predict(unseen).median_s).mape
    assert mape < 0.8 * accuracy(truth[300:], costs).mape


@cache
def _drifting() -> tuple[AdditiveModel, Encoded, np.ndarray, np.ndarray]:
    """400 rows of a campaign whose first quarter took 40 % longer; half of them are learnt."""
    cells = _cells(400)
    rng = np.random.default_rng(1)
    order = rng.permutation(400)
    slower = np.where(order < 100, np.log(1.4), 0.0)
    seconds = _seconds(cells) * np.exp(slower + rng.normal(0, 0.02, 400))
    seen = _rows(0, 200)
    model = fit_additive_model(cells.take(seen), seconds[seen], seed=0, order=order[seen])
    return model, cells.take(_rows(200, 400)), seconds[200:], order[200:]


def test_a_drifted_section_is_noticed_and_told_apart() -> None:
    """It is reported, and rows of it are predicted as it was."""
    model, unseen, seconds, order = _drifting()
    assert model.sections[0].last == pytest.approx(99, abs=6)
    assert model.sections[0].shift == pytest.approx(np.log(1.4), abs=0.05)
    assert accuracy(seconds, model.predict(unseen, order=order).median_s).within_10 > 0.95


def test_without_a_place_the_typical_state_is_predicted() -> None:
    """A caller with no place in the campaign gets the calm device, and a wider interval."""
    model, unseen, seconds, order = _drifting()
    typical = model.predict(unseen)
    calm = order >= 100
    assert accuracy(_seconds(unseen), typical.median_s).within_10 > 0.95
    assert accuracy(seconds[~calm], typical.median_s[~calm]).within_10 < 0.1
    placed = model.predict(unseen, order=order)
    assert np.all(typical.standard_deviation_s > placed.standard_deviation_s)


@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_intervals_cover_what_they_say(outliers: float) -> None:
    """Intervals of 95 % from 300 rows cover 92 to 98 % of unseen cells, with outliers, too."""
    cells = _cells(1500)
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.03, 1500) + (rng.random(1500) < outliers) * rng.exponential(0.3, 1500)
    seconds = _seconds(cells) * np.exp(noise)
    model = fit_additive_model(cells.take(_rows(0, 300)), seconds[:300], seed=0)
    covered = coverage(seconds[300:], model.predict(cells.take(_rows(300, 1500))))
    assert 0.92 <= covered <= 0.98


def test_an_operator_that_was_never_measured_is_flagged() -> None:
    """Cells with pooling are extrapolated and uncertain where none was measured."""
    seen = _cells(200, operators=4)
    model = fit_additive_model(seen, _seconds(seen), seed=0)
    pooling = encode_cells([CELL.format(*["avg_pool_3x3"] * 6)])
    [prediction] = model.predict(pooling)
    assert prediction.extrapolated
    assert prediction.median_s > 1e-3
    assert prediction.high_s / prediction.median_s >= 2
    assert not model.predict(seen).extrapolated.any()


def test_an_operator_of_another_space_is_unknown() -> None:
    """Its prediction says so, and is no silent zero."""
    seen = _cells(200)
    model = fit_additive_model(seen, _seconds(seen), seed=0)
    [prediction] = model.predict(encode_cells([CELL.format(*["conv_9x9"] * 6)]))
    assert prediction.origin == "unknown"
    assert prediction.high_s / prediction.median_s >= 5


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    """Through a file, with and without places in the order, to the last bit."""
    model, unseen, _, order = _drifting()
    write_state(model.to_state(), tmp_path / "model.npz")
    loaded = AdditiveModel.from_state(read_state(tmp_path / "model.npz"))
    for places in (None, order):
        expected, found = (m.predict(unseen, order=places) for m in (model, loaded))
        np.testing.assert_array_equal(found.median_s, expected.median_s)
        np.testing.assert_array_equal(found.high_s, expected.high_s)
    assert loaded.sections == model.sections


def test_the_same_seed_gives_the_same_model() -> None:
    """Two fits predict the same."""
    cells = _cells(100)
    one, two = (fit_additive_model(cells, _seconds(cells), seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.predict(cells).median_s, two.predict(cells).median_s)


def test_an_empty_batch_has_no_predictions() -> None:
    """No architectures, no predictions, no error."""
    cells = _cells(100)
    model = fit_additive_model(cells, _seconds(cells), seed=0)
    assert len(model.predict(cells.take(_rows(0, 0)))) == 0


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_seconds_that_are_none_are_named(wrong: float) -> None:
    """The row of a value that cannot be a latency is in the message."""
    cells = _cells(20)
    seconds = _seconds(cells)
    seconds[7] = wrong
    with pytest.raises(DataError, match="architecture 7 was measured as"):
        fit_additive_model(cells, seconds, seed=0)


def test_what_does_not_fit_is_refused() -> None:
    """Too few rows, another encoding, and an order where there was none to learn from."""
    cells = _cells(20)
    with pytest.raises(DataError, match="an additive model needs 10"):
        fit_additive_model(cells.take(_rows(0, 5)), np.ones(5), seed=0)
    with pytest.raises(DataError, match="20 architectures need as many finite places"):
        fit_additive_model(cells, _seconds(cells), seed=0, order=[1, 2])
    model = fit_additive_model(cells, _seconds(cells), seed=0)
    with pytest.raises(DataError, match="fitted without an order"):
        model.predict(cells, order=np.arange(20))
    other = Encoded.of({"a": (("b",), np.ones((2, 1)))}, known=np.ones(2, bool))
    with pytest.raises(DataError, match="of another encoding"):
        model.predict(other)
