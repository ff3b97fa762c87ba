"""The model of one family of kernels: a roofline, what corrects it, and how far that may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.kernels.error_size import ErrorSize, fit_error_size
from millifit.latency_models.kernels.features import EXTENTS, PLAIN
from millifit.latency_models.kernels.matern import Process, Singles, fit_process
from millifit.latency_models.kernels.perceptron import Perceptron, fit_perceptron
from millifit.latency_models.kernels.roofline import Roofline, fit_roofline
from millifit.latency_models.kernels.trees import Trees, fit_trees
from millifit.latency_models.prediction import Flags, Floats

FEWEST_FOR_REGRESSION = 8
FEWEST_FOR_ROOFLINE = 2
_FEWEST_FOR_ALL_TERMS = 32
_FEWEST_FOR_TREES = 48
_MOST_FOR_TREES = 1000
_MOST_FOR_PROCESS = 1500
_SIMPLE_TERMS = 3
_FOLDS = 5
_HELD_OUT_SHARE = 5  # every fifth kernel, where there are thousands
_FEW_HALF_WIDTH = math.log(2.0)  # of log seconds, where there are no errors to take it from
_NARROWEST_HALF_WIDTH = 0.02
# Trees cost ten times as much as the rest; they must leave this much less of the error.
_WORTHWHILE = 0.98
_ODD_ERROR = 0.3  # of log seconds: larger errors are of odd measurements, and count as this
_WIDENING = 0.5  # half-width per factor of e outside of what was measured

Smooth = Process | Perceptron


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyModel:
    """Log seconds are the roofline's, plus a mean of what `smooth` and `trees` learnt of measured
    over roofline seconds, so that a kernel larger than any that was measured still gets more.

    `half_width` is of the interval of log seconds: in units of the size of each error, which is
    `size`'s, or the process's deviation where `scaled` says so, or 1.
    """

    roofline: Roofline
    smooth: Smooth | None
    trees: Trees | None
    size: ErrorSize | None
    scaled: bool
    half_width: float
    known: Familiarity

    def predict(self, x: Singles, terms: Floats) -> tuple[Floats, Floats, Flags]:
        """Log seconds, half-widths of their intervals, and whether the kernels lie outside of what
        was measured, for features ``[n, features]`` and terms ``[n, 8]``: ``[n]`` each.
        """
        log_s = np.log(self.roofline.seconds(terms))
        scale: Floats | float = 1.0
        if isinstance(self.smooth, Perceptron):
            log_s += self.smooth.predict(x[:, : len(self.smooth.least)])
        elif self.smooth is not None:
            correction, deviation = self.smooth.predict(x)
            scale = deviation if self.scaled else 1.0
            if self.trees is not None:
                correction = (correction + self.trees.predict(x)) / 2
            log_s += correction
        if self.size is not None:
            scale = self.size.predict(x[:, :PLAIN])
        outside = _outside(self.known, x)
        half = np.maximum(self.half_width * scale, _NARROWEST_HALF_WIDTH)
        return log_s, half + _WIDENING * outside, outside > 0

    def to_state(self) -> State:
        """Plain arrays and JSON values; `from_state` is the inverse."""
        optional = {"smooth": self.smooth, "trees": self.trees, "size": self.size}
        parts = {name: part.to_state() for name, part in optional.items() if part is not None}
        return State(
            kind="family",
            facts={
                "rates": list(self.roofline.rates),
                "scaled": self.scaled,
                "half_width": self.half_width,
            },
            parts={"known": self.known.to_state(), **parts},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described."""
        parts = state.parts
        smooth: Smooth | None = None
        if "smooth" in parts:
            of = Perceptron if parts["smooth"].kind == "perceptron" else Process
            smooth = of.from_state(parts["smooth"])
        return cls(
            roofline=Roofline(rates=tuple(float(rate) for rate in state.fact("rates"))),
            smooth=smooth,
            trees=Trees.from_state(parts["trees"]) if "trees" in parts else None,
            size=ErrorSize.from_state(parts["size"]) if "size" in parts else None,
            scaled=bool(state.fact("scaled")),
            half_width=float(state.fact("half_width")),
            known=Familiarity.from_state(state.part("known")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFamily:
    """A model, and errors of log seconds ``[n]`` on its kernels by models that had not seen them;
    NaN where there is none.
    """

    model: FamilyModel
    held_out: Floats


def roofline_family(
    x: Singles, terms: Floats, seconds: Floats, *, least_half_width: float = _FEW_HALF_WIDTH
) -> FittedFamily:
    """A roofline alone, of few or of different kernels, with a wide interval."""
    roofline = fit_roofline(terms[:, :_SIMPLE_TERMS], seconds)
    errors = np.log(seconds / roofline.seconds(terms))
    model = FamilyModel(
        roofline=roofline,
        smooth=None,
        trees=None,
        size=None,
        scaled=False,
        half_width=max(least_half_width, 2 * float(np.abs(errors).max())),
        known=Familiarity.of(_extents(x)),
    )
    return FittedFamily(model=model, held_out=np.full(len(seconds), np.nan))


def fit_family(x: Singles, terms: Floats, seconds: Floats, *, seed: int) -> FittedFamily:
    """Learn the kernels of one family; the more there are, the more flexible the model.

    From 8 kernels a Gaussian process corrects the roofline, from 48 together with trees where they
    help, above 1500 a perceptron.
    """
    if len(seconds) < FEWEST_FOR_REGRESSION:
        return roofline_family(x, terms, seconds)
    some = _FEWEST_FOR_ALL_TERMS <= len(seconds) <= _MOST_FOR_PROCESS
    kinds = terms.shape[1] if some else _SIMPLE_TERMS
    roofline = fit_roofline(terms[:, :kinds], seconds)
    target = np.log(seconds / roofline.seconds(terms))
    if len(seconds) > _MOST_FOR_PROCESS:
        return _by_perceptron(x, target, roofline, seed)
    return _by_process(x, target, roofline, seed)


def _by_process(x: Singles, target: Floats, roofline: Roofline, seed: int) -> FittedFamily:
    n = len(target)
    blind = _held_out(x, target, seed)
    errors, process = target - blind.process, _process(x, target, seed)
    trees = None
    if _typical(target - blind.both) < _WORTHWHILE * _typical(errors):
        errors, trees = target - blind.both, fit_trees(x, target, seed=seed)
    # Rates of the roofline were fitted to these kernels, too.
    errors = errors * math.sqrt(n / (n - _SIMPLE_TERMS))
    constant = half_width(errors)
    scaled = half_width(errors, scale=blind.deviation)
    better = scaled * float(blind.deviation.mean()) < constant
    model = FamilyModel(
        roofline=roofline,
        smooth=process,
        trees=trees,
        size=None,
        scaled=better,
        half_width=scaled if better else constant,
        known=Familiarity.of(_extents(x)),
    )
    return FittedFamily(model=model, held_out=errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blind:
    """What a process, and its mean with trees, say of each row that have not seen it: ``[n]``."""

    process: Floats
    deviation: Floats
    both: Floats


def _held_out(x: Singles, target: Floats, seed: int) -> _Blind:
    n = len(target)
    process, deviation, trees = np.empty(n), np.empty(n), np.full(n, np.nan)
    order = np.random.default_rng(seed).permutation(n)
    for fold in np.array_split(order, _FOLDS):
        seen = np.setdiff1d(order, fold)
        process[fold], deviation[fold] = _process(x[seen], target[seen], seed).predict(x[fold])
        if _FEWEST_FOR_TREES <= n <= _MOST_FOR_TREES:
            trees[fold] = fit_trees(x[seen], target[seen], seed=seed).predict(x[fold])
    both = np.where(np.isfinite(trees), (process + trees) / 2, np.inf)
    return _Blind(process=process, deviation=deviation, both=both)


def _process(x: Singles, target: Floats, seed: int) -> Process:
    return fit_process(x, target, rng=np.random.default_rng(seed))


def _by_perceptron(x: Singles, target: Floats, roofline: Roofline, seed: int) -> FittedFamily:
    """The errors are those of a perceptron that has not seen every fifth kernel."""
    known, x = Familiarity.of(_extents(x)), x[:, :PLAIN]
    held_out = np.arange(len(target)) % _HELD_OUT_SHARE == seed % _HELD_OUT_SHARE
    blind = fit_perceptron(x[~held_out], target[~held_out], seed=seed)
    errors = np.full(len(target), np.nan)
    errors[held_out] = target[held_out] - blind.predict(x[held_out])
    size = fit_error_size(x[held_out], errors[held_out])
    model = FamilyModel(
        roofline=roofline,
        smooth=fit_perceptron(x, target, seed=seed),
        trees=None,
        size=size,
        scaled=False,
        half_width=half_width(errors[held_out], scale=size.predict(x[held_out])),
        known=known,
    )
    return FittedFamily(model=model, held_out=errors)


def _extents(x: Singles) -> Floats:
    return x[:, :EXTENTS].astype(np.float64)


def _outside(known: Familiarity, x: Singles) -> Floats:
    """`Familiarity.outside` of extents, which looks at columns that no row leaves but once."""
    extents = x[:, :EXTENTS]
    if not len(x):
        return np.zeros(0)
    left = np.flatnonzero(
        (extents.min(axis=0) < known.lowest) | (extents.max(axis=0) > known.highest)
    )
    if not left.size:
        return np.zeros(len(x))
    some = Familiarity(lowest=known.lowest[left], highest=known.highest[left])
    return some.outside(extents[:, left].astype(np.float64))


def _typical(errors: Floats) -> float:
    return float(np.minimum(np.abs(errors), _ODD_ERROR).mean())
