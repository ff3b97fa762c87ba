"""Seconds as a sum of costs: relative ridge regression that outliers do not sway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.archive import State
from millifit.latency_models.prediction import Floats

_PENALTIES = (1e-4, 1e-3, 1e-2)
_FOLDS = 5
_REWEIGHTED = 3
_LARGEST_ERROR = 0.5  # of log seconds, in the comparison of candidates
_WORTHWHILE = 0.985  # the error that another group of features has to reach, of that without it
_LOWEST = 0.5  # of the fewest seconds measured: no prediction is below


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """`base_s` plus `per_unit_s` ``[features]`` of standardised features of the chosen groups."""

    groups: tuple[str, ...]
    middle: Floats
    spread: Floats
    base_s: float
    per_unit_s: Floats
    lowest_s: float

    def standardised(self, encoded: Encoded) -> Floats:
        """The chosen features, each with mean 0 and deviation 1 among what was measured."""
        scaled: Floats = (chosen(encoded, self.groups) - self.middle) / self.spread
        return scaled

    def seconds(self, standardised: Floats) -> Floats:
        """The sum of costs ``[n]``, never below `lowest_s`."""
        return np.maximum(self.base_s + standardised @ self.per_unit_s, self.lowest_s)

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        arrays = {"middle": self.middle, "spread": self.spread, "per_unit_s": self.per_unit_s}
        facts = {"groups": list(self.groups), "base_s": self.base_s, "lowest_s": self.lowest_s}
        return State(kind="costs", facts=facts, arrays=arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The costs that `to_state` described; DataError where something of them is missing."""
        return cls(
            groups=tuple(state.fact("groups")),
            middle=state.array("middle", ndim=1),
            spread=state.array("spread", ndim=1),
            base_s=float(state.fact("base_s")),
            per_unit_s=state.array("per_unit_s", ndim=1),
            lowest_s=float(state.fact("lowest_s")),
        )


def chosen(encoded: Encoded, groups: Sequence[str]) -> Floats:
    """The features of some groups side by side: ``[n, features]``."""
    return np.hstack([encoded.group(group) for group in groups])


def fit_costs(encoded: Encoded, seconds: Floats, *, seed: int) -> Costs:
    """Costs from measured `seconds` ``[n]``.

    Errors are relative and count with their square root at most (iteratively reweighted). The
    groups of features are chosen one after the other, and the penalty with them, by the error in
    5-fold cross-validation.
    """
    names = tuple(dict.fromkeys(encoded.groups))
    folds = np.random.default_rng(seed).permutation(len(seconds)) % _FOLDS
    groups: tuple[str, ...] = ()
    best, penalty = np.inf, _PENALTIES[0]
    while len(groups) < len(names):
        tried = []
        for name in names:
            if name not in groups:
                x, _, _ = _standardised(chosen(encoded, (*groups, name)))
                tried += [(_validated(x, seconds, folds, p), p, name) for p in _PENALTIES]
        error, tried_penalty, name = min(tried)
        if error > _WORTHWHILE * best:
            break
        best, penalty, groups = error, tried_penalty, (*groups, name)
    x, middle, spread = _standardised(chosen(encoded, groups))
    solution = _solved(x, seconds, penalty)
    return Costs(
        groups=groups,
        middle=middle,
        spread=spread,
        base_s=float(solution[0]),
        per_unit_s=solution[1:],
        lowest_s=_LOWEST * float(seconds.min()),
    )


def _standardised(x: Floats) -> tuple[Floats, Floats, Floats]:
    middle, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return (x - middle) / spread, middle, spread


def _validated(x: Floats, seconds: Floats, folds: npt.NDArray[np.intp], penalty: float) -> float:
    """The mean error of log seconds on what was left out."""
    lowest = _LOWEST * float(seconds.min())
    errors = np.empty(len(seconds))
    for fold in range(_FOLDS):
        out = folds == fold
        if out.all() or not out.any():
            errors[out] = _LARGEST_ERROR
            continue
        solution = _solved(x[~out], seconds[~out], penalty)
        predicted = np.maximum(solution[0] + x[out] @ solution[1:], lowest)
        errors[out] = np.abs(np.log(predicted / seconds[out]))
    return float(np.minimum(errors, _LARGEST_ERROR).mean())


def _solved(x: Floats, seconds: Floats, penalty: float) -> Floats:
    """Base and costs, `penalty` in units of mean squared relative error per squared deviation."""
    design = np.column_stack([np.ones(len(x)), x])
    middle = float(np.median(seconds))
    ridge = penalty * len(x) * np.eye(design.shape[1])
    ridge[0, 0] = 1e-9
    weights = middle / seconds
    lowest = _LOWEST * float(seconds.min())
    solution = np.zeros(design.shape[1])
    for _ in range(_REWEIGHTED):
        weighted = design * weights[:, None]
        solution = np.linalg.solve(
            weighted.T @ weighted + ridge, weighted.T @ (seconds / middle * weights)
        )
        error = np.abs(np.log(np.maximum(design @ solution * middle, lowest) / seconds))
        ordinary = 1.5 * float(np.median(error)) / 0.6745 + 1e-9
        weights = np.sqrt(np.minimum(1.0, ordinary / np.maximum(error, 1e-12))) * middle / seconds
    return solution * middle
