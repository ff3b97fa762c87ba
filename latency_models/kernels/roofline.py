"""The roofline: seconds as work over rates, which every other model of kernels corrects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from millifit.latency_models.prediction import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Seconds per unit of each kind of work, such as a multiply-add, a byte moved, and a call; none
    is negative.
    """

    rates: tuple[float, ...]

    def seconds(self, work: Floats) -> Floats:
        """Work ``[n, kinds]``, of which the first ones have rates, to positive seconds ``[n]``."""
        predicted: Floats = work[:, : len(self.rates)] @ np.array(self.rates)
        return predicted


def fit_roofline(work: Floats, seconds: Floats) -> Roofline:
    """The rates with the least squared relative error, by non-negative least squares.

    Work and time are sums here rather than the maximum of a textbook roofline: the fit is then a
    convex problem with one answer, and the sum is at most twice the maximum.
    """
    # Each column is scaled to one, or the solver's tolerance would drop rates of 1e-11 s.
    relative = work / seconds[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    rates, _ = nnls(relative / scale, np.ones(len(seconds)))
    return Roofline(rates=tuple((rates / scale).tolist()))
