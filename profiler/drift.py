"""Drift: whether the machine was slower or faster than usual while something was measured.

A few anchor kernels are measured again and again through a run. What makes one of them slower may
be chance; what makes all of them slower by the same share is the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Reading = Mapping[str, float]
"""Median seconds of the anchors, by their keys, at one moment."""

_Floats = npt.NDArray[np.float64]
# Less than this is no drift, whatever the noise: it changes no prediction that is good to 5 %.
_LEAST_SHIFT = 0.03
_SIGMAS = 4.0
_SIGMA_OF_MAD = 1.4826  # of a normal distribution
_MEDIAN_ERROR = math.sqrt(math.pi / 2)  # a median strays by so much more than a mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifts:
    """By which share the machine was slower than usual at every reading, and what is still noise.

    `relative` ``[readings]`` is 0.1 where it was 10 % slower, negative where it was faster.
    """

    relative: tuple[float, ...]
    noise: float

    def calm(self, reading: int) -> bool:
        """Whether a reading is as usual, but for noise."""
        return abs(math.log1p(self.relative[reading])) <= self.noise


def shifts(readings: Sequence[Reading]) -> Shifts:
    """Compare the readings of a run with each other.

    Usual is an anchor's median over all readings (of two, the faster one: disturbances slow down).
    The shift is the median over the anchors of log(seconds / usual); it is noise up to four
    standard errors of such a median, estimated from how the anchors of one reading disagree.
    """
    if not readings:
        return Shifts(relative=(), noise=math.log1p(_LEAST_SHIFT))
    names = sorted({name for reading in readings for name in reading})
    log_s = np.array([[_log(reading.get(name)) for name in names] for reading in readings])
    usual = np.array([_lower_median(column) for column in log_s.T])
    apart = log_s - usual  # [readings, anchors]
    common = np.array([_median(row) for row in apart])
    # A median of few follows each of them, so their distances from it are a little too small.
    freedom = math.sqrt(len(names) / max(1, len(names) - 1))
    sigma = _SIGMA_OF_MAD * freedom * _median(np.abs(apart - common[:, None]).ravel())
    error = _MEDIAN_ERROR * sigma / math.sqrt(max(1, len(names)))
    return Shifts(
        relative=tuple(float(shift) for shift in np.expm1(common)),
        noise=max(math.log1p(_LEAST_SHIFT), _SIGMAS * error),
    )


def slower(reading: Reading, *, than: Reading) -> float | None:
    """By which share one reading is slower than another one: the median over anchors of both."""
    ratios = [reading[name] / than[name] for name in reading.keys() & than.keys()]
    return float(np.median(ratios)) - 1 if ratios else None


def _log(seconds: float | None) -> float:
    return math.nan if seconds is None else math.log(seconds)


def _median(values: _Floats) -> float:
    """The median of those that are numbers; 0 where there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else 0.0


def _lower_median(column: _Floats) -> float:
    known = np.sort(column[~np.isnan(column)])
    return float(known[(len(known) - 1) // 2])
