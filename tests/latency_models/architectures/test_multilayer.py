"""The multi-layer regressor on a synthetic device whose law of latency is known."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from millifit.errors import DataError
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.architectures.committee import Training
from millifit.latency_models.architectures.darts_cells import (
    encode_cells,
    random_cells,
    straight_through_cells,
)
from millifit.latency_models.architectures.multilayer import MultilayerModel, fit_multilayer_model
from millifit.latency_models.archive import read_state, write_state
from millifit.latency_models.prediction import Floats

QUICK = Training(steps=150, learning_rate=0.003, weight_decays=(3.0,), folds=3)
BRIEF = Training(steps=30, folds=3)
SCRIPT = """
import json, sys
import numpy as np, torch
from millifit.latency_models.architectures.committee import Training
from millifit.latency_models.architectures.multilayer import fit_multilayer_model
torch.manual_seed(int(sys.argv[1]))
x = np.random.default_rng(0).random((60, 5))
model = fit_multilayer_model(
    x, 1 + x.sum(axis=1), seed=3, hidden=(8, 8), training=Training(steps=30, folds=3)
)
print(json.dumps(model.predict(x[:9]).median_s.tolist()))
"""


def cell_seconds(codes: np.ndarray) -> Floats:
    """1 ms, and a cost of each operator on each edge; where two neighbouring edges both have one,
    the cheaper half of it is hidden behind the other.
    """
    rng = np.random.default_rng(5)
    table_s = rng.gamma(2.0, 0.15e-3, (2, 14, 8)) * np.linspace(0.2, 1.5, 8)
    table_s[:, :, 0] = 0
    cost_s = np.take_along_axis(table_s[None], codes[..., None], axis=3)[..., 0]
    hidden_s = 0.5 * np.minimum(cost_s[:, :, 1:], cost_s[:, :, :-1])
    seconds: Floats = 1e-3 + cost_s.sum(axis=(1, 2)) - hidden_s.sum(axis=(1, 2))
    return seconds


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return random_cells(1400, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(codes: np.ndarray) -> MultilayerModel:
    """Fitted to 1,000 architectures, measured with 1 % of noise."""
    noise = np.random.default_rng(1).standard_normal(1000)
    measured = cell_seconds(codes[:1000]) * np.exp(0.01 * noise)
    return fit_multilayer_model(encode_cells(codes[:1000]), measured, seed=0, training=QUICK)


def test_held_out_architectures_are_within_ten_percent(
    model: MultilayerModel, codes: np.ndarray
) -> None:
    """The paper's claim, on 400 architectures that were not in the fit, with honest intervals."""
    predictions = model.predict(encode_cells(codes[1000:]))
    truth = cell_seconds(codes[1000:])
    reached = accuracy(truth, predictions.median_s)
    assert reached.mape < 0.05
    assert reached.within_10 > 0.9
    assert reached.spearman > 0.9
    assert 0.92 <= coverage(truth, predictions) <= 0.99


