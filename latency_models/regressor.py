"""Predicting kernels that were never timed, from those of their operator that were."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from millifit.errors import DataError
from millifit.latency_models.features import features, work
from millifit.latency_models.prediction import Floats, Origin, Prediction
from millifit.latency_models.roofline import Roofline, fit_roofline
from millifit.targets.kernel import Kernel

Family = tuple[str, str]  # operator and precision

_FEWEST_FOR_TREES = 8
_FEWEST_FOR_ROOFLINE = 2
_FOLDS = 5
_COVERED = 0.95
# Half-widths of the interval of log seconds, where there are no residuals to take it from.
_FEW_HALF_WIDTH = math.log(2.0)
_UNKNOWN_HALF_WIDTH = math.log(5.0)
_NARROWEST_HALF_WIDTH = 0.02
_LARGEST_LOG_SECONDS = math.log(1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """The model of one operator in one precision: a roofline, and what trees correct of it.

    The trees learn the logarithm of measured over roofline seconds, so that a kernel larger than
    any that was measured still gets more seconds.
    """

    roofline: Roofline
    correction: Any | None  # a scikit-learn regressor; None where the roofline alone is no worse
    half_width: float
    lowest: Floats
    highest: Floats


class KernelModel:
    """Seconds for any kernel of one target, vectorised. Made by `fit_kernel_model`."""

    def __init__(
        self, families: Mapping[Family, _Family], *, pooled: _Family, vector_lanes: int
    ) -> None:
        self._families = families
        self._pooled = pooled
        self._vector_lanes = vector_lanes

    def predict(self, kernels: Sequence[Kernel]) -> list[Prediction]:
        """A prediction for each kernel, in order; ``unknown`` where nothing alike was measured."""
        made: dict[int, Prediction] = {}
        members: dict[Family, list[int]] = {}
        for number, kernel in enumerate(kernels):
            members.setdefault(_family(kernel), []).append(number)
        for family, numbers in members.items():
            chosen = [kernels[number] for number in numbers]
            model = self._families.get(family)
            origin: Origin = "unknown" if model is None else "predicted"
            found = _predict(model or self._pooled, chosen, self._vector_lanes, origin)
            made.update(zip(numbers, found, strict=True))
        return [made[number] for number in range(len(kernels))]


def fit_kernel_model(
    measured: Mapping[Kernel, float], *, vector_lanes: int, seed: int
) -> KernelModel:
    """Learn from measured medians in seconds. The same measurements and seed give the same model.

    A family with at least 8 measurements gets the regressor that cross-validation finds best, and
    an interval from its cross-validated residuals; with at least 2 it gets a roofline of its own;
    any other is predicted from the roofline of all measurements, with a wide interval.

    Raises DataError for seconds that are no positive numbers, or where there are none at all.
    """
    if not measured:
        raise DataError("no kernel was measured: there is nothing to predict from.")
    for kernel, seconds in measured.items():
        if not (math.isfinite(seconds) and seconds > 0):
            raise DataError(
                f"kernel '{kernel.op}' ({kernel.key}) was measured as {seconds} s: measure again."
            )
    # Sorted, so that the order of measuring does not change the folds.
    ordered = sorted(measured, key=lambda kernel: kernel.key)
    groups: dict[Family, list[Kernel]] = {}
    for kernel in ordered:
        groups.setdefault(_family(kernel), []).append(kernel)
    families = {
        family: _fit(members, measured, vector_lanes, seed)
        for family, members in groups.items()
        if len(members) >= _FEWEST_FOR_ROOFLINE
    }
    pooled = _roofline_only(ordered, measured, vector_lanes, _UNKNOWN_HALF_WIDTH)
    return KernelModel(families, pooled=pooled, vector_lanes=vector_lanes)


def _family(kernel: Kernel) -> Family:
    return kernel.op, kernel.precision


def _roofline_only(
    kernels: Sequence[Kernel], measured: Mapping[Kernel, float], lanes: int, half_width: float
) -> _Family:
    x, seconds = features(kernels, vector_lanes=lanes), _seconds(kernels, measured)
    roofline = fit_roofline(work(kernels), seconds)
    residuals = np.abs(np.log(seconds / roofline.seconds(work(kernels))))
    return _Family(
        roofline=roofline,
        correction=None,
        half_width=max(half_width, 2 * float(residuals.max())),
        lowest=x.min(axis=0),
        highest=x.max(axis=0),
    )


def _fit(
    kernels: Sequence[Kernel], measured: Mapping[Kernel, float], lanes: int, seed: int
) -> _Family:
    if len(kernels) < _FEWEST_FOR_TREES:
        return _roofline_only(kernels, measured, lanes, _FEW_HALF_WIDTH)
    x, seconds = features(kernels, vector_lanes=lanes), _seconds(kernels, measured)
    amount = work(kernels)
    candidates = [None, *_regressors(seed)]
    residuals = [_validated(make, x, amount, seconds, seed) for make in candidates]
    best = int(np.argmin([float(np.mean(r**2)) for r in residuals]))
    roofline = fit_roofline(amount, seconds)
    make = candidates[best]
    target = np.log(seconds / roofline.seconds(amount))
    return _Family(
        roofline=roofline,
        correction=None if make is None else make().fit(x, target),
        half_width=_half_width(residuals[best]),
        lowest=x.min(axis=0),
        highest=x.max(axis=0),
    )


def _regressors(seed: int) -> list[Callable[[], Any]]:
    from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor

    return [
        lambda: ExtraTreesRegressor(n_estimators=100, random_state=seed),
        lambda: GradientBoostingRegressor(
            n_estimators=150, learning_rate=0.1, max_depth=3, subsample=0.8, random_state=seed
        ),
    ]


def _validated(
    make: Callable[[], Any] | None, x: Floats, amount: Floats, seconds: Floats, seed: int
) -> Floats:
    """Residuals of log seconds, each from a model that has not seen its kernel: ``[n]``."""
    order = np.random.default_rng(seed).permutation(len(seconds))
    residuals = np.empty(len(seconds))
    for held_out in np.array_split(order, _FOLDS):
        seen = np.setdiff1d(order, held_out)
        roofline = fit_roofline(amount[seen], seconds[seen])
        residual = np.log(seconds / roofline.seconds(amount))
        learnt = 0.0 if make is None else make().fit(x[seen], residual[seen]).predict(x[held_out])
        residuals[held_out] = residual[held_out] - learnt
    return residuals


def _half_width(residuals: Floats) -> float:
    """The quantile of absolute residuals that covers 95 % of new kernels (split conformal).

    With n residuals that is the ceil(0.95 (n + 1))-th smallest; where n is too small for there to
    be one, the largest is stretched by as much.
    """
    ordered = np.sort(np.abs(residuals))
    rank = math.ceil(_COVERED * (len(ordered) + 1))
    stretch = max(1.0, rank / len(ordered))
    chosen = ordered[min(rank, len(ordered)) - 1]
    return max(_NARROWEST_HALF_WIDTH, float(chosen) * stretch)


def _predict(
    model: _Family, kernels: Sequence[Kernel], lanes: int, origin: Origin
) -> list[Prediction]:
    x = features(kernels, vector_lanes=lanes)
    log_seconds = np.log(model.roofline.seconds(work(kernels)))
    if model.correction is not None:
        log_seconds = log_seconds + model.correction.predict(x)
    # Half of the distance to the nearest measured value, in factors of e, widens the interval.
    outside = np.maximum(model.lowest - x, x - model.highest).max(axis=1).clip(min=0)
    half_widths = np.minimum(model.half_width + outside / 2, _LARGEST_LOG_SECONDS)
    return [
        Prediction(
            median_s=math.exp(middle),
            low_s=math.exp(middle - half),
            high_s=math.exp(middle + half),
            origin=origin,
            extrapolated=bool(far > 0),
        )
        for middle, half, far in zip(log_seconds, half_widths, outside, strict=True)
    ]


def _seconds(kernels: Sequence[Kernel], measured: Mapping[Kernel, float]) -> Floats:
    return np.array([measured[kernel] for kernel in kernels], np.float64)
