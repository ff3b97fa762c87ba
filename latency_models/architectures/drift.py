"""Noticing that some rows of a measuring campaign were measured in another state of the device.

Residuals of a model that knows only the architectures are looked at in the order of measuring:
stretches with another level are sections, a level that returns at regular intervals is a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from millifit.latency_models.prediction import Floats

_SHORTEST = 8  # measurements in a section
_SHUFFLES = 99
_MOST_SECTIONS = 64
_WINDOWS = (150, 500, 2000)  # steps that a cycle is expected to keep its phase for
_SHORTEST_PERIOD = 4.0
_NOTABLE_CONTRAST = 1.15  # of the largest among the shuffles
_CYCLE_SHUFFLES = 19
_NOTABLE_SCORE = 1.25
_FINENESS = 16  # points of the spectrum per point of the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Places `first` to `last` in the order of measuring, where log seconds were `shift` off.

    The shift is to the median of all measurements; `rows` are so many of them.
    """

    first: int
    last: int
    shift: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A state that returns every `period` steps, and keeps its phase for about `reach` of them.

    `score` is how much higher its peak is than the highest that noise shows.
    """

    period: float
    reach: float
    score: float


def find_sections(order: Floats, residuals: Floats, *, seed: int) -> tuple[Section, ...]:
    """Sections with levels of their own, in order; a single one where nothing drifted.

    `residuals` ``[n]`` are of log seconds, `order` ``[n]`` their places in the order of measuring.
    A section is divided where the levels to both sides differ well more than they do in 99 shuffles
    of the same residuals (binary segmentation); residuals are clipped, so that no outlier is taken
    for a section.
    """
    by_place = np.argsort(order, kind="stable")
    clipped = _clipped(np.asarray(residuals, np.float64)[by_place])
    rng = np.random.default_rng(seed)
    starts, waiting = [0], [(0, len(clipped))]
    while waiting and len(starts) < _MOST_SECTIONS:
        begin, end = waiting.pop(0)
        cut = _cut(clipped[begin:end], rng)
        if cut is not None:
            starts.append(begin + cut)
            waiting += [(begin, begin + cut), (begin + cut, end)]
    bounds = [*sorted(starts), len(clipped)]
    level = float(np.median(residuals)) if len(clipped) else 0.0
    places = np.asarray(order)[by_place]
    return tuple(
        Section(
            first=int(places[begin]),
            last=int(places[end - 1]),
            shift=float(np.median(np.asarray(residuals)[by_place[begin:end]])) - level,
            rows=end - begin,
        )
        for begin, end in pairwise(bounds)
        if end > begin
    )


def find_cycles(order: Floats, residuals: Floats, *, seed: int) -> tuple[Cycle, ...]:
    """Notable cycles, the most notable first; none in noise.

    The spectrum of the covariance between measurements up to so many steps apart, for a few
    choices of how many (Blackman and Tukey), so that a cycle which loses its phase is found, too.
    Places may be missing: only pairs that are there count. Notable is a peak well above all those
    of 19 shuffles of the same residuals.
    """
    places = np.asarray(order, np.intp) - int(np.min(order))
    clipped = _clipped(np.asarray(residuals, np.float64))
    span = int(places.max()) + 1
    rng = np.random.default_rng(seed)
    observed = _lagged(places, clipped, span)
    shuffled = [_lagged(places, rng.permutation(clipped), span) for _ in range(_CYCLE_SHUFFLES)]
    found = []
    for window in (*(each for each in _WINDOWS if each <= span // 4), span // 2):
        if window < 2 * _SHORTEST_PERIOD:
            continue
        power, periods = _spectrum(observed, window)
        best = int(np.argmax(power))
        highest = max(float(_spectrum(products, window)[0].max()) for products in shuffled)
        score = float(power[best]) / max(highest, 1e-300)
        if score > _NOTABLE_SCORE:
            found.append(Cycle(period=float(periods[best]), reach=float(window), score=score))
    return tuple(sorted(found, key=lambda cycle: -cycle.score))


def _clipped(residuals: Floats) -> Floats:
    centred = residuals - np.median(residuals)
    largest = 3 * np.median(np.abs(centred)) / 0.6745
    clipped: Floats = np.clip(centred, -largest, largest)
    centred_again: Floats = clipped - clipped.mean()
    return centred_again


def _cut(residuals: Floats, rng: np.random.Generator) -> int | None:
    """Where the levels to both sides differ most, if they do."""
    if len(residuals) < 2 * _SHORTEST:
        return None
    left = np.arange(_SHORTEST, len(residuals) - _SHORTEST + 1)
    scale = np.sqrt(left * (len(residuals) - left) / len(residuals))

    def contrasts(values: Floats) -> Floats:
        sums = np.cumsum(values, axis=-1)
        before = sums[..., left - 1]
        after = sums[..., -1:] - before
        difference: Floats = np.abs(before / left - after / (len(residuals) - left)) * scale
        return difference

    found = contrasts(residuals)
    shuffled = rng.permuted(np.tile(residuals, (_SHUFFLES, 1)), axis=1)
    if found.max() <= _NOTABLE_CONTRAST * contrasts(shuffled).max():
        return None
    return int(left[np.argmax(found)])


def _lagged(places: npt.NDArray[np.intp], residuals: Floats, span: int) -> Floats:
    """Sums of products of residuals so many steps apart, from 1 to half of the span."""
    values = np.zeros(span)
    np.add.at(values, places, residuals)
    power = np.abs(np.fft.rfft(values, 2 * span)) ** 2
    products: Floats = np.fft.irfft(power, 2 * span)[1 : span // 2 + 1]
    return products


def _spectrum(products: Floats, window: int) -> tuple[Floats, Floats]:
    """Power of periods from four steps to half of the window, and the periods."""
    tapered = np.zeros(_FINENESS * window)
    tapered[1 : window + 1] = products[:window] * np.hanning(2 * window + 1)[window + 1 :]
    power = np.fft.rfft(tapered).real
    frequencies = np.arange(len(power)) / len(tapered)
    asked = (frequencies >= 2 / window) & (frequencies <= 1 / _SHORTEST_PERIOD)
    return power[asked], 1 / frequencies[asked]
