"""What every latency model keeps to, whatever it is of: one line per model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_device import synthetic_seconds

from millifit.latency_models.architectures.additive import AdditiveModel, fit_additive_model
from millifit.latency_models.architectures.cells import encode_cells
from millifit.latency_models.architectures.committee import Training
from millifit.latency_models.architectures.graph import GraphModel, fit_graph_model
from millifit.latency_models.architectures.graphs import nasbench201_graphs
from millifit.latency_models.architectures.multilayer import MultilayerModel, fit_multilayer_model
from millifit.latency_models.archive import State, read_state, write_state
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import KernelModel, fit_kernel_model
from millifit.latency_models.kernels.table import TableModel, fit_table
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import OverheadModel
from millifit.latency_models.networks.whole import WholeNetworkModel, fit_whole_network
from millifit.latency_models.prediction import Floats, Predictions
from millifit.latency_models.transfer.adapt import TransferModel, fit_transfer_model
from millifit.latency_models.transfer.basis import fit_source
from millifit.latency_models.transfer.cost_surface import CostSurface, fit_cost_surface
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

KNOWN, NEW = 60, 20
BRIEF = Training(steps=40, folds=3)
Encode = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of model: how subjects are encoded, how it is fitted, and how it is loaded."""

    name: str
    encode: Encode
    fit: Callable[[Any, Floats, int], Any]
    load: Callable[[State], Any]
    subjects: Callable[[int], list[Any]]
    seconds: Callable[[Sequence[Any]], Floats]
    far: Callable[[], list[Any]]


def kernel(size: int, read: int, made: int) -> Kernel:
    return Kernel(
        op="conv2d",
        inputs=(TensorType(shape=(1, size, size, read), dtype="float32"),),
        output=TensorType(shape=(1, size, size, made), dtype="float32"),
        precision="fp32",
        attributes=(("groups", 1), ("kernel", (3, 3)), ("pads", (1,) * 4), ("strides", (1, 1))),
    )


def kernels(count: int) -> list[Kernel]:
    rng = np.random.default_rng(0)
    sizes = rng.choice([7, 14, 28, 56], count)
    channels = rng.integers(8, 200, (count, 2))
    return [kernel(int(s), int(r), int(m)) for s, (r, m) in zip(sizes, channels, strict=True)]


def kernel_seconds(subjects: Sequence[Kernel]) -> Floats:
    noise = np.random.default_rng(1).standard_normal(len(subjects))
    return np.array([synthetic_seconds(k) for k in subjects]) * np.exp(0.02 * noise)


def far_kernels() -> list[Kernel]:
    return [kernel(448, 1024, 2048), kernel(224, 4096, 999)]


def networks(count: int) -> list[tuple[Kernel, ...]]:
    rng, pool = np.random.default_rng(2), kernels(80)
    return [
        tuple(pool[n] for n in rng.integers(80, size=rng.integers(5, 15))) for _ in range(count)
    ]


def network_seconds(subjects: Sequence[Sequence[Kernel]]) -> Floats:
    return np.array([1.1 * kernel_seconds(calls).sum() + 1e-6 * len(calls) for calls in subjects])


OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
COSTS = {"none": 0.0, "skip_connect": 0.1, "nor_conv_1x1": 1.0, "nor_conv_3x3": 3.0}


def cell(operators: Sequence[str]) -> str:
    a, b, c, d, e, f = operators
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def cells(count: int) -> list[str]:
    """Cells that never pool."""
    rng = np.random.default_rng(3)
    return [cell([OPERATORS[n] for n in row]) for row in rng.integers(4, size=(count, 6))]


def cell_seconds(subjects: Sequence[str]) -> Floats:
    noise = np.random.default_rng(4).standard_normal(len(subjects))
    costs = [sum(s.count(f"{name}~") * cost for name, cost in COSTS.items()) for s in subjects]
    return 1e-3 * (5 + np.array(costs)) * np.exp(0.02 * noise)


def far_cells() -> list[str]:
    return [cell(["avg_pool_3x3"] * 6), cell(["avg_pool_3x3"] * 3 + ["nor_conv_3x3"] * 3)]


encode_kernels = partial(KernelBatch.of, vector_lanes=8)
encode_networks = partial(NetworkBatch.of, vector_lanes=8)


def one_hot(subjects: Sequence[str]) -> Floats:
    return encode_cells(list(subjects)).group("edge")


def fitted_table(batch: KernelBatch, seconds: Floats, seed: int) -> TableModel:
    """A table of half of the kernels, so that the other half is not looked up."""
    half = np.arange(0, len(batch), 2)
    return fit_table(
        batch.take(half), Predictions.around(np.log(seconds[half]), 0.01, origin="measured"),
        model=fit_kernel_model(batch.take(half), seconds[half], seed=seed), vector_lanes=8,
    )  # fmt: skip


def fitted_networks(batch: NetworkBatch, seconds: Floats, seed: int) -> WholeNetworkModel:
    each = kernel_seconds([*kernels(80)])
    known = dict(zip(encode_kernels(kernels(80)).identities.tolist(), each, strict=True))
    pairs = np.array([known[i] for i in batch.kernels.identities[batch.kernel].tolist()])
    return fit_whole_network(
        batch, pairs, seconds, fit_kernels=lambda of, s: fit_kernel_model(of, s, seed=seed)
    )


def load_networks(state: State) -> WholeNetworkModel:
    return WholeNetworkModel(
        kernels=TableModel.from_state(state.part("kernels")),
        overhead=OverheadModel.from_state(state.part("overhead")),
    )


def counts(batch: Any) -> Floats:
    return batch.group("count")


