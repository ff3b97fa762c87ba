"""The graph convolutional predictor on synthetic chains of operators."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from millifit.errors import DataError
from millifit.latency_models.accuracy import accuracy, coverage, kendall
from millifit.latency_models.architectures.committee import Training
from millifit.latency_models.architectures.graph import (
    GraphModel,
    GraphRegressor,
    fit_graph_model,
    fit_graph_regressor,
    normalised,
)
from millifit.latency_models.architectures.graphs import (
    Graphs,
    nasbench_macro_graphs,
    operator_graphs,
)
from millifit.latency_models.archive import read_state, write_state
from millifit.latency_models.prediction import Floats

QUICK = Training(steps=200, learning_rate=0.02, weight_decays=(0.03, 0.5), folds=3)
BRIEF = Training(steps=30, folds=3)
NODES = 6
SCRIPT = """
import json, sys
import numpy as np, torch
from millifit.latency_models.architectures.committee import Training
from millifit.latency_models.architectures.graph import fit_graph_regressor
from millifit.latency_models.architectures.graphs import nasbench_macro_graphs
torch.manual_seed(int(sys.argv[1]))
rng = np.random.default_rng(0)
names = ["".join(map(str, digits)) for digits in rng.integers(0, 3, (60, 8))]
model = fit_graph_regressor(
    nasbench_macro_graphs(names), rng.random(60), seed=3, training=Training(steps=30, folds=3)
)
print(json.dumps(model.predict(nasbench_macro_graphs(names)).tolist()))
"""


def chains(operators: np.ndarray) -> Graphs:
    return operator_graphs(operators, np.eye(NODES, k=1), kinds=3, shapes=np.empty((NODES, 0)))


def law(operators: np.ndarray) -> Floats:
    """A worth of each operator at each place, and of each pair of neighbours."""
    rng = np.random.default_rng(3)
    single, pair = rng.standard_normal((NODES, 3)), 0.5 * rng.standard_normal((3, 3))
    value: Floats = single[np.arange(NODES), operators].sum(axis=1)
    return value + pair[operators[:, :-1], operators[:, 1:]].sum(axis=1)


@pytest.fixture(scope="module")
def operators() -> np.ndarray:
    """All 729 chains, in random order."""
    every = np.array(list(np.ndindex(*(3,) * NODES)))
    return np.random.default_rng(0).permutation(every)


def seconds_of(operators: np.ndarray) -> Floats:
    """From about 0.4 to 2.5 ms."""
    made: Floats = 1e-3 * np.exp(0.2 * law(operators))
    return made


@pytest.fixture(scope="module")
def model(operators: np.ndarray) -> GraphModel:
    """Fitted to the latencies of 300 chains, measured with 3 % of noise."""
    noise = np.random.default_rng(1).standard_normal(300)
    measured = seconds_of(operators[:300]) * np.exp(0.03 * noise)
    return fit_graph_model(chains(operators[:300]), measured, seed=0, training=QUICK)


def test_noise_in_the_values_is_averaged_out(operators: np.ndarray) -> None:
    """Ranks of 429 unseen chains are better than those that measuring each of them would give."""
    truth = law(operators)
    noisy = truth + np.random.default_rng(1).standard_normal(len(truth))
    fitted = fit_graph_regressor(chains(operators[:300]), noisy[:300], seed=0, training=QUICK)
    predicted = fitted.predict(chains(operators[300:]))
    assert kendall(predicted, truth[300:]) > kendall(noisy[300:], truth[300:]) + 0.05
    assert kendall(predicted, truth[300:]) > 0.75


def test_held_out_errors_tell_the_error_on_new_graphs(operators: np.ndarray) -> None:
    """In the unit of the values; members together are at most a little better than one alone."""
    truth = 70 + 5 * law(operators)
    fitted = fit_graph_regressor(chains(operators[:300]), truth[:300], seed=0, training=QUICK)
    errors = fitted.predict(chains(operators[300:])) - truth[300:]
    told = np.sqrt(np.mean(fitted.held_out_errors**2))
    assert 0.6 * told < np.sqrt(np.mean(errors**2)) < 1.1 * told


def test_latencies_of_unseen_chains(model: GraphModel, operators: np.ndarray) -> None:
    """Errors of 4 % on average, and the interval covers what it says, or a little more."""
    truth = seconds_of(operators[300:])
    predictions = model.predict(chains(operators[300:]))
    reached = accuracy(truth, predictions.median_s)
    assert reached.mape < 0.04
    assert reached.spearman > 0.98
    assert 0.93 <= coverage(truth, predictions) <= 1
    assert {p.origin for p in predictions} == {"predicted"}
    assert not predictions.extrapolated.any()


def test_an_operator_that_was_never_measured_is_unknown(operators: np.ndarray) -> None:
    """And one that was, but never at this place, is extrapolated; both are wider."""
    seen = operators[(operators < 2).all(axis=1) & (operators[:, 0] == 0)]
    model = fit_graph_model(chains(seen), seconds_of(seen), seed=0, width=8, training=QUICK)
    asked = np.zeros((3, NODES), int)
    asked[1, 0], asked[2, 3] = 1, 2
    within, elsewhere, unknown = model.predict(chains(asked))
    assert (within.origin, within.extrapolated) == ("predicted", False)
    assert (elsewhere.origin, elsewhere.extrapolated) == ("predicted", True)
    assert (unknown.origin, unknown.extrapolated) == ("unknown", True)
    width = within.high_s / within.low_s
    assert elsewhere.high_s / elsewhere.low_s > width
    assert unknown.high_s / unknown.low_s >= 24.9


def test_adjacency_is_normalised_with_self_loops() -> None:
    """A chain of three: degrees 2, 3, 2 with the loops, both directions (1609.02907)."""
    side = 1 / math.sqrt(6)
    expected = [[1 / 2, side, 0], [side, 1 / 3, side], [0, side, 1 / 2]]
    assert normalised(np.eye(3, k=1)[None])[0] == pytest.approx(np.array(expected))


def test_the_order_of_nodes_does_not_matter(model: GraphModel, operators: np.ndarray) -> None:
    """Nodes that are renumbered, features and edges alike, get the same prediction."""
    graphs = chains(operators[:20])
    order = np.random.default_rng(0).permutation(NODES)
    renumbered = Graphs(
        operators=graphs.operators[:, order],
        features=graphs.features[:, order],
        adjacency=graphs.adjacency[:, order][:, :, order],
    )
    expected = model.regressor.predict(graphs)
    assert model.regressor.predict(renumbered) == pytest.approx(expected, abs=1e-5)


def test_a_saved_model_predicts_the_same(
    model: GraphModel, operators: np.ndarray, tmp_path: Path
) -> None:
    """Through a file, bit by bit, without refitting."""
    write_state(model.to_state(), tmp_path / "model.npz")
    loaded = GraphModel.from_state(read_state(tmp_path / "model.npz"))
    asked = chains(operators[:40])
    assert list(loaded.predict(asked)) == list(model.predict(asked))


def test_a_saved_regressor_predicts_the_same(model: GraphModel, operators: np.ndarray) -> None:
    """The regressor of real values has a state of its own."""
    loaded = GraphRegressor.from_state(model.regressor.to_state())
    asked = chains(operators[:40])
    assert np.array_equal(loaded.predict(asked), model.regressor.predict(asked))


def test_another_process_fits_the_same() -> None:
    """The seed alone decides, whatever torch's global generator or the hash seed are."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, "1"], check=True, capture_output=True, text=True
    )
    torch.manual_seed(2)
    rng = np.random.default_rng(0)
    names = ["".join(map(str, digits)) for digits in rng.integers(0, 3, (60, 8))]
    graphs = nasbench_macro_graphs(names)
    fitted = fit_graph_regressor(graphs, rng.random(60), seed=3, training=BRIEF)
    assert json.loads(ran.stdout) == fitted.predict(graphs).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1e-3])
