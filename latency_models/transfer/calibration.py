"""How wide intervals must be: each relative in turn as the new device, with ten measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from millifit.latency_models.conformal import half_width
from millifit.latency_models.prediction import Floats
from millifit.latency_models.transfer.basis import Basis, Source, Subjects
from millifit.latency_models.transfer.posterior import estimate, posterior, relatives_prior

_SAMPLES = 10
_DRAWS = 3
_HELD_OUT = 200
_UNTESTED = 4.0  # where there is no second device to test it on

Batch = TypeVar("Batch", bound=Subjects)


def interval_width(
    basis: Basis[Batch],
    sources: Sequence[Source[Batch]],
    reference: Floats,
    rng: np.random.Generator,
) -> float:
    """The half-width of 95 % intervals of log seconds, in units of the posterior's own scale.

    Every source in turn is predicted from ten of its samples and the sources of other devices.
    With profiles of one device only, or with too few rows, a width of 4 is assumed.
    """
    errors, scales = [], []
    for source in sources:
        others = np.array([device != source.device for device in basis.devices])
        if not others.any() or len(source.seconds) < 2 * _SAMPLES:
            continue
        columns = np.r_[others, np.ones(reference.shape[1] - len(others), bool)]
        prior = relatives_prior(reference[:, columns], int(others.sum()))
        for _ in range(_DRAWS):
            rows = rng.permutation(len(source.seconds))[: _SAMPLES + _HELD_OUT]
            seen = basis.evaluate(source.subjects.take(rows)).columns[:, columns]
            seconds = source.seconds[rows]
            learnt = posterior(seen[:_SAMPLES], seconds[:_SAMPLES], prior)
            expected, scale = estimate(seen[_SAMPLES:], learnt)
            errors.append(np.log(seconds[_SAMPLES:] / expected))
            scales.append(scale)
    if not errors:
        return _UNTESTED
    return half_width(np.concatenate(errors), scale=np.concatenate(scales))
