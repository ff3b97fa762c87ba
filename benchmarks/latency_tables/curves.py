"""Learning curves: the share of predictions within 10 percent, by the number of samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.latency_tables import (
    mobile_tables,
    nasbench201_tables,
    ofa_tables,
    transformer_tables,
    v100,
    v100_tables,
)
from benchmarks.latency_tables.baselines import Floats, extra_trees, ridge
from benchmarks.latency_tables.line_chart import LineChart, svg
from benchmarks.latency_tables.mobile import without_fused
from millifit.files import write_atomically
from millifit.latency_models.accuracy import accuracy
from millifit.latency_models.architectures.additive import fit_additive_model
from millifit.latency_models.architectures.cells import encode_cells
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.architectures.supernets import encode_supernets
from millifit.latency_models.architectures.transformers import encode_transformers
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import fit_kernel_model
from millifit.profiler.packs.mobile import mobile_op_kernels

Curve = Callable[[int], LineChart]

_Y = "predictions within 10 %"
_OURS, _TREES, _RIDGE = "millifit", "extra trees", "additive ridge"


def draw(folder: Path, *, seed: int) -> None:
    """Write a figure per table to `folder`, and all of their points to ``curves.json``."""
    points = {}
    for name, chart in charts(seed):
        write_atomically(folder / f"curve-{name}.svg", svg(chart))
        points[name] = chart.lines
        print(f"{folder / f'curve-{name}.svg'}: {chart.lines}", flush=True)
    write_atomically(folder / "curves.json", json.dumps(points, indent=1) + "\n")


def charts(seed: int) -> Iterator[tuple[str, LineChart]]:
    """One device of each table: the first that it names."""
    yield "mobile-operators", mobile_operators(seed)
    yield "v100-convolutions", v100_convolutions(seed)
    yield "nasbench201", nasbench201(seed)
    yield "ofa", ofa(seed)
    yield "transformers", transformers(seed)


def mobile_operators(seed: int) -> LineChart:
    """A phone's GPU operators."""
    phone = mobile_tables.phones()[0]
    table = phone.configurations
    train, test = mobile_tables.split(len(table))
    x, seconds = mobile_tables.baseline_features(table), table.latency_s.to_numpy()
    batch = KernelBatch.of(mobile_op_kernels(without_fused(table)), vector_lanes=4)

    def ours(rows: v100_tables.Rows) -> Floats:
        model = fit_kernel_model(batch.take(rows), seconds[rows], seed=seed)
        return model.predict(batch.take(test)).median_s

    def trees(rows: v100_tables.Rows) -> Floats:
        return extra_trees(x[rows], seconds[rows], x[test])

    sizes = [n for n in (100, 200, 400, 800) if n < len(train)] + [len(train)]
    return _chart(
        f"GPU operators, {phone.name}", seconds[test], train, sizes, {_OURS: ours, _TREES: trees}
    )


def v100_convolutions(seed: int) -> LineChart:
    """A server GPU's convolutions in 16 bits."""
    table = v100_tables.precisions()["fp16"]
    train, test = v100_tables.split(len(table))
    x, seconds = v100_tables.baseline_features(table), table.latency_s.to_numpy()

    def ours(rows: v100_tables.Rows) -> Floats:
        return v100.predicted(v100.fitted(table, rows, seed), table.iloc[test]).median_s

    def trees(rows: v100_tables.Rows) -> Floats:
        return extra_trees(x[rows], seconds[rows], x[test], trees=50)

    return _chart(
        "V100 convolutions, fp16", seconds[test], train, [300, 1000, 3000, 10000],
        {_OURS: ours, _TREES: trees},
    )  # fmt: skip


def nasbench201(seed: int) -> LineChart:
    """Cells on a processor."""
    table = nasbench201_tables.table()
    setting = next(s for s in table.settings.values() if s.device_class != "gpu")
    usable = setting.usable
    train, test = nasbench201_tables.split(len(usable))
    encoded, edges = encode_cells(table.architectures), nasbench201_tables.one_hot(table.operators)
    return _architectures(
        f"NAS-Bench-201, {setting.key}", encoded.take(usable), edges[usable],
        setting.latency_s[usable], usable.astype(float), train, test,
        [30, 100, 300, 900], seed, (_RIDGE, ridge),
    )  # fmt: skip


def ofa(seed: int) -> LineChart:
    """Sub-networks on a GPU."""
    key, table = next(iter(ofa_tables.settings().items()))
    train, test = ofa_tables.split(len(table))
    return _architectures(
        f"Once-for-all, {key}", encode_supernets(list(table.arch)), ofa_tables.one_hot(table.arch),
        table.latency_s.to_numpy(), table.arch_index.to_numpy(float), train, test,
        [100, 300, 900], seed, (_RIDGE, ridge),
    )  # fmt: skip


def transformers(seed: int) -> LineChart:
    """Transformers on a board."""
    each = transformer_tables.translations()[0]
    train, test = transformer_tables.split(len(each.latency_s))
    return _architectures(
        f"Transformers, {each.device} {each.task}",
        encode_transformers(dict(zip(each.names, each.features.T, strict=True))),
        transformer_tables.baseline_features(each.features), each.latency_s,
        np.arange(len(each.latency_s), dtype=float), train, test, [100, 300, 900, 1800], seed,
        (_TREES, extra_trees),
    )  # fmt: skip


def _architectures(
    title: str, encoded: Encoded, x: Floats, seconds: Floats, order: Floats,
    train: v100_tables.Rows, test: v100_tables.Rows, sizes: list[int], seed: int,
    baseline: tuple[str, Callable[[Floats, Floats, Floats], Floats]],
) -> LineChart:  # fmt: skip
    def ours(rows: v100_tables.Rows) -> Floats:
        model = fit_additive_model(encoded.take(rows), seconds[rows], seed=seed, order=order[rows])
        return model.predict(encoded.take(test), order=order[test]).median_s

    def plain(rows: v100_tables.Rows) -> Floats:
        # In milliseconds, as the protocol has it: a ridge's penalty depends on the unit.
        return baseline[1](x[rows], seconds[rows] * 1e3, x[test]) / 1e3

    return _chart(title, seconds[test], train, sizes, {_OURS: ours, baseline[0]: plain})


def _chart(
    title: str,
    truth: Floats,
    train: v100_tables.Rows,
    sizes: list[int],
    methods: dict[str, Callable[[v100_tables.Rows], Floats]],
) -> LineChart:
    """Every method with the first so many rows of the training part, on the whole test part."""
    lines = {
        name: [(size, accuracy(truth, method(train[:size])).within_10) for size in sizes]
        for name, method in methods.items()
    }
    return LineChart(title=title, y=_Y, lines=lines)
