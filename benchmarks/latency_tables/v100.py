"""A server GPU's convolutions in three precisions, and which precision is faster."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.latency_tables import v100_tables
from benchmarks.latency_tables.baselines import Floats, extra_trees
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import KernelModel, fit_kernel_model
from millifit.latency_models.prediction import Predictions
from millifit.profiler.packs.convolutions import convolution_kernels

_DEVICE = "v100"
_LANES = 8
_TREES = 50
_BARS = {"fp32": 0.80, "fp16": 0.72, "int8": 0.78}
_FASTER, _ASKED = ("fp16", "int8"), 8_000
_ANSWERED_RIGHT = 0.93


def rows(seed: int) -> Iterator[Row]:
    """Each precision, then the question between two of them."""
    tables = v100_tables.precisions()
    models = {}
    for name, table in tables.items():
        train, test = v100_tables.split(len(table))
        seconds = table.latency_s.to_numpy()
        model = fitted(table, train, seed)
        models[name] = model
        made = predicted(model, table.iloc[test])
        found, plain = accuracy(seconds[test], made.median_s), _plain(table, train, test)
        facts = {"n_train": len(train), "n": found.n}
        device = f"{_DEVICE} {name}"
        yield row(
            "v100", device, "within_10", found.within_10, bar=_BARS.get(name),
            baseline=accuracy(seconds[test], plain).within_10, **facts,
        )  # fmt: skip
        yield row("v100", device, "mape", found.mape, **facts)
        yield row("v100", device, "coverage_95", coverage(seconds[test], made), **facts)
    if set(_FASTER) <= set(tables):
        yield _faster(tables, models)


def fitted(table: pd.DataFrame, train: v100_tables.Rows, seed: int) -> KernelModel:
    """The regressor of some rows."""
    known = table.iloc[train]
    batch = KernelBatch.of(convolution_kernels(known), vector_lanes=_LANES)
    return fit_kernel_model(batch, known.latency_s.to_numpy(), seed=seed)


def predicted(model: KernelModel, asked: pd.DataFrame) -> Predictions:
    """What the regressor says of other rows."""
    return model.predict(KernelBatch.of(convolution_kernels(asked), vector_lanes=_LANES))


def _plain(table: pd.DataFrame, train: v100_tables.Rows, test: v100_tables.Rows) -> Floats:
    x, seconds = v100_tables.baseline_features(table), table.latency_s.to_numpy()
    return extra_trees(x[train], seconds[train], x[test], trees=_TREES)


def _faster(tables: dict[str, pd.DataFrame], models: dict[str, KernelModel]) -> Row:
    """Configurations measured in both precisions, which neither model was trained on."""
    left = []
    for name in _FASTER:
        table = tables[name]
        trained = np.zeros(len(table), bool)
        trained[v100_tables.split(len(table))[0]] = True
        left.append(table[~trained].set_index("config_id"))
    both = left[0].index.intersection(left[1].index).sort_values()
    both = both[np.random.RandomState(0).permutation(len(both))[:_ASKED]]
    asked = [of.loc[both] for of in left]
    truth = asked[0].latency_s.to_numpy() < asked[1].latency_s.to_numpy()
    answers = [
        predicted(models[name], of).median_s for name, of in zip(_FASTER, asked, strict=True)
    ]
    plain = []
    for name, of in zip(_FASTER, asked, strict=True):
        table = tables[name]
        train, _ = v100_tables.split(len(table))
        x, known = v100_tables.baseline_features(table), table.latency_s.to_numpy()
        plain.append(
            extra_trees(x[train], known[train], v100_tables.baseline_features(of), trees=_TREES)
        )
    return row(
        "v100", f"{_DEVICE} {_FASTER[0]} or {_FASTER[1]}", "answered_right",
        ((answers[0] < answers[1]) == truth).mean(), bar=_ANSWERED_RIGHT,
        baseline=float(((plain[0] < plain[1]) == truth).mean()), n=len(both),
    )  # fmt: skip