def fitted_transfer(batch: Any, seconds: Floats, seed: int) -> TransferModel[Any]:
    others = encode_cells(cells(150))
    sources = [
        fit_source(name, others, speed * cell_seconds(cells(150)))
        for name, speed in (("slow", 3.0), ("fast", 0.4))
    ]
    return fit_transfer_model(batch, seconds, sources=sources, features=counts, seed=seed)


def load_transfer(state: State) -> TransferModel[Any]:
    return TransferModel.from_state(state, features=counts, read_model=CostSurface.from_state)


OF_KERNELS = {"subjects": kernels, "seconds": kernel_seconds, "far": far_kernels}
OF_CELLS = {"subjects": cells, "seconds": cell_seconds, "far": far_cells}
OF_NETWORKS = {
    "subjects": networks, "seconds": network_seconds, "far": lambda: [far_kernels() * 5],
}  # fmt: skip

CASES = (
    Case(name="kernels", encode=encode_kernels, fit=lambda b, s, n: fit_kernel_model(b, s, seed=n),
         load=KernelModel.from_state, **OF_KERNELS),
    Case(name="table", encode=encode_kernels, fit=fitted_table, load=TableModel.from_state,
         **OF_KERNELS),
    Case(name="networks", encode=encode_networks, fit=fitted_networks, load=load_networks,
         **OF_NETWORKS),
    Case(name="additive", encode=encode_cells, fit=lambda b, s, n: fit_additive_model(b, s, seed=n),
         load=AdditiveModel.from_state, **OF_CELLS),
    Case(name="transfer", encode=encode_cells, fit=fitted_transfer, load=load_transfer, **OF_CELLS),
    Case(name="cost surface", encode=encode_cells, fit=lambda b, s, n: fit_cost_surface(b, s),
         load=CostSurface.from_state, **OF_CELLS),
    Case(name="multi-layer", encode=one_hot, load=MultilayerModel.from_state,
         fit=lambda b, s, n: fit_multilayer_model(b, s, seed=n, hidden=(16,), training=BRIEF),
         **OF_CELLS),
    Case(name="graph", encode=nasbench201_graphs, load=GraphModel.from_state,
         fit=lambda b, s, n: fit_graph_model(b, s, seed=n, training=BRIEF), **OF_CELLS),
)  # fmt: skip


@cache
def model_of(name: str) -> Any:
    case = next(case for case in CASES if case.name == name)
    known = case.subjects(KNOWN + NEW)[:KNOWN]
    return case.fit(case.encode(known), case.seconds(known), 0)


def same(first: Predictions, second: Predictions) -> bool:
    return all(
        np.array_equal(getattr(first, column.name), getattr(second, column.name))
        for column in dataclasses.fields(first)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestEveryModel:
    """The promises of `LatencyModel`."""

    def test_the_same_seed_gives_the_same_model(self, case: Case) -> None:
        """Fitted twice, it predicts the same to the last digit."""
        subjects = case.subjects(KNOWN + NEW)
        known, new = subjects[:KNOWN], case.encode(subjects[KNOWN:])
        again = case.fit(case.encode(known), case.seconds(known), 0)
        assert same(model_of(case.name).predict(new), again.predict(new))

    def test_predictions_are_finite_and_positive(self, case: Case) -> None:
        """For what is known, new, and far out; a constructor checks it, and here it is used."""
        for subjects in (case.subjects(KNOWN + NEW), case.far()):
            made = model_of(case.name).predict(case.encode(subjects))
            assert len(made) == len(subjects)
            assert np.isfinite(made.high_s).all()
            assert (made.low_s > 0).all()

    def test_a_saved_model_predicts_the_same(self, case: Case, tmp_path: Path) -> None:
        """Through a file without pickle."""
        model = model_of(case.name)
        write_state(model.to_state(), tmp_path / "model.npz")
        loaded = case.load(read_state(tmp_path / "model.npz"))
        asked = case.encode(case.subjects(KNOWN + NEW) + case.far())
        assert same(model.predict(asked), loaded.predict(asked))

    def test_far_out_is_flagged_and_wider(self, case: Case) -> None:
        """What is unlike all that was measured says so, and its interval is wider than usual."""
        model = model_of(case.name)
        near = model.predict(case.encode(case.subjects(KNOWN + NEW)[KNOWN:]))
        far = model.predict(case.encode(case.far()))
        unknown = np.array([each.origin == "unknown" for each in far])
        assert (far.extrapolated | unknown).all()
        width = np.median(near.high_s / near.low_s)
        assert (far.high_s / far.low_s > width).all()

    def test_nothing_asked_is_nothing_said(self, case: Case) -> None:
        """A batch of no subjects has no predictions."""
        some, none = case.encode(case.subjects(KNOWN)), np.empty(0, np.intp)
        batch = some[none] if isinstance(some, np.ndarray) else some.take(none)
        assert len(model_of(case.name).predict(batch)) == 0

    def test_order_does_not_matter(self, case: Case) -> None:
        """Nor does the company: each subject gets its own prediction."""
        subjects = case.subjects(KNOWN + NEW)[KNOWN:]
        model = model_of(case.name)
        forwards = model.predict(case.encode(subjects))
        backwards = model.predict(case.encode(subjects[::-1]))
        alone = model.predict(case.encode(subjects[3:4]))
        np.testing.assert_allclose(backwards.median_s[::-1], forwards.median_s, rtol=1e-5)
        np.testing.assert_allclose(backwards.high_s[::-1], forwards.high_s, rtol=1e-5)
        np.testing.assert_allclose(alone.median_s, forwards.median_s[3:4], rtol=1e-5)
