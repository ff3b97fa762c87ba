"""The graph convolutional predictor on NAS-Bench-Macro, whose accuracies get noise."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import numpy as np

from benchmarks.latency_tables.baselines import Floats, ridge
from benchmarks.latency_tables.row import Row, row
from benchmarks.setting import data_folder
from millifit.latency_models.accuracy import kendall

_LEAST_ACCURACY = 80.0
_BARS = {200: 0.76, 500: 0.82, 2000: 0.84}
_NOISE, _DRAWS = 1.0, 3
_CHOICES = 3


def rows(seed: int) -> Iterator[Row]:
    """Kendall's tau to the accuracies without noise, the mean of some draws."""
    from millifit.latency_models.architectures.graph import fit_graph_regressor
    from millifit.latency_models.architectures.graphs import nasbench_macro_graphs

    names, truth = architectures()
    graphs, x = nasbench_macro_graphs(names), one_hot(names)
    for count, bar in _BARS.items():
        found, plain = [], []
        for draw in range(seed, seed + _DRAWS):
            rng = np.random.default_rng(draw)
            noisy = truth + _NOISE * rng.standard_normal(len(truth))
            train = rng.permutation(len(truth))[:count]
            model = fit_graph_regressor(graphs.take(train), noisy[train], seed=draw)
            found.append(kendall(model.predict(graphs), truth))
            plain.append(kendall(ridge(x[train], noisy[train], x), truth))
        yield row(
            "gcn", f"NAS-Bench-Macro, {count} samples", "kendall", float(np.mean(found)),
            baseline=float(np.mean(plain)), bar=bar, n=len(truth), draws=_DRAWS,
        )  # fmt: skip


def architectures() -> tuple[list[str], Floats]:
    """Architectures with more than 80 % accuracy, in ascending order, and their accuracies."""
    folder = data_folder()
    if folder is None:
        raise FileNotFoundError("no NAS-Bench-Macro at hand: set MILLIFIT_DATA")
    with gzip.open(folder / "nas" / "nasbench_macro_cifar10.json.gz") as file:
        table = json.load(file)
    kept = sorted(name for name, of in table.items() if of["mean_acc"] > _LEAST_ACCURACY)
    return kept, np.array([table[name]["mean_acc"] for name in kept])


def one_hot(names: list[str]) -> Floats:
    """The choice of every layer, and of every two layers in a row."""
    choices = np.array([[int(digit) for digit in name] for name in names])
    pairs = choices[:, :-1] * _CHOICES + choices[:, 1:]
    columns = [
        choices[..., None] == np.arange(_CHOICES),
        pairs[..., None] == np.arange(_CHOICES**2),
    ]
    return np.hstack([each.reshape(len(names), -1).astype(float) for each in columns])