def test_seconds_that_are_none_are_refused(operators: np.ndarray, bad: float) -> None:
    """One wrong number in a table must not poison the model."""
    with pytest.raises(DataError, match="positive seconds"):
        fit_graph_model(chains(operators[:20]), np.r_[np.ones(19), bad], seed=0)


def test_graphs_that_do_not_fit_are_refused(model: GraphModel, operators: np.ndarray) -> None:
    """NaN, a missing value, or other features: the message says what is expected."""
    with pytest.raises(DataError, match="each of 20 graphs"):
        fit_graph_regressor(chains(operators[:20]), np.ones(19), seed=0)
    with pytest.raises(DataError, match="finite value"):
        fit_graph_regressor(chains(operators[:20]), np.full(20, math.nan), seed=0)
    endless = operator_graphs(
        operators[:20], np.eye(NODES), kinds=3, shapes=np.full((NODES, 1), math.inf)
    )
    with pytest.raises(DataError, match="finite numbers"):
        fit_graph_regressor(endless, np.zeros(20), seed=0)
    other = operator_graphs(operators, np.eye(NODES), kinds=4, shapes=np.empty((NODES, 0)))
    with pytest.raises(DataError, match="features per node"):
        model.predict(other)


def test_no_graphs_have_no_predictions(model: GraphModel, operators: np.ndarray) -> None:
    """An empty batch is fine."""
    assert len(model.predict(chains(operators[:0]))) == 0
