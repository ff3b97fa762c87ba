"""The columns in which a new device's seconds are linear: relatives, a constant, features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.archive import State
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.model import LatencyModel
from millifit.latency_models.prediction import ORIGINS, Flags, Floats
from millifit.latency_models.transfer.cost_surface import fit_cost_surface

_REFERENCE = 2000  # subjects on which relatives are compared
_UNKNOWN = ORIGINS.index("unknown")


class Subjects(Protocol):
    """What is timed, encoded once: architectures, kernels, networks."""

    def __len__(self) -> int: ...

    def take(self, rows: npt.NDArray[np.intp]) -> Self:
        """Some of the subjects, by number."""
        ...


Batch = TypeVar("Batch", bound=Subjects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Generic[Batch]):
    """The profile of one setting of a device, and a latency model fitted to it.

    Settings of one device (batch sizes, precisions) are sources that share the name `device`.
    """

    device: str
    subjects: Batch
    seconds: Floats
    model: LatencyModel[Batch]


def fit_source(device: str, subjects: Encoded, seconds: Floats) -> Source[Encoded]:
    """A source whose model is a `CostSurface`: for architectures, from a hundred measurements up.

    For kernels, make a `Source` with the kernel model of that device instead.
    """
    return Source(
        device=device,
        subjects=subjects,
        seconds=np.asarray(seconds, np.float64),
        model=fit_cost_surface(subjects, seconds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A batch seen by the basis: columns ``[n, p]``, distances to what was measured ``[n]``, and
    which subjects are unknown to every relative ``[n]``.
    """

    columns: Floats
    outside: Floats
    unknown: Flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis(Generic[Batch]):
    """Columns for any batch: relatives' seconds over their mean, 1, standardised features."""

    devices: tuple[str, ...]
    models: tuple[LatencyModel[Batch], ...]
    features: Callable[[Batch], Floats]
    log_level: Floats  # [m]: mean log seconds of each model on the reference
    mean: Floats  # [f]
    unit: Floats  # [f]
    familiarity: Familiarity

    def evaluate(self, batch: Batch) -> Evaluated:
        """The columns of a batch: ``[n, m + 1 + f]``."""
        predicted = [model.predict(batch) for model in self.models]
        log_s = np.column_stack([np.log(one.median_s) for one in predicted])
        features = (self.features(batch) - self.mean) / self.unit
        return Evaluated(
            columns=np.column_stack(
                [np.exp(log_s - self.log_level), np.ones(len(batch)), features]
            ),
            outside=self.familiarity.outside(features),
            unknown=np.all([one.origin == _UNKNOWN for one in predicted], axis=0),
        )

    def to_state(self) -> State:
        """Plain arrays, and the models as parts; `from_state` is the inverse."""
        parts = {f"source{number}": model.to_state() for number, model in enumerate(self.models)}
        return State(
            kind="transfer basis",
            facts={"devices": list(self.devices)},
            arrays={"log_level": self.log_level, "mean": self.mean, "unit": self.unit},
            parts={**parts, "familiarity": self.familiarity.to_state()},
        )

    @classmethod
    def from_state(
        cls,
        state: State,
        *,
        features: Callable[[Batch], Floats],
        read_model: Callable[[State], LatencyModel[Batch]],
    ) -> Self:
        """The basis that `to_state` described."""
        devices = tuple(map(str, state.fact("devices")))
        return cls(
            devices=devices,
            models=tuple(
                read_model(state.part(f"source{number}")) for number in range(len(devices))
            ),
            features=features,
            log_level=state.array("log_level", ndim=1),
            mean=state.array("mean", ndim=1),
            unit=state.array("unit", ndim=1),
            familiarity=Familiarity.from_state(state.part("familiarity")),
        )


def fit_basis(
    sources: Sequence[Source[Batch]],
    features: Callable[[Batch], Floats],
    rng: np.random.Generator,
) -> tuple[Basis[Batch], Floats]:
    """The basis of some sources, and its columns on a sample of their subjects ``[r, p]``.

    The sample has as many subjects of each source, so that none dominates.
    """
    if not sources:
        raise ValueError("needs the profile of at least one other device")
    models = tuple(source.model for source in sources)
    every = [features(source.subjects) for source in sources]
    stacked = np.vstack([[x.min(axis=0), x.max(axis=0)] for x in every])
    picked = [np.sort(rng.permutation(len(x))[: max(1, _REFERENCE // len(sources))]) for x in every]
    sample = np.vstack([x[rows] for x, rows in zip(every, picked, strict=True)])
    log_s = np.vstack(
        [
            np.column_stack([np.log(model.predict(some).median_s) for model in models])
            for some in (
                source.subjects.take(rows) for source, rows in zip(sources, picked, strict=True)
            )
        ]
    )
    mean, spread = sample.mean(axis=0), sample.std(axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    basis = Basis(
        devices=tuple(source.device for source in sources),
        models=models,
        features=features,
        log_level=log_s.mean(axis=0),
        mean=mean,
        unit=unit,
        familiarity=Familiarity.of((stacked - mean) / unit),
    )
    return basis, _columns(log_s - basis.log_level, (sample - mean) / unit)


def _columns(log_s: Floats, features: Floats) -> Floats:
    return np.column_stack([np.exp(log_s), np.ones(len(log_s)), features])
