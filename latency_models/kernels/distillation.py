"""A faster form of a kernel model, for pricing a search space by the million.

The mean of a Gaussian process and trees is what predicts a family of some hundreds of measurements
best, and takes some microseconds per kernel. A small perceptron learns what they say (arXiv
1503.02531, of a regression) of as many kernels as one likes, since these need not be measured.
"""

from __future__ import annotations

import zlib

import numpy as np

from millifit.latency_models.conformal import half_width
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.error_size import fit_error_size
from millifit.latency_models.kernels.family import FamilyModel
from millifit.latency_models.kernels.features import PLAIN
from millifit.latency_models.kernels.matern import Process, Singles
from millifit.latency_models.kernels.perceptron import fit_perceptron
from millifit.latency_models.kernels.regressor import KernelModel
from millifit.latency_models.prediction import Floats

_FEWEST = 2_000  # kernels of a family to learn from
_MOST = 50_000
_WIDTHS = (64, 64, 32)
_HELD_OUT_SHARE = 5
_MOST_OFF = 0.02  # of log seconds, in the mean: a pupil that is farther off is not used


def distilled(model: KernelModel, pool: KernelBatch, *, seed: int) -> KernelModel:
    """A model that says nearly the same as `model` of kernels like those of `pool`, some times as
    fast; the pool need not be measured. Deterministic.

    A family stays as it is where it is fast already, where the pool has fewer than 2,000 kernels of
    it, or where the faster form is off by more than 2 % in the mean on every fifth kernel, which it
    has not learnt from. Intervals are widened by how far it is off.
    """
    families = dict(model.families)
    for name, rows in pool.members().items():
        teacher = families.get(name)
        if teacher is None or not isinstance(teacher.smooth, Process) or len(rows) < _FEWEST:
            continue
        own = zlib.crc32(f"{seed} {name}".encode())
        chosen = np.random.default_rng(own).permutation(rows)[:_MOST]
        families[name] = _pupil(teacher, pool.features[chosen], pool.terms[chosen], own) or teacher
    return KernelModel(
        families=families,
        pooled=model.pooled,
        vector_lanes=model.vector_lanes,
        held_out_log_error=model.held_out_log_error,
    )


def _pupil(teacher: FamilyModel, x: Singles, terms: Floats, seed: int) -> FamilyModel | None:
    log_s, half, outside = teacher.predict(x, terms)
    target = log_s - np.log(teacher.roofline.seconds(terms))
    held_out = np.arange(len(x)) % _HELD_OUT_SHARE == 0
    smooth = fit_perceptron(x[~held_out], target[~held_out], seed=seed, widths=_WIDTHS)
    errors = np.abs(smooth.predict(x[held_out]) - target[held_out])
    if errors.mean() > _MOST_OFF:
        return None
    inside = ~outside if (~outside).any() else outside
    widened = np.sqrt(half[inside] ** 2 + half_width(errors) ** 2)
    size = fit_error_size(x[inside, :PLAIN], widened)
    return FamilyModel(
        roofline=teacher.roofline,
        smooth=smooth,
        trees=None,
        size=size,
        scaled=False,
        half_width=float(np.median(widened / size.predict(x[inside, :PLAIN]))),
        known=teacher.known,
    )