def test_the_gradient_is_that_of_finite_differences(model: MultilayerModel) -> None:
    """At relaxed encodings in double precision, in every direction that was drawn."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 14, 8, generator=generator, dtype=torch.float64)
    at = torch.softmax(logits, dim=-1).flatten().requires_grad_()
    (gradient,) = torch.autograd.grad(model.expected_latency(at), at)
    for _ in range(10):
        step = 1e-6 * torch.randn(224, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            moved = model.expected_latency(at + step) - model.expected_latency(at - step)
        assert float(2 * gradient @ step) == pytest.approx(float(moved), rel=1e-3)


def test_at_one_hot_codes_the_expected_latency_is_the_prediction(
    model: MultilayerModel, codes: np.ndarray
) -> None:
    """Leading dimensions stay; single and double precision agree."""
    encoded = encode_cells(codes[:6])
    expected = model.expected_latency(torch.from_numpy(encoded).reshape(2, 3, 224))
    assert expected.shape == (2, 3)
    assert expected.numpy().flatten() == pytest.approx(model.predict(encoded).median_s, rel=1e-5)


def test_a_search_pays_for_latency_by_lambda(model: MultilayerModel) -> None:
    """min -quality + lambda * LPM: the more lambda, the lower the latency of what is chosen.

    Operators that take longer are the better ones, so that without lambda the slowest win.
    """
    quality = torch.linspace(0, 1, 8).expand(2, 14, 8).flatten()
    reached, chosen = [], []
    for weight in (0.0, 1000.0, 3000.0, 10000.0):
        start = torch.randn(2, 14, 8, generator=torch.Generator().manual_seed(0))
        logits = (0.01 * start).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(60):
            code = straight_through_cells(logits)
            loss = weight * model.expected_latency(code) - code @ quality
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        code = straight_through_cells(logits.detach())
        reached.append(float(model.expected_latency(code)))
        chosen.append(code.reshape(2, 14, 8).argmax(dim=2).numpy())
    assert reached == sorted(reached, reverse=True)
    truth = cell_seconds(np.stack(chosen))
    assert truth.tolist() == sorted(truth, reverse=True)
    assert truth[-1] < 0.7 * truth[0]


def test_a_choice_that_was_never_measured_is_unknown(codes: np.ndarray) -> None:
    """Without sep_conv_5x5 in the fit, architectures with it are flagged and have wide intervals.

    What differs in a constant input only is flagged, too.
    """
    without = codes[~(codes == 5).any(axis=(1, 2))]
    rest = codes[(codes == 5).any(axis=(1, 2))][:20]
    few = np.where(codes[:300] == 5, 4, codes[:300])
    model = fit_multilayer_model(
        encode_cells(few), cell_seconds(few), seed=0, hidden=(16,), training=QUICK
    )
    known, unknown = model.predict(encode_cells(without)), model.predict(encode_cells(rest))
    assert {p.origin for p in unknown} == {"unknown"}
    assert unknown.extrapolated.all()
    assert {p.origin for p in known} == {"predicted"}
    assert np.all(unknown.high_s / unknown.low_s >= 24.9)
    assert np.all(unknown.median_s > 1e-4)


def test_a_saved_model_predicts_the_same(
    model: MultilayerModel, codes: np.ndarray, tmp_path: Path
) -> None:
    """Through a file, bit by bit, without refitting."""
    write_state(model.to_state(), tmp_path / "model.npz")
    loaded = MultilayerModel.from_state(read_state(tmp_path / "model.npz"))
    x = encode_cells(codes[:50])
    assert list(loaded.predict(x)) == list(model.predict(x))
    assert np.array_equal(loaded.held_out_errors, model.held_out_errors)


def test_another_process_fits_the_same() -> None:
    """The seed alone decides, whatever torch's global generator or the hash seed are."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, "1"], check=True, capture_output=True, text=True
    )
    torch.manual_seed(2)
    x = np.random.default_rng(0).random((60, 5))
    fitted = fit_multilayer_model(x, 1 + x.sum(axis=1), seed=3, hidden=(8, 8), training=BRIEF)
    assert json.loads(ran.stdout) == fitted.predict(x[:9]).median_s.tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1e-3])
def test_seconds_that_are_none_are_refused(bad: float) -> None:
    """One wrong number in a table must not poison the model."""
    x = np.random.default_rng(0).random((20, 3))
    with pytest.raises(DataError, match="positive seconds"):
        fit_multilayer_model(x, np.r_[np.ones(19), bad], seed=0)


def test_encodings_that_do_not_fit_are_refused(model: MultilayerModel) -> None:
    """NaN, a missing row, or another width: the message says what is expected."""
    x = np.zeros((20, 3))
    with pytest.raises(DataError, match="finite encodings"):
        fit_multilayer_model(np.where(x == 0, math.nan, x), np.ones(20), seed=0)
    with pytest.raises(DataError, match=r"\(20, 3\)"):
        fit_multilayer_model(x, np.ones(19), seed=0)
    with pytest.raises(DataError, match="224 inputs"):
        model.predict(x)
    with pytest.raises(DataError, match="224 inputs"):
        model.expected_latency(torch.zeros(3))


def test_no_architectures_have_no_predictions(model: MultilayerModel) -> None:
    """An empty batch is fine."""
    assert len(model.predict(np.empty((0, 224)))) == 0
