"""Learn a target's latency models from a store, and keep them in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.archive import write_state
from millifit.latency_models.kernels.table import TableModel
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import fit_overhead
from millifit.latency_models.prediction import Floats, Predictions
from millifit.pipeline.predicting import (
    Predictor,
    calm_networks,
    facts_of,
    fit_predictor,
    network_prices,
)
from millifit.pipeline.workbench import open_store
from millifit.profiler.store import Store
from millifit.progress import SILENT, Progress
from millifit.targets.catalog import find_target

_FOLDS = 5
_FEWEST_NETWORKS = 2 * _FOLDS


def learn(
    *,
    out: str,
    target: str = "local",
    threads: int = 1,
    store: str | None = None,
    progress: Progress = SILENT,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit the models of kernels and of networks to a store, and write them to the file `out`.

    Says how good they are on kernels, and networks, that the model asked had not seen.
    MeasurementError where the store has nothing of the target.
    """
    device, kept = find_target(target, threads=threads), open_store(store)
    progress.note(f"learning from the measurements of '{device.name}'")
    predictor = fit_predictor(device, kept, seed=seed)
    write_state(predictor.to_state(), Path(out))
    return {
        **facts_of(predictor),
        "families": [
            row
            for size, table in sorted(predictor.tables.items())
            for row in family_rows(table, working_set_bytes=size)
        ],
        "networks": network_row(predictor, kept),
        "out": out,
    }


def family_rows(table: TableModel, *, working_set_bytes: int) -> list[dict[str, Any]]:
    """For each operator and precision: how far its kernels were off while they were held out."""
    if table.held_out is None or table.judged is None:
        return []
    rows = []
    for number, name in enumerate(table.names):
        members = np.flatnonzero((table.family == number) & table.judged)
        if not len(members):
            continue
        measured = table.known.median_s[members]
        found = accuracy(measured, table.held_out.median_s[members])
        rows.append(
            {
                "family": name,
                "working_set_bytes": working_set_bytes,
                "kernels": int((table.family == number).sum()),
                "held_out": found.n,
                "within_5": found.within_5,
                "within_10": found.within_10,
                "mape": found.mape,
                "coverage_95": coverage(measured, table.held_out.take(members)),
            }
        )
    return sorted(rows, key=lambda row: -row["kernels"])


def network_row(predictor: Predictor, store: Store) -> dict[str, Any] | None:
    """How far whole networks are off that neither model had seen; None for fewer than ten.

    Each fifth of the networks is predicted from what the other four took, and from prices by
    models that had not seen the kernels.
    """
    batch, prices, seconds = network_prices(
        calm_networks(store, predictor.target_key), predictor.tables, predictor.vector_lanes
    )
    if len(seconds) < _FEWEST_NETWORKS:
        return None
    made: list[Predictions] = []
    truth: list[Floats] = []
    for fold in range(_FOLDS):
        test = np.arange(fold, len(seconds), _FOLDS)
        train = np.setdiff1d(np.arange(len(seconds)), test)
        of_train = np.isin(batch.network, train)
        model = fit_overhead(batch.take(train), prices.take(of_train), seconds[train])
        asked = batch.take(test)
        made.append(model.predict(asked, _of_kernels(asked, prices.take(~of_train))))
        truth.append(seconds[test])
    measured = np.concatenate(truth)
    predicted = Predictions.of([each for part in made for each in part])
    found = accuracy(measured, predicted.median_s)
    return {
        "networks": found.n,
        "within_5": found.within_5,
        "within_10": found.within_10,
        "mape": found.mape,
        "spearman": found.spearman,
        "coverage_95": coverage(measured, predicted),
    }


def _of_kernels(batch: NetworkBatch, pair_prices: Predictions) -> Predictions:
    """The price of each kernel of a batch, from the prices of its pairs."""
    _, first = np.unique(batch.kernel, return_index=True)
    return pair_prices.take(first)
