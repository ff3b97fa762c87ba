"""A new device from ten measurements: relatives help, strangers do not hurt, intervals hold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from millifit.latency_models.accuracy import coverage
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.archive import State, read_state, write_state
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.prediction import Floats, Predictions
from millifit.latency_models.transfer.adapt import (
    Relatives,
    TransferModel,
    fit_relatives,
    fit_transfer_model,
)
from millifit.latency_models.transfer.basis import Source, fit_source
from millifit.latency_models.transfer.cost_surface import CostSurface, fit_cost_surface
from millifit.targets.kernel import Kernel

OPERATORS = ("none", "skip", "pointwise", "convolution", "pool")
CPU = np.array([0.4, 0.0, 0.02, 0.18, 0.4, 0.05])  # start, then per operator
GPU = np.array([0.6, 0.0, 0.0, 0.2, 0.21, 0.01])
NOISE = 0.03


def random_cells(n: int, rng: np.random.Generator) -> Encoded:
    """Cells of six edges with one of five operators each: which where, and how many of each."""
    chosen = rng.integers(len(OPERATORS), size=(n, 6))
    edges = np.eye(len(OPERATORS))[chosen]  # [n, 6, 5]
    places = tuple(f"{edge}:{name}" for edge in range(6) for name in OPERATORS)
    return Encoded.of(
        {"edge": (places, edges.reshape(n, -1)), "count": (OPERATORS, edges.sum(axis=1))},
        known=np.ones(n, bool),
    )


def counts(cells: Encoded) -> Floats:
    return cells.group("count")


def law(kind: Floats, rng: np.random.Generator) -> Floats:
    """Costs of one device of a kind: each differs by 10 %, and the whole by its speed."""
    costs: Floats = kind * np.exp(0.1 * rng.normal(size=kind.shape)) * np.exp(rng.normal()) * 1e-2
    return costs


def true_seconds(costs: Floats, cells: Encoded) -> Floats:
    seconds: Floats = costs[0] + counts(cells) @ costs[1:]
    return seconds


def measured(costs: Floats, cells: Encoded, rng: np.random.Generator) -> Floats:
    seconds: Floats = true_seconds(costs, cells) * np.exp(NOISE * rng.normal(size=len(cells)))
    return seconds


def family(kinds: list[Floats], seed: int) -> list[Source[Encoded]]:
    """A source for each kind, each measured on 300 subjects of its own."""
    rng = np.random.default_rng(seed)
    sources = []
    for number, kind in enumerate(kinds):
        cells = random_cells(300, rng)
        sources.append(fit_source(f"device {number}", cells, measured(law(kind, rng), cells, rng)))
    return sources


def error(predicted: Floats, truth: Floats) -> float:
    return float(np.sqrt(np.mean(np.log(predicted / truth) ** 2)))


@pytest.fixture(scope="module")
def sources() -> list[Source[Encoded]]:
    return family([CPU] * 4 + [GPU] * 4, seed=0)


@pytest.fixture(scope="module")
def relatives(sources: list[Source[Encoded]]) -> Relatives[Encoded]:
    return fit_relatives(sources, features=counts, seed=0)


@pytest.fixture(scope="module")
def model(relatives: Relatives[Encoded]) -> TransferModel[Encoded]:
    rng = np.random.default_rng(1)
    cells = random_cells(10, rng)
    return relatives.adapt(cells, measured(law(CPU, rng), cells, rng))


def test_beats_ten_samples_alone_and_the_best_relative(
    relatives: Relatives[Encoded], sources: list[Source[Encoded]]
) -> None:
    """Over twelve new devices the error is below half of that of a model of the ten samples, and
    below that of the one relative, scaled to them, that hindsight finds best."""
    rng = np.random.default_rng(2)
    transferred, alone, best = [], [], []
    for number in range(12):
        costs = law(CPU if number % 2 else GPU, rng)
        seen, unseen = random_cells(10, rng), random_cells(500, rng)
        seconds, truth = measured(costs, seen, rng), true_seconds(costs, unseen)
        transferred.append(error(relatives.adapt(seen, seconds).predict(unseen).median_s, truth))
        alone.append(error(fit_cost_surface(seen, seconds).predict(unseen).median_s, truth))
        scaled = []
        for source in sources:
            speed = np.exp(np.mean(np.log(seconds / source.model.predict(seen).median_s)))
            scaled.append(error(speed * source.model.predict(unseen).median_s, truth))
        best.append(min(scaled))
    assert np.mean(transferred) < np.mean(alone) / 2
    assert np.mean(transferred) < np.mean(best)


def test_strangers_among_the_sources_do_not_hurt(sources: list[Source[Encoded]]) -> None:
    """Two devices of quite another kind add less than a tenth to the error."""
    odd = family([np.array([0.02, 0.3, 0.0, 0.0, 0.0, 0.9])] * 2, seed=3)
    strangers = [
        Source(device=f"odd {n}", subjects=s.subjects, seconds=s.seconds, model=s.model)
        for n, s in enumerate(odd)
    ]
    without = fit_relatives(sources, features=counts, seed=0)
    among = fit_relatives([*sources, *strangers], features=counts, seed=0)
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(8):
        costs = law(CPU, rng)
        seen, unseen = random_cells(10, rng), random_cells(500, rng)
        seconds, truth = measured(costs, seen, rng), true_seconds(costs, unseen)
        errors.append(
            [
                error(one.adapt(seen, seconds).predict(unseen).median_s, truth)
                for one in (without, among)
            ]
        )
    plain, mixed = np.mean(errors, axis=0)
    assert mixed < 1.1 * plain


def test_believes_in_the_right_relatives(model: TransferModel[Encoded]) -> None:
    """What ten samples show is a CPU, so the likeness is to the four CPUs."""
    alike = sum(model.likeness.get(f"device {number}", 0.0) for number in range(4))
    unlike = sum(model.likeness.get(f"device {number}", 0.0) for number in range(4, 8))
    assert alike > 0.6
    assert unlike < 0.05


def test_a_disturbed_measurement_is_outvoted(relatives: Relatives[Encoded]) -> None:
    """One of ten that took twice as long changes predictions by less than 3 %; in a mean of the
    logarithms it would be 7 %."""
    rng = np.random.default_rng(5)
    seen, unseen = random_cells(10, rng), random_cells(200, rng)
    seconds = measured(law(CPU, rng), seen, rng)
    disturbed = seconds.copy()
    disturbed[3] *= 2
    calm, late = (relatives.adapt(seen, s).predict(unseen).median_s for s in (seconds, disturbed))
    assert error(late, calm) < 0.03


def test_intervals_cover_what_they_say(relatives: Relatives[Encoded]) -> None:
    """Over 40 new devices of the family 95 % intervals hold 92 to 99 % of new measurements."""
    rng = np.random.default_rng(6)
    shares = []
    for number in range(40):
        costs = law(CPU if number % 2 else GPU, rng)
        seen, unseen = random_cells(10, rng), random_cells(200, rng)
        model = relatives.adapt(seen, measured(costs, seen, rng))
        shares.append(coverage(measured(costs, unseen, rng), model.predict(unseen)))
    assert 0.92 < np.mean(shares) < 0.99


def test_more_measurements_narrow_it_down(relatives: Relatives[Encoded]) -> None:
    """Forty measurements give a smaller error than five, on the mean of eight devices."""
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(8):
        costs = law(CPU, rng)
        seen, unseen = random_cells(40, rng), random_cells(300, rng)
        seconds, truth = measured(costs, seen, rng), true_seconds(costs, unseen)
        errors.append(
            [
                error(
                    relatives.adapt(seen.take(np.arange(n)), seconds[:n]).predict(unseen).median_s,
                    truth,
                )
                for n in (5, 40)
            ]
        )
    few, many = np.mean(errors, axis=0)
    assert many < few


def test_one_relative_is_enough_to_start(sources: list[Source[Encoded]]) -> None:
    """With a single profile the model is that relative, scaled and a little changed, and its
    intervals are wide as nothing tested them."""
    rng = np.random.default_rng(8)
    costs = law(CPU, rng)
    seen, unseen = random_cells(10, rng), random_cells(300, rng)
    model = fit_transfer_model(
        seen, measured(costs, seen, rng), sources=sources[:1], features=counts, seed=0
    )
    predicted = model.predict(unseen)
    assert error(predicted.median_s, true_seconds(costs, unseen)) < 0.05
    assert coverage(measured(costs, unseen, rng), predicted) > 0.95


def test_says_what_it_does_not_know(model: TransferModel[Encoded]) -> None:
    """Cells with more of an operator than any relative measured are extrapolated, with wider
    intervals; an operator that no relative knows makes a cell unknown, within a factor of ten."""
    rng = np.random.default_rng(9)
    cells = random_cells(3, rng)
    x = cells.x.copy()
    x[1, -2] += 20.0
    strange = Encoded(
        x=x, names=cells.names, groups=cells.groups, known=np.array([True, True, False])
    )
    predicted = model.predict(strange)
    widths = np.log(predicted.high_s / predicted.low_s)
    assert predicted.extrapolated.tolist() == [False, True, True]
    assert [one.origin for one in predicted] == ["predicted", "predicted", "unknown"]
    assert widths[1] > 2 * widths[0]
    assert widths[2] >= 2 * np.log(10) * 0.999


def test_the_same_seed_gives_the_same_model(
    sources: list[Source[Encoded]], relatives: Relatives[Encoded]
) -> None:
    """Prior and interval do not depend on anything but sources and seed."""
    again = fit_relatives(sources, features=counts, seed=0)
    assert again.width == relatives.width
    assert np.array_equal(again.prior.spreads, relatives.prior.spreads)


def test_comes_back_from_a_file(model: TransferModel[Encoded], tmp_path: Path) -> None:
    """Written and read, it predicts the very same seconds and intervals."""
    path = tmp_path / "new.npz"
    write_state(model.to_state(), path)
    again = TransferModel.from_state(
        read_state(path), features=counts, read_model=CostSurface.from_state
    )
    cells = random_cells(50, np.random.default_rng(10))
    first, second = model.predict(cells), again.predict(cells)
    assert np.array_equal(first.median_s, second.median_s)
    assert np.array_equal(first.high_s, second.high_s)
    assert again.likeness == model.likeness


def test_refuses_what_it_cannot_learn_from(relatives: Relatives[Encoded]) -> None:
    """No sources, no measurements, seconds that are not positive, and lengths that differ."""
    cells = random_cells(3, np.random.default_rng(11))
    with pytest.raises(ValueError, match="at least one other device"):
        fit_relatives([], features=counts, seed=0)
    with pytest.raises(ValueError, match="1 to 200 measurements"):
        relatives.adapt(cells.take(np.arange(0)), np.array([]))
    with pytest.raises(ValueError, match="1 to 200 measurements"):
        relatives.adapt(cells, np.ones(2))
    with pytest.raises(ValueError, match="positive and finite"):
        relatives.adapt(cells, np.array([1.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match="positive and finite"):
        fit_source("phone", cells, np.array([1.0, 0.0, 1.0]))


def work(batch: KernelBatch) -> Floats:
    """Multiply-adds and bytes of each kernel, on a logarithmic scale."""
    return np.log1p(batch.work[:, :2])


class Law:
    """A kernel model that knows its device: seconds by the identity of a kernel."""

    def __init__(self, identities: npt.NDArray[np.int64], seconds: Floats) -> None:
        self.identities, self.seconds = identities, seconds

    def predict(self, batch: KernelBatch) -> Predictions:
        known = dict(zip(self.identities.tolist(), self.seconds.tolist(), strict=True))
        log_s = np.log([known[number] for number in batch.identities.tolist()])
        return Predictions.around(log_s, 0.05, origin="predicted")

    def to_state(self) -> State:
        return State(kind="law", arrays={"identities": self.identities, "seconds": self.seconds})


def test_kernels_of_a_new_device_by_the_same_function(
    convolutions: list[Kernel], seconds: Callable[[Kernel], float]
) -> None:
    """Ten kernels of a device of half the speed, of which every start takes 5 us more, give the
    others within 5 %, given two devices' kernel models; the model survives its state."""
    batch = KernelBatch.of(convolutions)
    base = np.array([seconds(kernel) for kernel in convolutions])
    seen, unseen = np.arange(10), np.arange(10, len(convolutions))

    def source(device: str, took: Floats) -> Source[KernelBatch]:
        law = Law(batch.identities, took)
        return Source(device=device, subjects=batch, seconds=took, model=law)

    truth = 2 * base + 5e-6
    model = fit_transfer_model(
        batch.take(seen),
        truth[seen],
        sources=[source("board", base), source("phone", 5 * base + 1e-5)],
        features=work,
        seed=0,
    )
    predicted = model.predict(batch.take(unseen)).median_s
    assert error(predicted, truth[unseen]) < 0.05
    restored = TransferModel.from_state(
        model.to_state(),
        features=work,
        read_model=lambda state: Law(state.array("identities"), state.array("seconds")),
    )
    assert np.allclose(restored.predict(batch.take(unseen)).median_s, predicted)
