"""Once-for-all networks, from 900 of them.

The state of a device changes while thousands of architectures are measured on it. The place of a
measurement in that order is known for all of them, and the model is told; rows named "order
unknown" are predictions of the device's typical state, without it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.latency_tables import ofa_tables
from benchmarks.latency_tables.baselines import ridge
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.architectures.additive import fit_additive_model
from millifit.latency_models.architectures.supernets import encode_supernets

# Within 10 percent by batch size; at the others at least the baseline.
_BARS = {1: 0.70, 32: 0.60}


def rows(seed: int) -> Iterator[Row]:
    """Every setting."""
    for key, table in ofa_tables.settings().items():
        seconds, order = table.latency_s.to_numpy(), table.arch_index.to_numpy(float)
        train, test = ofa_tables.split(len(table))
        x = ofa_tables.one_hot(table.arch)
        plain = accuracy(seconds[test], ridge(x[train], seconds[train] * 1e3, x[test]) / 1e3)
        encoded = encode_supernets(list(table.arch))
        model = fit_additive_model(
            encoded.take(train), seconds[train], seed=seed, order=order[train]
        )
        made = model.predict(encoded.take(test), order=order[test])
        blind = accuracy(seconds[test], model.predict(encoded.take(test)).median_s)
        found = accuracy(seconds[test], made.median_s)
        batch = int(np.nan_to_num(float(table.batch.iloc[0])))
        facts = {"n_train": len(train), "n": found.n}
        yield row(
            "ofa", key, "within_10", found.within_10, baseline=plain.within_10,
            bar=max(_BARS.get(batch, 0.0), plain.within_10), **facts,
        )  # fmt: skip
        yield row("ofa", key, "spearman", found.spearman, baseline=plain.spearman, **facts)
        yield row("ofa", key, "coverage_95", coverage(seconds[test], made), **facts)
        unknown = f"{key}, order unknown"
        yield row("ofa", unknown, "within_10", blind.within_10, baseline=plain.within_10, **facts)
        yield row("ofa", unknown, "spearman", blind.spearman, baseline=plain.spearman, **facts)
