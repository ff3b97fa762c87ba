"""How fast predictions are made, on one core: kernels by the million, and one network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.latency_tables import v100_tables
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import fit_kernel_model
from millifit.latency_models.kernels.table import fit_table
from millifit.latency_models.model import LatencyModel
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import fit_overhead
from millifit.latency_models.networks.whole import WholeNetworkModel
from millifit.latency_models.prediction import Predictions
from millifit.profiler.packs.convolutions import convolution_kernels

_LANES = 8
_PREDICTIONS, _PER_S = 1_000_000, 1e6
_KERNELS, _NETWORK_S = 60, 1e-3
_REPEATS = 5


def rows(seed: int) -> Iterator[Row]:
    """A model of 10,000 convolutions: its regressor, its table, and a network of 60 kernels."""
    table = v100_tables.precisions()["fp16"]
    train, test = v100_tables.split(len(table))
    kernels = convolution_kernels(table.iloc[np.concatenate([train, test])])
    batch = KernelBatch.of(kernels, vector_lanes=_LANES)
    known = np.arange(len(train))
    seconds = table.latency_s.to_numpy()[train]
    model = fit_kernel_model(batch.take(known), seconds, seed=seed)
    measured = Predictions.around(np.log(seconds), 0.01, origin="measured")
    looked_up = fit_table(batch.take(known), measured, model=model, vector_lanes=_LANES)
    rng = np.random.default_rng(seed)
    new = batch.take(rng.integers(len(train), len(batch), _PREDICTIONS))
    old = batch.take(rng.integers(0, len(train), _PREDICTIONS))
    subjects: dict[str, tuple[LatencyModel[KernelBatch], KernelBatch]] = {
        "regressor": (model, new),
        "table, measured kernels": (looked_up, old),
        "table, new kernels": (looked_up, new),
    }
    for name, (of, asked) in subjects.items():
        taken_s = _fastest_s(lambda of=of, asked=asked: of.predict(asked))
        yield row(
            "speed", name, "predictions_per_s", _PREDICTIONS / taken_s, bar=_PER_S, n=_PREDICTIONS
        )
    networks = NetworkBatch.of([kernels[-_KERNELS:]], vector_lanes=_LANES)
    overhead = fit_overhead(
        networks, looked_up.predict(networks.kernels).take(networks.kernel), np.array([0.1])
    )
    whole = WholeNetworkModel(kernels=looked_up, overhead=overhead)
    yield row(
        "speed", f"network of {_KERNELS} kernels", "network_s",
        _fastest_s(lambda: whole.predict(networks)), bar=_NETWORK_S,
    )  # fmt: skip


def _fastest_s(work: Callable[[], object]) -> float:
    """The shortest of some runs after one to warm up: others may use the machine meanwhile."""
    work()
    taken = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
