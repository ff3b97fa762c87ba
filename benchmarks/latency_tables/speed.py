"""How fast predictions are made, on one core: kernels by the million, and one network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.latency_tables import mobile_tables, v100_tables
from benchmarks.latency_tables.mobile import without_fused
from benchmarks.latency_tables.row import Row, row
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import fit_kernel_model
from millifit.latency_models.kernels.table import TableModel, fit_table
from millifit.latency_models.model import LatencyModel
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import fit_overhead
from millifit.latency_models.networks.whole import WholeNetworkModel
from millifit.latency_models.prediction import Floats, Predictions
from millifit.profiler.packs.convolutions import convolution_kernels
from millifit.profiler.packs.mobile import mobile_op_kernels
from millifit.targets.kernel import Kernel

_LANES, _PHONE_LANES = 8, 4
_PREDICTIONS, _PER_S = 1_000_000, 1e6
_SOME = 100_000
_KERNELS, _NETWORK_S = 60, 1e-3
_REPEATS = 5


def rows(seed: int) -> Iterator[Row]:
    """Models of 10,000 convolutions, whose families are large and have a perceptron each, and of a
    phone, whose families of some hundreds have a Gaussian process and trees.
    """
    yield from _convolutions(seed)
    yield from _phone(seed)


def _convolutions(seed: int) -> Iterator[Row]:
    table = v100_tables.precisions()["fp16"]
    train, test = v100_tables.split(len(table))
    kernels = convolution_kernels(table.iloc[np.concatenate([train, test])])
    batch = KernelBatch.of(kernels, vector_lanes=_LANES)
    looked_up = _table(batch.take(np.arange(len(train))), table.latency_s.to_numpy()[train], seed)
    rng = np.random.default_rng(seed)
    new = batch.take(rng.integers(len(train), len(batch), _PREDICTIONS))
    old = batch.take(rng.integers(0, len(train), _PREDICTIONS))
    if looked_up.regressor is not None:
        yield _rate("regressor", looked_up.regressor, new, bar=_PER_S)
    yield _rate("table, measured kernels", looked_up, old, bar=_PER_S)
    yield _rate("table, new kernels", looked_up, new, bar=_PER_S)
    yield _network(f"network of {_KERNELS} kernels", looked_up, kernels[-_KERNELS:], _LANES)


def _phone(seed: int) -> Iterator[Row]:
    """Without a bar where it is slower: accuracy goes before speed for few measurements."""
    phone = mobile_tables.phones()[0]
    table = phone.configurations
    train, test = mobile_tables.split(len(table))
    kernels = mobile_op_kernels(without_fused(table))
    batch = KernelBatch.of(kernels, vector_lanes=_PHONE_LANES)
    looked_up = _table(batch.take(train), table.latency_s.to_numpy()[train], seed)
    new = batch.take(np.random.default_rng(seed).choice(test, _SOME))
    yield _rate(f"table, new kernels of {phone.name}", looked_up, new, bar=None)
    asked = [kernels[number] for number in test[:_KERNELS]]
    name = f"network of {_KERNELS} kernels of {phone.name}"
    yield _network(name, looked_up, asked, _PHONE_LANES)


def _table(batch: KernelBatch, seconds: Floats, seed: int) -> TableModel:
    measured = Predictions.around(np.log(seconds), 0.01, origin="measured")
    model = fit_kernel_model(batch, seconds, seed=seed)
    return fit_table(batch, measured, model=model, vector_lanes=batch.vector_lanes)


def _rate(
    name: str, model: LatencyModel[KernelBatch], asked: KernelBatch, *, bar: float | None
) -> Row:
    taken_s = _fastest_s(lambda: model.predict(asked))
    return row("speed", name, "predictions_per_s", len(asked) / taken_s, bar=bar, n=len(asked))


def _network(name: str, table: TableModel, kernels: list[Kernel], lanes: int) -> Row:
    networks = NetworkBatch.of([kernels], vector_lanes=lanes)
    prices = table.predict(networks.kernels).take(networks.kernel)
    whole = WholeNetworkModel(
        kernels=table, overhead=fit_overhead(networks, prices, np.array([0.1]))
    )
    return row(
        "speed", name, "network_s", _fastest_s(lambda: whole.predict(networks)), bar=_NETWORK_S
    )


def _fastest_s(work: Callable[[], object]) -> float:
    """The shortest of some runs after one to warm up, in seconds of the processor: others may use
    the machine meanwhile.
    """
    work()
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)
