"""Lines of measured kernels that differ in one dimension only, and who lies between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.latency_models.kernels.coordinates import Axis, Coordinates, Hashes, Integers
from millifit.latency_models.prediction import Flags, Floats

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Kernels `asked` that lie between two measured ones, by number: all ``[k]``."""

    asked: Indices
    below: Indices
    above: Indices
    at: Integers  # where on the line they lie

    def take(self, rows: Indices | Flags) -> Neighbours:
        """Some of them, by number or by flag."""
        return Neighbours(
            asked=self.asked[rows], below=self.below[rows], above=self.above[rows],
            at=self.at[rows],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Measured kernels along one axis, sorted by line and by where on it they lie."""

    axis: Axis
    keys: Hashes  # [lines], ascending
    starts: Indices  # [lines + 1], into the next two
    rows: Indices  # [m] numbers of measured kernels
    at: Integers  # [m], ascending within a line

    @classmethod
    def of(cls, measured: Coordinates, axis: Axis) -> Self:
        """The lines along one axis that hold at least two measured kernels."""
        lines, at, on = measured.lines(axis)
        rows = np.flatnonzero(on)
        rows = rows[np.lexsort((at[rows], lines[rows]))]
        keys, counts = np.unique(lines[rows], return_counts=True)
        kept = np.repeat(counts > 1, counts)
        rows = rows[kept]
        keys, counts = keys[counts > 1], counts[counts > 1]
        return cls(
            axis=axis, keys=keys, starts=np.concatenate([[0], np.cumsum(counts)]), rows=rows,
            at=at[rows],
        )  # fmt: skip

    def between(self, asked: Coordinates) -> Neighbours:
        """Which of the kernels lie between two measured ones, and between which."""
        lines, at, on = asked.lines(self.axis)
        if not len(self.keys):
            return _none()
        line = np.searchsorted(self.keys, lines).clip(max=len(self.keys) - 1)
        candidates = np.flatnonzero(on & (self.keys[line] == lines))
        line, at = line[candidates], at[candidates]
        # Lines in turn, and places on a line: one ascending number for both.
        span = int(max(self.at.max(initial=0), at.max(initial=0))) + 1
        place = np.repeat(np.arange(len(self.keys)), np.diff(self.starts)) * span + self.at
        left = np.searchsorted(place, line * span + at, "left")
        right = np.searchsorted(place, line * span + at, "right")
        below = np.where(left < right, left, left - 1)
        inside = (below >= self.starts[line]) & (right - (left < right) < self.starts[line + 1])
        above = np.where(left < right, left, right)[inside]
        return Neighbours(
            asked=candidates[inside], below=self.rows[below[inside]], above=self.rows[above],
            at=at[inside],
        )  # fmt: skip

    def left_out(self) -> Neighbours:
        """Every measured kernel that has a neighbour on either side, between these two."""
        last = len(self.rows) - 1
        inner = np.ones(len(self.rows), bool)
        inner[self.starts[:-1].clip(max=max(last, 0))] = False
        inner[self.starts[1:] - 1] = False
        places = np.flatnonzero(inner)
        return Neighbours(
            asked=self.rows[places], below=self.rows[places - 1], above=self.rows[places + 1],
            at=self.at[places],
        )  # fmt: skip


def _none() -> Neighbours:
    empty = np.empty(0, np.intp)
    return Neighbours(asked=empty, below=empty, above=empty, at=np.empty(0, np.int64))


def interpolated(
    values: Floats, found: Neighbours, places: Integers, *, lanes: Integers | int = 1
) -> Floats:
    """Values ``[measured]`` at the kernels in between: ``[k]``, linear in the logarithm of places.

    `places` ``[measured]`` is where on their lines the measured ones lie; with `lanes` above 1 (one
    number, or ``[k]``) they count in whole vectors of so many.
    """
    below, at, above = (
        np.log(-(-np.maximum(place, 1) // lanes))
        for place in (places[found.below], found.at, places[found.above])
    )
    span = above - below
    fraction = np.where(span > 0, (at - below) / np.where(span > 0, span, 1), 0.5)
    result: Floats = values[found.below] * (1 - fraction) + values[found.above] * fraction
    return result
