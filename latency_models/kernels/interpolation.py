"""Interpolation between measured kernels that differ in one dimension only.

Along such a line a trend (a regressor's, or none) is off by much the same. So what is interpolated,
linearly in the logarithms, is by how much the trend was off at the two measured neighbours, times a
share that is learnt. Everything is decided by leaving out: each measured kernel is predicted from
its neighbours on either side, its trend from a model that had not seen it. An axis that does not
bring a family of kernels nearer to the truth is not used for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.latency_models.archive import Array, State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.kernels.coordinates import (
    AXES,
    CHANNEL_AXES,
    Axis,
    Coordinates,
    Hashes,
    Integers,
)
from millifit.latency_models.kernels.lines import Indices, Lines, Neighbours, interpolated
from millifit.latency_models.prediction import Flags, Floats

_FEWEST = 8  # kernels with two neighbours, for an axis to be judged
_GAIN = 0.98  # of the mean error, that an axis has to leave at most
_NOISE = 0.02  # by which measured neighbours may be off when they are taken as bounds
_UNJUDGED_HALF_WIDTH = float(np.log(2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measured kernels, and what a trend made of each of them while it had not seen it.

    `log_s` and `trend_log_s` are ``[n]``, natural logarithms of seconds; without a trend the latter
    is None.
    """

    coordinates: Coordinates
    log_s: Floats
    trend_log_s: Floats | None = None

    @property
    def off(self) -> Floats:
        """Log seconds above the trend: ``[n]``."""
        return self.log_s if self.trend_log_s is None else self.log_s - self.trend_log_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Uses:
    """How an axis is used, by family: all ``[families]``.

    A `share` of the neighbours' deviation is believed; 0 where the axis is of no use. With `lanes`
    above 1, sizes count in whole vectors, as packed channels do: latency is a staircase then. With
    `bounded` the neighbours' seconds are bounds. `error` is the mean error of log seconds left.
    """

    share: Floats
    lanes: Integers
    bounded: Flags
    error: Floats

    @classmethod
    def none(cls, families: int) -> Self:
        """No family uses the axis."""
        return cls(
            share=np.zeros(families), lanes=np.ones(families, np.int64),
            bounded=np.zeros(families, bool), error=np.ones(families),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interpolation:
    """Corrects a trend between measured neighbours. Made by `fit_interpolation`.

    `families` are ascending. `widths` are half-widths of the interval of log seconds; with a trend,
    what is left of the trend's own half-width instead.
    """

    measured: Coordinates
    log_s: Floats
    off: Floats
    trusted: bool
    families: Hashes
    uses: Mapping[Axis, Uses]
    widths: Floats
    lines: Mapping[Axis, Lines]

    def correct(self, asked: Coordinates, trend_log_s: Floats) -> tuple[Floats, Indices]:
        """Log seconds ``[n]``, and the family of what was interpolated (-1: it was not): ``[n]``.

        What lies between no two measured kernels keeps its trend.
        """
        log_s, family = trend_log_s.copy(), np.full(len(trend_log_s), -1, np.intp)
        in_use = self._in_use[_places(self.families, asked.families)]
        rows = np.flatnonzero(in_use)  # others need not be looked for on any line
        if rows.size:
            asked = asked if in_use.all() else asked.take(rows)
            found = {axis: lines.between(asked) for axis, lines in self.lines.items()}
            log_s[rows], family[rows] = _corrected(self, found, asked.families, trend_log_s[rows])
        return log_s, family

    @property
    def _in_use(self) -> Flags:
        """Whether any axis is of use to a family; last, where -1 points to, to an unknown one."""
        in_use = np.zeros(len(self.families) + 1, bool)
        for axis in self.lines:
            in_use[:-1] |= self.uses[axis].share > 0
        return in_use

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        arrays: dict[str, Array] = {"log_s": self.log_s, "off": self.off, "families": self.families}
        arrays["widths"] = self.widths
        for axis, uses in self.uses.items():
            arrays[f"{axis}.share"], arrays[f"{axis}.lanes"] = uses.share, uses.lanes
            arrays[f"{axis}.bounded"], arrays[f"{axis}.error"] = uses.bounded, uses.error
        return State(
            kind="interpolation",
            facts={"trusted": self.trusted},
            arrays=arrays,
            parts={"measured": self.measured.to_state()},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The interpolation that `to_state` described."""
        measured = Coordinates.from_state(state.part("measured"))
        uses = {
            axis: Uses(
                share=state.array(f"{axis}.share", ndim=1),
                lanes=state.array(f"{axis}.lanes", ndim=1),
                bounded=state.array(f"{axis}.bounded", ndim=1),
                error=state.array(f"{axis}.error", ndim=1),
            )
            for axis in AXES
        }
        return cls(
            measured=measured,
            log_s=state.array("log_s", ndim=1),
            off=state.array("off", ndim=1),
            trusted=bool(state.fact("trusted")),
            families=state.array("families", ndim=1),
            uses=uses,
            widths=state.array("widths", ndim=1),
            lines=_used_lines(measured, uses),
        )


def fit_interpolation(known: Measured, *, vector_lanes: int) -> Interpolation:
    """Learn, family by family, which axes interpolate better than the trend; deterministic."""
    measured, trusted = known.coordinates, known.trend_log_s is not None
    families, family = np.unique(measured.families, return_inverse=True)
    left_out, uses = {}, {}
    for axis in AXES:
        lines = Lines.of(measured, axis)
        left_out[axis] = lines.left_out()
        uses[axis] = _judged(axis, left_out[axis], known, family, len(families), vector_lanes)
    made = Interpolation(
        measured=measured, log_s=known.log_s, off=known.off, trusted=trusted, families=families,
        uses=uses, widths=np.ones(len(families)), lines=_used_lines(measured, uses),
    )  # fmt: skip
    return _with_widths(made, left_out, known)


def _used_lines(measured: Coordinates, uses: Mapping[Axis, Uses]) -> dict[Axis, Lines]:
    return {axis: Lines.of(measured, axis) for axis in AXES if uses[axis].share.any()}


def _judged(
    axis: Axis, found: Neighbours, known: Measured, family: Indices, families: int, lanes: int
) -> Uses:
    uses = Uses.none(families)
    places = known.coordinates.places(axis)
    for number in np.unique(family[found.asked]):
        of = found.take(family[found.asked] == number)
        _judge(uses, int(number), of, places, known, lanes if axis in CHANNEL_AXES else 1)
    return uses


def _judge(
    uses: Uses, number: int, found: Neighbours, places: Integers, known: Measured, lanes: int
) -> None:
    """Set a family's use of an axis, from its kernels that were left out one after the other."""
    trusted = known.trend_log_s is not None
    if trusted and len(found.asked) < _FEWEST:
        return
    off, log_s = known.off, known.log_s
    truth = off[found.asked]
    limit = _GAIN * _error(truth) if trusted else np.inf
    for width in sorted({1, lanes}):
        made = interpolated(off, found, places, lanes=width)
        share = _share(made, truth) if trusted else 1.0
        error = _error(truth - share * made)
        if share > 0 and error < limit:
            limit = error
            uses.share[number], uses.lanes[number], uses.error[number] = share, width, error
    if trusted and uses.share[number] > 0:
        made = interpolated(off, found, places, lanes=int(uses.lanes[number]))
        guess = log_s[found.asked] - truth + uses.share[number] * made
        bounded = _error(log_s[found.asked] - np.clip(guess, *_bounds(log_s, found)))
        if bounded < _GAIN * limit:
            uses.bounded[number], uses.error[number] = True, bounded


def _corrected(
    model: Interpolation, found: Mapping[Axis, Neighbours], families: Hashes, trend_log_s: Floats
) -> tuple[Floats, Indices]:
    """The trend, corrected along every axis in use; axes weigh by their inverse variance."""
    n = len(trend_log_s)
    family = _places(model.families, families)
    total, weights = np.zeros(n), np.zeros(n)
    lowest, highest = np.full(n, -np.inf), np.full(n, np.inf)
    for axis, between in found.items():
        uses, of = model.uses[axis], family[between.asked]
        used = np.flatnonzero((of >= 0) & (uses.share[of] > 0))
        between, of = between.take(used), of[used]
        places = model.measured.places(axis)
        made = uses.share[of] * interpolated(model.off, between, places, lanes=uses.lanes[of])
        weight = 1 / np.maximum(uses.error[of], _NOISE) ** 2
        total[between.asked] += weight * made
        weights[between.asked] += weight
        low, high = _bounds(model.log_s, between)
        rows, bounded = between.asked, uses.bounded[of]
        lowest[rows] = np.maximum(lowest[rows], np.where(bounded, low, -np.inf))
        highest[rows] = np.minimum(highest[rows], np.where(bounded, high, np.inf))
    touched = weights > 0
    trend = trend_log_s if model.trusted else np.where(touched, 0.0, trend_log_s)
    made = trend + total / np.where(touched, weights, 1)
    # Bounds of two axes may contradict each other: then none of them says anything.
    apart = lowest <= highest
    made = np.where(apart, np.clip(made, lowest, np.maximum(lowest, highest)), made)
    return made, np.where(touched, family, -1)


def _with_widths(
    model: Interpolation, left_out: Mapping[Axis, Neighbours], known: Measured
) -> Interpolation:
    found = {axis: left_out[axis] for axis in model.lines}
    trend = known.log_s if known.trend_log_s is None else known.trend_log_s
    made, family = _corrected(model, found, model.measured.families, trend)
    widths = np.full(len(model.families), 1.0 if model.trusted else _UNJUDGED_HALF_WIDTH)
    for number in np.unique(family[family >= 0]):
        rows = np.flatnonzero(family == number)
        if len(rows) >= _FEWEST:
            width = half_width(known.log_s[rows] - made[rows])
            if model.trusted:
                width = min(1.0, width / max(half_width(known.off[rows]), _NOISE))
            widths[number] = width
    return Interpolation(
        measured=model.measured, log_s=model.log_s, off=model.off, trusted=model.trusted,
        families=model.families, uses=model.uses, widths=widths, lines=model.lines,
    )  # fmt: skip


def _places(known: Hashes, asked: Hashes) -> Indices:
    """Where each hash stands among the ascending known ones; -1 where it does not."""
    if not len(known):
        return np.full(len(asked), -1, np.intp)
    place = np.searchsorted(known, asked).clip(max=len(known) - 1)
    found: Indices = np.where(known[place] == asked, place, -1)
    return found


def _bounds(log_s: Floats, found: Neighbours) -> tuple[Floats, Floats]:
    """Log seconds that what lies in between is not below, and not above: ``[k]`` each."""
    below, above = log_s[found.below], log_s[found.above]
    return np.minimum(below, above) - _NOISE, np.maximum(below, above) + _NOISE


def _error(residuals: Floats) -> float:
    return float(np.abs(residuals).mean())


def _share(made: Floats, truth: Floats) -> float:
    """How much of `made` is to be believed, by least squares: 0 to 1."""
    size = float(made @ made)
    return min(1.0, max(0.0, float(made @ truth) / size)) if size else 0.0
