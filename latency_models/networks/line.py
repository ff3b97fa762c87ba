"""The simplest law of networks: a share of the kernels' seconds, more per call, more per run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from millifit.latency_models.prediction import Floats

# Before any network is measured: a network takes what its kernels take; calls and the run as such
# may add to it. Standard deviations of the three, as shares of the middle network's seconds.
_DEVIATIONS = (0.15, 0.1, 0.05)
_NOISE = 0.03
_ROUNDS = 20
_DEGREES = 4.0  # of freedom, of the Student t distribution that relative errors have


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLine:
    """``scale * (sum of kernels) + calls * call_s + run_s``; none of the three is negative."""

    scale: float
    call_s: float
    run_s: float

    def seconds(self, kernels_s: Floats, calls: Floats) -> Floats:
        """Seconds ``[n]`` of networks with these sums of kernels and numbers of calls ``[n]``."""
        seconds: Floats = self.scale * kernels_s + self.call_s * calls + self.run_s
        return seconds


def fit_line(kernels_s: Floats, calls: Floats, measured_s: Floats) -> NetworkLine:
    """The most probable line: least squares of relative errors, with a prior, given all ``[n]``.

    Errors are of a Student t distribution, whose weights (Lange, Little and Taylor 1989) keep
    disturbed measurements from pulling the line.
    """
    if not len(measured_s):
        return NetworkLine(scale=1.0, call_s=0.0, run_s=0.0)
    middle_s = float(np.median(kernels_s))
    unit = np.array([1.0, middle_s / float(np.median(calls)), middle_s])
    rows = np.stack([kernels_s, calls, np.ones(len(calls))], axis=1) * unit / measured_s[:, None]
    prior = np.diag(_NOISE / np.array(_DEVIATIONS))
    weights = np.ones(len(measured_s))
    found = np.array([1.0, 0.0, 0.0])
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        found, _ = nnls(
            np.concatenate([rows * root[:, None], prior]),
            np.concatenate([root, prior[0]]),
        )
        errors = rows @ found - 1
        spread = max(_NOISE, 1.48 * float(np.median(np.abs(errors))))
        weights = (_DEGREES + 1) / (_DEGREES + (errors / spread) ** 2)
    scale, call_s, run_s = (found * unit).tolist()
    return NetworkLine(scale=scale, call_s=call_s, run_s=run_s)
