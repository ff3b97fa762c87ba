"""Which of two precisions is faster: the ratio of their seconds, learnt from both together.

Two models of one precision each err apart from each other, and a ratio has the errors of both. One
perceptron that has the precision as a feature errs alike in both where kernels are alike, which the
ratio does not see, and learns what both have in common from twice the measurements.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.archive import State
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.matern import Singles
from millifit.latency_models.kernels.perceptron import Perceptron, fit_perceptron
from millifit.latency_models.kernels.regressor import KernelModel, fit_kernel_model
from millifit.latency_models.kernels.roofline import Roofline, fit_roofline
from millifit.latency_models.prediction import Floats

_FEWEST = 500  # measurements of an operator in either precision; below, models apart do
_WIDTHS = (256, 128, 64)
_MEMBERS = 6
_WORK_TERMS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedModel:
    """One operator in two precisions: log seconds are the roofline's of each, plus the mean of
    perceptrons that see features and, last, 0 for the first precision and 1 for the second.
    """

    rooflines: tuple[Roofline, Roofline]
    members: tuple[Perceptron, ...]

    def log_ratio(self, first: KernelBatch, second: KernelBatch) -> Floats:
        """Log seconds of the first kernels above those of the second: ``[n]``."""
        return self._log_s(first, 0) - self._log_s(second, 1)

    def _log_s(self, batch: KernelBatch, side: int) -> Floats:
        x = _sided(batch, side)
        learnt = np.mean([member.predict(x) for member in self.members], axis=0)
        log_s: Floats = np.log(self.rooflines[side].seconds(batch.terms)) + learnt
        return log_s

    def to_state(self) -> State:
        """Plain arrays and JSON values; `from_state` is the inverse."""
        return State(
            kind="shared",
            facts={"rates": [list(each.rates) for each in self.rooflines]},
            parts={f"member{n}": member.to_state() for n, member in enumerate(self.members)},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described."""
        first, second = (Roofline(rates=tuple(map(float, rates))) for rates in state.fact("rates"))
        members = range(len(state.parts))
        return cls(
            rooflines=(first, second),
            members=tuple(Perceptron.from_state(state.part(f"member{n}")) for n in members),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonModel:
    """Ratios of two precisions' seconds, by operator. Made by `fit_comparison`.

    An operator with too few measurements in `shared` is compared by `apart`, one model for each.
    """

    shared: Mapping[str, SharedModel]
    apart: tuple[KernelModel, KernelModel]

    def log_ratio(self, first: KernelBatch, second: KernelBatch) -> Floats:
        """The logarithm of the first kernels' seconds over those of the second, pair by pair:
        ``[n]``, negative where the first is faster. ValueError for batches of different length.
        """
        if len(first) != len(second):
            raise ValueError(f"{len(first)} kernels cannot be paired with {len(second)}")
        made = np.full(len(first), np.nan)
        operators, others = _operators(first), _operators(second)
        for operator, model in self.shared.items():
            rows = np.flatnonzero((operators == operator) & (others == operator))
            if rows.size:
                made[rows] = model.log_ratio(first.take(rows), second.take(rows))
        rest = np.flatnonzero(np.isnan(made))
        if rest.size:
            logs = [
                np.log(model.predict(batch.take(rest)).median_s)
                for model, batch in zip(self.apart, (first, second), strict=True)
            ]
            made[rest] = logs[0] - logs[1]
        return made

    def to_state(self) -> State:
        """Plain arrays and JSON values; `from_state` is the inverse."""
        names = list(self.shared)
        return State(
            kind="comparison",
            facts={"operators": names},
            parts={
                "first": self.apart[0].to_state(),
                "second": self.apart[1].to_state(),
                **{f"operator{n}": self.shared[name].to_state() for n, name in enumerate(names)},
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described; DataError where it is none."""
        names = [str(name) for name in state.fact("operators")]
        return cls(
            shared={
                name: SharedModel.from_state(state.part(f"operator{n}"))
                for n, name in enumerate(names)
            },
            apart=(
                KernelModel.from_state(state.part("first")),
                KernelModel.from_state(state.part("second")),
            ),
        )


def fit_comparison(
    first: KernelBatch,
    first_s: Floats,
    second: KernelBatch,
    second_s: Floats,
    *,
    seed: int,
    apart: tuple[KernelModel, KernelModel] | None = None,
) -> ComparisonModel:
    """Learn from measured medians in seconds of kernels in one precision, ``[n]``, and in another,
    ``[m]``, of one target. They need not be the same kernels.

    `apart` are models of each that were fitted before. Raises DataError for seconds that are no
    positive numbers, or where either has none.
    """
    for batch, seconds in ((first, first_s), (second, second_s)):
        if len(batch) != len(seconds) or not (np.isfinite(seconds) & (seconds > 0)).all():
            raise DataError("every kernel needs one latency, a positive number of seconds.")
    if apart is None:
        apart = (
            fit_kernel_model(first, first_s, seed=seed),
            fit_kernel_model(second, second_s, seed=seed),
        )
    operators, others = _operators(first), _operators(second)
    shared = {}
    for operator in sorted(set(operators) & set(others)):
        rows, other = np.flatnonzero(operators == operator), np.flatnonzero(others == operator)
        if min(len(rows), len(other)) >= _FEWEST:
            shared[operator] = _shared(
                first.take(rows), first_s[rows], second.take(other), second_s[other],
                seed=zlib.crc32(f"{seed} {operator}".encode()),
            )  # fmt: skip
    return ComparisonModel(shared=shared, apart=apart)


def _shared(
    first: KernelBatch, first_s: Floats, second: KernelBatch, second_s: Floats, *, seed: int
) -> SharedModel:
    rooflines = (_roofline(first, first_s), _roofline(second, second_s))
    x = np.concatenate([_sided(first, 0), _sided(second, 1)])
    target = np.concatenate(
        [
            np.log(first_s / rooflines[0].seconds(first.terms)),
            np.log(second_s / rooflines[1].seconds(second.terms)),
        ]
    )
    members = (
        fit_perceptron(x, target, seed=seed + number, widths=_WIDTHS) for number in range(_MEMBERS)
    )
    return SharedModel(rooflines=rooflines, members=tuple(members))


def _roofline(batch: KernelBatch, seconds: Floats) -> Roofline:
    return fit_roofline(batch.terms[:, :_WORK_TERMS], seconds)


def _sided(batch: KernelBatch, side: int) -> Singles:
    return np.column_stack([batch.features, np.full(len(batch), side, np.float32)])


def _operators(batch: KernelBatch) -> npt.NDArray[np.str_]:
    """The operator of each kernel, without its precision: ``[n]``."""
    names = np.array([name.rsplit(" ", 1)[0] for name in batch.names] or [""])
    return names[batch.family]
