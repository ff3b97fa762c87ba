"""Intervals with a stated coverage, from errors on subjects that a model had not seen.

Split conformal prediction (Vovk et al.; see arXiv 2107.07511, section 1): among n + 1 exchangeable
errors the newest is at most the ceil((n + 1) coverage)-th smallest with at least that probability,
whatever the model and the distribution are.
"""

from __future__ import annotations

import math

import numpy as np

from millifit.latency_models.prediction import Floats

COVERAGE = 0.95


def half_width(
    residuals: Floats, *, scale: Floats | None = None, coverage: float = COVERAGE
) -> float:
    """The half-width that covers a share `coverage` of new errors.

    `residuals` ``[n]`` are errors of log seconds on held-out subjects. With `scale` ``[n]``, the
    model's own idea of each error's size, the width is in units of it and is to be multiplied with
    the scale of what is predicted (normalised conformal, arXiv 2107.07511, section 2.3).

    Where n is too small to support the coverage the largest error is stretched by as much as is
    missing. Raises ValueError for no residuals, or a scale that is not positive.
    """
    errors = np.abs(np.asarray(residuals, np.float64))
    if not errors.size:
        raise ValueError("no residuals to take an interval from")
    if scale is not None:
        if not np.all(scale > 0):
            raise ValueError("scales of errors must be positive")
        errors = errors / scale
    errors.sort()
    rank = math.ceil(coverage * (len(errors) + 1))
    stretch = max(1.0, rank / len(errors))
    return float(errors[min(rank, len(errors)) - 1]) * stretch
