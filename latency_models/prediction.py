"""A prediction: seconds with an interval, and what they rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Origin = Literal["measured", "predicted", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Seconds a kernel or a network takes, with a 95 % interval.

    `origin` is ``measured`` where this very kernel was timed, ``predicted`` where kernels of its
    operator and precision were, and ``unknown`` where there was nothing alike. `extrapolated`
    says that it lies outside of what was measured; its interval is the wider for it.
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
        return (self.high_s - self.low_s) / (2 * 1.96)
