"""Transformers for translation, encoder and decoder together, from 1,800 of them.

The state of a device changes while thousands of architectures are measured on it. The place of a
measurement in that order is known for all of them, and the model is told; rows named "order
unknown" are predictions of the device's typical state, without it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.latency_tables import transformer_tables
from benchmarks.latency_tables.baselines import extra_trees
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.architectures.additive import fit_additive_model
from millifit.latency_models.architectures.transformers import encode_transformers

# Within 10 percent, on the device that they were asked for; on others at least the baseline.
_BARS = {("raspberry_pi", "wmt14ende"): 0.95, ("raspberry_pi", "wmt14enfr"): 1.00}


def rows(seed: int) -> Iterator[Row]:
    """Every device and task."""
    for each in transformer_tables.translations():
        seconds = each.latency_s
        train, test = transformer_tables.split(len(seconds))
        x = transformer_tables.baseline_features(each.features)
        plain = accuracy(seconds[test], extra_trees(x[train], seconds[train], x[test]))
        encoded = encode_transformers(dict(zip(each.names, each.features.T, strict=True)))
        order = np.arange(len(seconds), dtype=float)
        model = fit_additive_model(
            encoded.take(train), seconds[train], seed=seed, order=order[train]
        )
        made = model.predict(encoded.take(test), order=order[test])
        blind = accuracy(seconds[test], model.predict(encoded.take(test)).median_s)
        found = accuracy(seconds[test], made.median_s)
        device = f"{each.device} {each.task}"
        bar = max(_BARS.get((each.device, each.task), 0.0), plain.within_10)
        facts = {"n_train": len(train), "n": found.n}
        yield row(
            "transformers", device, "within_10", found.within_10, baseline=plain.within_10,
            bar=bar, **facts,
        )  # fmt: skip
        yield row("transformers", device, "spearman", found.spearman, **facts)
        yield row("transformers", device, "coverage_95", coverage(seconds[test], made), **facts)
        unknown = f"{device}, order unknown"
        yield row(
            "transformers", unknown, "within_10", blind.within_10, baseline=plain.within_10, **facts
        )
        yield row(
            "transformers", unknown, "spearman", blind.spearman, baseline=plain.spearman, **facts
        )
