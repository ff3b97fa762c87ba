"""What every stage of a run works with, made from a recipe."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from millifit.compress.quantize.calibration import Calibration
from millifit.data import Dataset, Preprocessing, read_dataset
from millifit.errors import UsageError
from millifit.models import load_model
from millifit.pipeline.run_folder import RunFolder
from millifit.profiler.store import Store, default_store_path
from millifit.progress import Progress
from millifit.recipe import Recipe
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.lower import lower
from millifit.targets.network import Array, Network
from millifit.targets.program import Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.runner.network_timing import NetworkTimer
from millifit.targets.target import Target
from millifit.targets.timing import KernelTimer

# What does not change the outcome of a run, or may change between its parts.
_NOT_IDENTITY = ("run", "store", "trials", "device", "device_token_file", "device_ca")


class Timer(KernelTimer, NetworkTimer, Protocol):
    """The device of a run: times kernels and networks, and runs bundles."""

    @property
    def contenders(self) -> frozenset[str]:
        """The kinds of `Contender` that it can time."""
        ...

    def outputs(self, bundle: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
        """The first output of a bundle for every sample ``[N, *sample]``, computed on the device.

        Shape ``[N, ...]``; `on_sample` is called after each. Raises BundleError for a bundle that
        is damaged or for another device.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The values and tools of one run."""

    recipe: Recipe
    folder: RunFolder
    network: Network
    dataset: Dataset
    calibration: Calibration
    target: Target
    store: Store
    timer: Timer
    progress: Progress
    choices: Mapping[Kernel, Choice] = field(default_factory=dict)  # of tuned kernels

    def lower(self, network: Network) -> Program:
        """A network's program on the target, its kernels scheduled as tuning chose."""
        return lower(network, self.target).with_choices(self.choices)

    @property
    def cores(self) -> int:
        """Cores to compute with where nothing is being timed."""
        return usable_cores()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that a part of the run took to ``stages.json``."""
        began = time.perf_counter()
        yield
        stages: dict[str, float] = self.folder.read("stages.json") or {}
        stages[name] = stages.get(name, 0.0) + time.perf_counter() - began
        self.folder.write("stages.json", stages)


def usable_cores() -> int:
    """Cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """All that decides the outcome of a run: recipe, content of the model file, code versions."""
    settings = recipe.model_dump(mode="json")
    for name in _NOT_IDENTITY:
        del settings[name]
    path = Path(recipe.model or "")
    if recipe.model and path.is_file():
        with path.open("rb") as file:
            settings["model_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return {**settings, "versions": code_versions()}


def open_store(path: str | None) -> Store:
    """The store named, or the user's own."""
    return Store(Path(path) if path else default_store_path())


def workbench(
    recipe: Recipe, folder: RunFolder, timer: Timer, target: Target, progress: Progress
) -> Workbench:
    """Load model and data of a recipe. The network is kept in the run folder as baseline.onnx."""
    if recipe.demo:
        network, dataset = _demo(recipe, folder, progress)
    else:
        network = _kept(folder, lambda: _load(recipe), name=_model_name(recipe))
        dataset = load_data(recipe, network)
    return Workbench(
        recipe=recipe,
        folder=folder,
        network=network,
        dataset=dataset,
        calibration=Calibration(network, dataset.calibration.x, threads=usable_cores()),
        target=target,
        store=open_store(recipe.store),
        timer=timer,
        progress=progress,
    )


def _kept(folder: RunFolder, make: Callable[[], Network], *, name: str) -> Network:
    path = folder.path / "baseline.onnx"
    if not path.exists():
        write_network(make(), path)
    return simplify(read_network(path)).replace(name=name)


def _model_name(recipe: Recipe) -> str:
    """The name of the file or of the function that the model comes from."""
    spec = recipe.model or ""
    return spec.rpartition(":")[2] if ":" in spec and not Path(spec).exists() else Path(spec).stem


def _load(recipe: Recipe) -> Network:
    if recipe.model is None:
        raise UsageError("name a model: an ONNX file or module:function")
    return load_model(recipe.model, input_shape=recipe.input_shape).network


def _demo(recipe: Recipe, folder: RunFolder, progress: Progress) -> tuple[Network, Dataset]:
    from millifit import demo

    dataset = demo.digits_dataset(seed=recipe.seed)

    def train() -> Network:
        from millifit.models import from_module

        module = demo.train_digits_network(dataset, seed=recipe.seed, progress=progress)
        return from_module(module, demo.example(), name="digits")

    return _kept(folder, train, name="digits"), dataset


def load_data(recipe: Recipe, network: Network) -> Dataset:
    """The recipe's data set, shaped for the network. UsageError where it names none."""
    if recipe.data is None:
        raise UsageError(
            "name the data to calibrate and validate with: --data FILE, FOLDER or module:function"
        )
    return read_dataset(
        recipe.data,
        sample_shape=network.types[network.inputs[0]].shape[1:],
        preprocessing=preprocessing_of(recipe.mean, recipe.std),
        calibration=recipe.calibration,
        classes=classes_of(network),
        seed=recipe.seed,
    )


def preprocessing_of(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Preprocessing:
    """Flags as a value; one number stands for all channels."""
    return Preprocessing(mean=_scalar(mean, 0.0), std=_scalar(std, 1.0))


def _scalar(values: tuple[float, ...] | None, default: float) -> float | tuple[float, ...]:
    if values is None:
        return default
    return values[0] if len(values) == 1 else values


def classes_of(network: Network) -> int | None:
    """The number of classes of a classifier ([N, classes]); None for other outputs."""
    shape = network.types[network.outputs[0]].shape
    return shape[1] if len(shape) == 2 else None


def sample_input(dataset: Dataset) -> Any:
    """One input ``(1, *sample)`` to time networks with."""
    return dataset.validation.x[:1]


def plain_interval(median: float, low: float, high: float, n: int | None = None) -> dict[str, Any]:
    """An interval as result.json has it."""
    plain: dict[str, Any] = {"median": median, "low": low, "high": high}
    return plain if n is None else {**plain, "n": n}
