"""Ranges of activations, found by running the network on calibration data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from millifit.compress.evaluate import Floats, activations
from millifit.compress.quantize.placement import place
from millifit.errors import DataError, ModelError
from millifit.targets.network import Network

CalibrationMethod = Literal["min_max", "percentile", "mse"]

_BINS = 2048
_LEVELS = 255
# So many values of each sample's map enter the histogram; all of them enter minimum and maximum.
_SAMPLED = 16384
_SMALLEST_SCALE = 1e-12
# Fractions of the full range that the search for the least squared error tries.
_SHRINK = np.geomspace(1.0, 0.05, 96)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The values that 8 unsigned bits stand for: ``low <= 0 <= high``, so that zero is exact."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"a range must be finite, got {self.low}..{self.high}")
        if not self.low <= 0 <= self.high:
            raise ValueError(f"a range must contain 0, got {self.low}..{self.high}")

    @property
    def scale(self) -> np.float32:
        """The real value of one step; 1 where the range is empty."""
        width = self.high - self.low
        return np.float32(max(width / _LEVELS, _SMALLEST_SCALE) if width else 1.0)

    @property
    def zero_point(self) -> int:
        """The integer 0..255 that stands for 0."""
        return int(np.clip(np.rint(-self.low / float(self.scale)), 0, _LEVELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often values of a tensor fall into equal bins over ``[low, high]``; counts ``[bins]``."""

    low: float
    high: float
    counts: npt.NDArray[np.int64]

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of each bin."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def calibrate(
    network: Network,
    x: Floats,
    *,
    method: CalibrationMethod = "mse",
    percentile: float = 99.99,
    threads: int = 1,
) -> dict[str, Range]:
    """The range of every activation that any plan may quantize, from the fp32 network on `x`.

    ``x: [N, *sample]``. "min_max" takes all values seen, "percentile" cuts both tails (but never
    0), "mse" takes the range with the least squared rounding and clipping error. See `histograms`
    for the errors.
    """
    found = histograms(network, x, threads=threads)
    return {
        tensor: choose_range(histogram, method=method, percentile=percentile)
        for tensor, histogram in found.items()
    }


def histograms(network: Network, x: Floats, *, threads: int = 1) -> dict[str, Histogram]:
    """The histogram of every activation that any plan may quantize.

    Two passes over ``x: [N, *sample]``: extremes first, then counts. DataError for data that is
    empty or not finite; ModelError naming the first node whose output is not finite.
    """
    if not len(x):
        raise DataError("there is no calibration data; give at least one sample")
    if not np.isfinite(x).all():
        raise DataError("the calibration data has values that are NaN or infinite")
    placement = place(network, {layer.name: "int8" for layer in network.layers})
    tensors = tuple(dict.fromkeys(placement.range_of.values()))
    extremes = _extremes(network, x, tensors, threads)
    counts = _counts(network, x, extremes, threads)
    return {
        t: Histogram(low=extremes[t][0], high=extremes[t][1], counts=counts[t]) for t in tensors
    }


def choose_range(
    histogram: Histogram, *, method: CalibrationMethod, percentile: float = 99.99
) -> Range:
    """The range that a method reads from a histogram."""
    match method:
        case "min_max":
            return Range(low=histogram.low, high=histogram.high)
        case "percentile":
            return _percentile_range(histogram, percentile)
        case "mse":
            return _least_squares_range(histogram)


def _extremes(
    network: Network, x: Floats, tensors: tuple[str, ...], threads: int
) -> dict[str, tuple[float, float]]:
    low, high = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    for chunk in activations(network, x, tensors, threads=threads):
        for tensor, values in chunk.items():
            # Unlike Python's, NumPy's minimum and maximum pass NaN on.
            low[tensor] = float(np.minimum(low[tensor], values.min()))
            high[tensor] = float(np.maximum(high[tensor], values.max()))
    producers = network.producers()
    for tensor in tensors:
        if not (math.isfinite(low[tensor]) and math.isfinite(high[tensor])):
            node = producers[tensor].name
            raise ModelError(
                f"node '{node}' of '{network.name}' makes NaN or infinite values of the "
                f"calibration data (tensor '{tensor}'); check the preprocessing and the weights"
            )
    return {tensor: (low[tensor], high[tensor]) for tensor in tensors}


def _counts(
    network: Network, x: Floats, extremes: Mapping[str, tuple[float, float]], threads: int
) -> dict[str, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    places = {}
    for tensor in extremes:
        size = network.types[tensor].elements // network.types[tensor].shape[0]
        places[tensor] = rng.permutation(size)[:_SAMPLED] if size > _SAMPLED else slice(None)
    counts = {tensor: np.zeros(_BINS, dtype=np.int64) for tensor in extremes}
    for chunk in activations(network, x, tuple(extremes), threads=threads):
        for tensor, values in chunk.items():
            low, high = extremes[tensor]
            sampled = values.reshape(len(values), -1)[:, places[tensor]].reshape(-1)
            scaled = (sampled.astype(np.float64) - low) * (_BINS / max(high - low, 1e-300))
            bins = np.clip(scaled, 0, _BINS - 1).astype(np.int64)
            counts[tensor] += np.bincount(bins, minlength=_BINS)
    return counts


def _percentile_range(histogram: Histogram, percentile: float) -> Range:
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must be above 50 and at most 100, got {percentile}")
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    cumulative = np.cumsum(histogram.counts) / max(int(histogram.counts.sum()), 1)
    tail = 1 - percentile / 100
    first = int(np.searchsorted(cumulative, tail, side="right"))
    last = int(np.searchsorted(cumulative, 1 - tail, side="left"))
    last = min(last, len(histogram.counts) - 1)
    return Range(low=min(0.0, float(edges[first])), high=max(0.0, float(edges[last + 1])))


def _least_squares_range(histogram: Histogram) -> Range:
    """Shrink the two ends in turn until neither moves."""
    low, high = histogram.low, histogram.high
    for _ in range(4):
        before = low, high
        highs = histogram.high * _SHRINK
        high = float(highs[np.argmin(_squared_error(histogram, np.full_like(highs, low), highs))])
        lows = histogram.low * _SHRINK
        low = float(lows[np.argmin(_squared_error(histogram, lows, np.full_like(lows, high)))])
        if (low, high) == before:
            break
    return Range(low=min(low, 0.0), high=max(high, 0.0))


def _squared_error(
    histogram: Histogram, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Summed squared error of the histogram's values under each candidate range; ``[C]``."""
    used = histogram.counts > 0
    values, counts = histogram.centers[used], histogram.counts[used]
    scale = np.maximum((high - low) / _LEVELS, _SMALLEST_SCALE)[:, None]
    zero = np.rint(-low[:, None] / scale)
    integers = np.clip(np.rint(values / scale) + zero, 0, _LEVELS)
    return np.asarray(((values - scale * (integers - zero)) ** 2) @ counts)
