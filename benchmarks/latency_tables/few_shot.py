"""A new device from ten measured architectures, given the profiles of other devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.latency_tables import nasbench201_tables
from benchmarks.latency_tables.baselines import ridge
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.accuracy import Accuracy, accuracy, coverage
from millifit.latency_models.architectures.cells import encode_cells
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.transfer.adapt import fit_relatives
from millifit.latency_models.transfer.basis import Source, fit_source

_SAMPLES = 10
_GAIN, _BELOW = 0.10, 0.85  # so much is asked for where the baseline is below
_THIRD = 1 / 3


def rows(seed: int) -> Iterator[Row]:
    """Every setting, as if its device had not been seen: the mean of ten draws."""
    table = nasbench201_tables.table()
    encoded = encode_cells(table.architectures)
    sources = {key: _source(setting, encoded) for key, setting in table.settings.items()}
    proxies = nasbench201_tables.proxies(table)
    for key, setting in table.settings.items():
        others = table.others(key)
        relatives = fit_relatives(
            [sources[name] for name in others], features=lambda cells: cells.group("count"),
            seed=seed,
        )  # fmt: skip
        usable = setting.usable
        seconds, asked = setting.latency_s[usable], encoded.take(usable)
        x = np.stack([proxies[name] for name in others], 1)[usable]
        plain, ours, covered = [], [], []
        for draw in nasbench201_tables.draws():
            train, test = nasbench201_tables.split(len(usable), train=_SAMPLES, seed=draw)
            logs = ridge(x[train], np.log(seconds[train] * 1e3), x[test])
            plain.append(accuracy(seconds[test], np.exp(logs) / 1e3))
            made = relatives.adapt(asked.take(train), seconds[train]).predict(asked.take(test))
            ours.append(accuracy(seconds[test], made.median_s))
            covered.append(coverage(seconds[test], made))
        yield from _judged(key, ours, plain)
        yield row("few_shot", key, "coverage_95", float(np.mean(covered)))


def _source(setting: nasbench201_tables.Setting, encoded: Encoded) -> Source[Encoded]:
    """Another device's profile: all that it took long enough for."""
    known = setting.usable
    return fit_source(setting.device, encoded.take(known), setting.latency_s[known])


def _judged(key: str, ours: list[Accuracy], plain: list[Accuracy]) -> Iterator[Row]:
    within = float(np.mean([each.within_10 for each in plain]))
    rank = float(np.mean([each.spearman for each in plain]))
    facts = {"n_train": _SAMPLES, "n": ours[0].n, "draws": len(ours)}
    yield row(
        "few_shot", key, "spearman", float(np.mean([each.spearman for each in ours])),
        baseline=rank, bar=rank + _THIRD * (1 - rank), **facts,
    )  # fmt: skip
    yield row(
        "few_shot", key, "within_10", float(np.mean([each.within_10 for each in ours])),
        baseline=within, bar=within + _GAIN if within < _BELOW else None, **facts,
    )  # fmt: skip
