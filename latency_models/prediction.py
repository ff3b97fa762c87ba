"""Predictions: seconds with an interval, and what they rest on; one, or a column of many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

Origin = Literal["measured", "interpolated", "predicted", "unknown"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)

_SD_OF_95 = 2 * 1.96  # standard deviations from end to end of a normal 95 % interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Seconds a kernel or a network takes, with a 95 % interval.

    `origin` is ``measured`` where this very subject was timed, ``interpolated`` where it lies
    between measured ones that differ from it in one dimension only, ``predicted`` where others of
    its kind were timed, and ``unknown`` where there was nothing alike. `extrapolated` says that it
    lies outside of what was measured; its interval is the wider for it.
    """

    median_s: float
    low_s: float
    high_s: float
    origin: Origin
    extrapolated: bool = False

    def __post_init__(self) -> None:
        seconds = (self.low_s, self.median_s, self.high_s)
        ordered = 0 < self.low_s <= self.median_s <= self.high_s
        if not all(map(math.isfinite, seconds)) or not ordered:
            raise ValueError(f"needs finite seconds, 0 < low <= median <= high, got {seconds}")

    @property
    def standard_deviation_s(self) -> float:
        """The standard deviation of a normal distribution with this interval."""
        return (self.high_s - self.low_s) / _SD_OF_95


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions(Sequence[Prediction]):
    """A column of predictions: seconds ``[n]``, origins as indices into `ORIGINS`, flags.

    A sequence of `Prediction`, whose invariants every row keeps.
    """

    median_s: Floats
    low_s: Floats
    high_s: Floats
    origin: npt.NDArray[np.uint8]
    extrapolated: Flags

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self._columns()}
        if len(lengths) != 1:
            raise ValueError(f"columns of predictions differ in length: {sorted(lengths)}")
        ordered = (self.low_s > 0) & (self.low_s <= self.median_s) & (self.median_s <= self.high_s)
        wrong = np.flatnonzero(~(ordered & np.isfinite(self.high_s)))
        if wrong.size:
            row = int(wrong[0])
            seconds = (self.low_s[row], self.median_s[row], self.high_s[row])
            raise ValueError(
                f"row {row} needs finite seconds, 0 < low <= median <= high, got {seconds}"
            )

    @classmethod
    def around(
        cls,
        log_s: Floats,
        half_width: Floats | float,
        *,
        origin: Origin | npt.NDArray[np.uint8],
        extrapolated: Flags | bool = False,
    ) -> Self:
        """Predictions from log seconds ``[n]`` and half-widths of the interval of log seconds."""
        n = len(log_s)
        if isinstance(origin, str):
            origin = np.full(n, ORIGINS.index(origin), np.uint8)
        # Beyond e^46 (1e20 s) an interval says nothing more, and could become infinite.
        middle = np.clip(np.asarray(log_s, np.float64), -46.0, 46.0)
        half = np.broadcast_to(np.clip(half_width, 0.0, 46.0), middle.shape)
        return cls(
            median_s=np.exp(middle),
            low_s=np.exp(middle - half),
            high_s=np.exp(middle + half),
            origin=origin,
            extrapolated=np.broadcast_to(np.asarray(extrapolated, bool), middle.shape),
        )

    @classmethod
    def of(cls, rows: Iterable[Prediction]) -> Self:
        """The column of some predictions."""
        rows = list(rows)
        return cls(
            median_s=np.array([row.median_s for row in rows], np.float64),
            low_s=np.array([row.low_s for row in rows], np.float64),
            high_s=np.array([row.high_s for row in rows], np.float64),
            origin=np.array([ORIGINS.index(row.origin) for row in rows], np.uint8),
            extrapolated=np.array([row.extrapolated for row in rows], bool),
        )

    def __len__(self) -> int:
        return len(self.median_s)

    def __getitem__(self, index: int) -> Prediction:  # type: ignore[override]  # see `take`
        return Prediction(
            median_s=float(self.median_s[index]),
            low_s=float(self.low_s[index]),
            high_s=float(self.high_s[index]),
            origin=ORIGINS[self.origin[index]],
            extrapolated=bool(self.extrapolated[index]),
        )

    def __iter__(self) -> Iterator[Prediction]:
        return (self[index] for index in range(len(self)))

    @property
    def standard_deviation_s(self) -> Floats:
        """The standard deviation of normal distributions with these intervals: ``[n]``."""
        deviation: Floats = (self.high_s - self.low_s) / _SD_OF_95
        return deviation

    def take(self, rows: npt.NDArray[np.intp] | Flags) -> Predictions:
        """Some rows, by number or by flag."""
        return Predictions(
            low_s=self.low_s[rows],
            median_s=self.median_s[rows],
            high_s=self.high_s[rows],
            origin=self.origin[rows],
            extrapolated=self.extrapolated[rows],
        )

    def _columns(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self.low_s, self.median_s, self.high_s, self.origin, self.extrapolated
