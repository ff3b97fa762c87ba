"""NAS-Bench-201 on every device, from 900 architectures of that device.

The state of a device changes while thousands of architectures are measured on it. The place of a
measurement in that order is known for all of them, and the model is told; rows named "order
unknown" are predictions of the device's typical state, without it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.latency_tables import nasbench201_tables
from benchmarks.latency_tables.baselines import ridge
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.architectures.additive import fit_additive_model
from millifit.latency_models.architectures.cells import encode_cells

# Within 10 percent and rank correlation, by class of device.
_BARS = {"mobile": (0.80, 0.98), "gpu": (0.995, 0.99)}


def rows(seed: int) -> Iterator[Row]:
    """Every setting: the share within 10 percent, and the rank correlation."""
    table = nasbench201_tables.table()
    encoded = encode_cells(table.architectures)
    edges = nasbench201_tables.one_hot(table.operators)
    for key, setting in table.settings.items():
        usable = setting.usable
        seconds = setting.latency_s[usable]
        train, test = nasbench201_tables.split(len(usable))
        plain = accuracy(
            seconds[test],
            ridge(edges[usable][train], seconds[train] * 1e3, edges[usable][test]) / 1e3,
        )
        known, asked = usable[train], usable[test]
        model = fit_additive_model(
            encoded.take(known), seconds[train], seed=seed, order=known.astype(float)
        )
        made = model.predict(encoded.take(asked), order=asked.astype(float))
        blind = accuracy(seconds[test], model.predict(encoded.take(asked)).median_s)
        found = accuracy(seconds[test], made.median_s)
        within, rank = _BARS.get(setting.device_class, (0.0, 0.0))
        facts = {"n_train": len(train), "n": found.n, "device_class": setting.device_class}
        if setting.resolution_s is not None:
            half = np.abs(made.median_s - seconds[test]) <= setting.resolution_s / 2
            close = np.abs(made.median_s / seconds[test] - 1) <= 0.10
            facts |= {"within_10_or_the_timers_rounding": float((half | close).mean())}
        yield row(
            "nasbench201", key, "within_10", found.within_10, baseline=plain.within_10,
            bar=max(within, plain.within_10), **facts,
        )  # fmt: skip
        yield row(
            "nasbench201", key, "spearman", found.spearman, baseline=plain.spearman,
            bar=max(rank, plain.spearman), **facts,
        )  # fmt: skip
        yield row("nasbench201", key, "coverage_95", coverage(seconds[test], made), **facts)
        unknown = f"{key}, order unknown"
        yield row(
            "nasbench201", unknown, "within_10", blind.within_10, baseline=plain.within_10, **facts
        )
        yield row(
            "nasbench201", unknown, "spearman", blind.spearman, baseline=plain.spearman, **facts
        )
