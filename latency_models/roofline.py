"""The roofline: seconds as work over rates, for operators with few measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from millifit.latency_models.prediction import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Seconds per multiply-add, per byte moved, and per call; none is negative."""

    rates: tuple[float, float, float]

    def seconds(self, work: Floats) -> Floats:
        """``work: [n, 3]`` (see `features.work`) to positive seconds ``[n]``."""
        predicted: Floats = work @ np.array(self.rates)
        return predicted


def fit_roofline(work: Floats, seconds: Floats) -> Roofline:
    """The rates with the least squared relative error, by non-negative least squares.

    Work and time are sums here rather than the maximum of a textbook roofline: the fit is then a
    convex problem with one answer, and the sum is at most twice the maximum.
    """
    # Each column is scaled to one, or the solver's tolerance would drop rates of 1e-11 s.
    relative = work / seconds[:, None]
    scale = relative.max(axis=0)
    rates, _ = nnls(relative / scale, np.ones(len(seconds)))
    per_mac, per_byte, per_call = (rates / scale).tolist()
    return Roofline(rates=(per_mac, per_byte, per_call))
