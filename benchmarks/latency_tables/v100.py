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
from millifit.latency_models.kernels.comparison import fit_comparison
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
        yield _faster(tables, models, seed)


def fitted(table: pd.DataFrame, train: v100_tables.Rows, seed: int) -> KernelModel:
    """The regressor of some rows."""
    known = table.iloc[train]
    return fit_kernel_model(_batch(known), known.latency_s.to_numpy(), seed=seed)


def predicted(model: KernelModel, asked: pd.DataFrame) -> Predictions:
    """What the regressor says of other rows."""
    return model.predict(_batch(asked))


def _plain(table: pd.DataFrame, train: v100_tables.Rows, test: v100_tables.Rows) -> Floats:
    x, seconds = v100_tables.baseline_features(table), table.latency_s.to_numpy()
    return extra_trees(x[train], seconds[train], x[test], trees=_TREES)


def _faster(tables: dict[str, pd.DataFrame], models: dict[str, KernelModel], seed: int) -> Row:
    """Configurations measured in both precisions, which neither was trained on: compared by a model
    of both together. `apart` is what two models of one precision each answer.
    """
    left, known, plain = [], [], []
    for name in _FASTER:
        table = tables[name]
        train, _ = v100_tables.split(len(table))
        known.append(table.iloc[train])
        left.append(table.drop(index=table.index[train]).set_index("config_id"))
    both = left[0].index.intersection(left[1].index).sort_values()
    both = both[np.random.RandomState(0).permutation(len(both))[:_ASKED]]
    asked = [of.loc[both] for of in left]
    truth = asked[0].latency_s.to_numpy() < asked[1].latency_s.to_numpy()
    for seen, of in zip(known, asked, strict=True):
        x, seconds = v100_tables.baseline_features(seen), seen.latency_s.to_numpy()
        plain.append(extra_trees(x, seconds, v100_tables.baseline_features(of), trees=_TREES))
    apart = [predicted(models[name], of).median_s for name, of in zip(_FASTER, asked, strict=True)]
    model = fit_comparison(
        _batch(known[0]), known[0].latency_s.to_numpy(),
        _batch(known[1]), known[1].latency_s.to_numpy(),
        seed=seed, apart=(models[_FASTER[0]], models[_FASTER[1]]),
    )  # fmt: skip
    faster = model.log_ratio(_batch(asked[0]), _batch(asked[1])) < 0
    return row(
        "v100", f"{_DEVICE} {_FASTER[0]} or {_FASTER[1]}", "answered_right",
        (faster == truth).mean(), bar=_ANSWERED_RIGHT,
        baseline=float(((plain[0] < plain[1]) == truth).mean()),
        apart=float(((apart[0] < apart[1]) == truth).mean()), n=len(both),
    )  # fmt: skip


def _batch(table: pd.DataFrame) -> KernelBatch:
    return KernelBatch.of(convolution_kernels(table), vector_lanes=_LANES)
