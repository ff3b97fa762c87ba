"""Phones' GPUs: operators of unseen configurations, and whole networks from operators."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.latency_tables import mobile_tables
from benchmarks.latency_tables.baselines import affine, extra_trees, gradient_boosting
from benchmarks.latency_tables.mobile_tables import Phone
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import fit_kernel_model
from millifit.latency_models.networks.batch import NetworkBatch, seconds_of_pairs
from millifit.latency_models.networks.whole import fit_whole_network
from millifit.profiler.packs.mobile import mobile_op_kernels

_LANES = 4
_WITHIN_10, _MAPE = 0.75, 0.08


def operator_rows(seed: int) -> Iterator[Row]:
    """Configurations that were not trained on, by device."""
    for phone in mobile_tables.phones():
        table = phone.configurations
        seconds = table.latency_s.to_numpy()
        train, test = mobile_tables.split(len(seconds))
        x = mobile_tables.baseline_features(table)
        plain = [
            accuracy(seconds[test], method(x[train], seconds[train], x[test]))
            for method in (extra_trees, gradient_boosting)
        ]
        batch = KernelBatch.of(mobile_op_kernels(without_fused(table)), vector_lanes=_LANES)
        model = fit_kernel_model(batch.take(train), seconds[train], seed=seed)
        made = model.predict(batch.take(test))
        found = accuracy(seconds[test], made.median_s)
        facts = {"n_train": len(train), "n": found.n}
        yield row(
            "mobile_ops", phone.name, "within_10", found.within_10, bar=_WITHIN_10,
            baseline=max(each.within_10 for each in plain), **facts,
        )  # fmt: skip
        yield row(
            "mobile_ops", phone.name, "mape", found.mape, bar=_MAPE,
            baseline=min(each.mape for each in plain), **facts,
        )  # fmt: skip
        yield row("mobile_ops", phone.name, "coverage_95", coverage(seconds[test], made), **facts)


def network_rows(seed: int) -> Iterator[Row]:
    """Whole networks, each fifth from the operators and networks of the other four."""
    for phone in mobile_tables.phones():
        yield from _networks(phone, seed)


def _networks(phone: Phone, seed: int) -> Iterator[Row]:
    from sklearn.model_selection import KFold

    seconds = phone.networks.latency_s.to_numpy()
    groups = [phone.operators[phone.operators.network == name] for name in phone.networks.network]
    kernels = mobile_op_kernels(without_fused(pd.concat(groups)))
    ends = np.cumsum([len(group) for group in groups])
    calls = [kernels[end - len(group) : end] for group, end in zip(groups, ends, strict=True)]
    taken = [group.latency_s.to_numpy() for group in groups]
    predicted = np.zeros(len(seconds))
    covered = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(calls):
        seen = [calls[number] for number in train]
        model = fit_whole_network(
            NetworkBatch.of(seen, vector_lanes=_LANES),
            seconds_of_pairs(seen, [taken[number] for number in train]),
            seconds[train],
            fit_kernels=lambda batch, known: fit_kernel_model(batch, known, seed=seed),
        )
        made = model.predict(
            NetworkBatch.of([calls[number] for number in test], vector_lanes=_LANES)
        )
        predicted[test] = made.median_s
        covered.append(coverage(seconds[test], made) * len(test))
    measured_sum = accuracy(seconds, affine(np.array([each.sum() for each in taken]), seconds))
    found = accuracy(seconds, predicted)
    facts = {"n": found.n}
    yield row(
        "mobile_networks", phone.name, "within_10", found.within_10,
        baseline=measured_sum.within_10, bar=measured_sum.within_10, **facts,
    )  # fmt: skip
    yield row("mobile_networks", phone.name, "mape", found.mape, baseline=measured_sum.mape)
    yield row("mobile_networks", phone.name, "coverage_95", sum(covered) / len(seconds), **facts)


def without_fused(table: pd.DataFrame) -> pd.DataFrame:
    """Without what is fused behind an operator: the name of the runtime's kernel says that, and is
    not known before a network is deployed.
    """
    return table.assign(fused_ops="")
