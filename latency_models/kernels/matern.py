"""Gaussian processes over features of kernels, for families with some dozens to some hundreds.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): prediction by equation
2.25, the marginal likelihood and its gradient by 5.8 and 5.9. Noise has the heavy tails of
Student's t, by expectation and maximisation: one wrong measurement bends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize

from millifit.latency_models.archive import State
from millifit.latency_models.prediction import Floats

Singles = npt.NDArray[np.float32]

_MOST_FOR_LENGTHS = 640  # rows that lengths are learnt from: each step costs their cube
_STEPS = (30, 12, 12)  # of the optimiser, in each round of weighing the noise
_TAIL = 4.0  # degrees of freedom of the noise
_SPARSITY = 8.0  # rate of the exponential prior of inverse lengths: few features matter
_LEAST_LOG_NOISE = -3.0  # of the target's deviation: no measurement is better than 5 % of it
_JITTER = 1e-6
_LEAST_RELEVANT = 2e-3  # inverse length below which a feature is left out of predictions
_MOST_CENTRES = 1000  # above, predictions would cost more than they gain
_CENTRES_OF_MANY = 512
_BLOCK = 1024  # rows at a time: distances to all centres stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A fitted process; predicts from `centres` ``[m, d]``, already scaled.

    The covariance of two rows at the scaled distance r is ``amplitude^2 (1 + smooth r) exp(-r)``:
    Matern's with 1/2 (smooth = 0) to 3/2 (smooth = 1) degrees.
    """

    columns: npt.NDArray[np.int64]  # [d]: features that matter
    scale: Singles  # [d]
    shift: Singles  # [d]
    centres: Singles
    weights: Singles  # [m]
    mean: float
    amplitude: float
    smooth: float
    noise: float

    def predict(self, x: Singles) -> tuple[Floats, Floats]:
        """Mean and standard deviation for features ``[n, features]``: ``[n]`` each.

        The deviation is what the nearest centre alone leaves, an upper bound of the process's own.
        """
        mean, nearest = np.empty(len(x)), np.empty(len(x))
        across = np.ascontiguousarray(-2 * self.centres.T)
        size = np.einsum("md,md->m", self.centres, self.centres)
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            z = x[rows][:, self.columns] * self.scale + self.shift
            mean[rows], nearest[rows] = self._block(z, across, size)
        return self.mean + mean, self._deviation(np.maximum(nearest, 0.0))

    def _block(self, z: Singles, across: Singles, size: Singles) -> tuple[Floats, Singles]:
        r = z @ across
        r += size
        r += np.einsum("nd,nd->n", z, z)[:, None]
        nearest: Singles = r.min(axis=1)
        np.maximum(r, 0, out=r)
        np.sqrt(r, out=r)
        decay = np.exp(-r)
        r *= np.float32(self.smooth)
        r += 1
        r *= decay
        mean: Floats = (r @ self.weights).astype(np.float64)
        return mean, nearest

    def _deviation(self, squared: Floats) -> Floats:
        r = np.sqrt(squared)
        alike = (1 + self.smooth * r) * np.exp(-r)
        deviation: Floats = np.sqrt(self.amplitude**2 * (1 - alike**2).clip(0) + self.noise**2)
        return deviation

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="process",
            facts={
                "mean": self.mean,
                "amplitude": self.amplitude,
                "smooth": self.smooth,
                "noise": self.noise,
            },
            arrays={
                "columns": self.columns,
                "scale": self.scale,
                "shift": self.shift,
                "centres": self.centres,
                "weights": self.weights,
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The process that `to_state` described."""
        return cls(
            columns=state.array("columns", ndim=1),
            scale=state.array("scale", ndim=1),
            shift=state.array("shift", ndim=1),
            centres=state.array("centres", ndim=2),
            weights=state.array("weights", ndim=1),
            mean=float(state.fact("mean")),
            amplitude=float(state.fact("amplitude")),
            smooth=float(state.fact("smooth")),
            noise=float(state.fact("noise")),
        )


def fit_process(x: Singles, target: Floats, *, rng: np.random.Generator) -> Process:
    """Learn ``target [n]`` from ``x [n, features]``; at least two rows."""
    x = x.astype(np.float64)
    live = np.flatnonzero(x.std(axis=0) > 1e-9)
    if not live.size:
        live = np.array([0])
    middle, spread = x[:, live].mean(axis=0), np.maximum(x[:, live].std(axis=0), 1e-9)
    z = (x[:, live] - middle) / spread
    centre, unit = float(np.median(target)), max(float(target.std()), 1e-9)
    y = (target - centre) / unit
    few = np.arange(len(y))
    if len(y) > _MOST_FOR_LENGTHS:
        few = np.sort(rng.choice(len(y), _MOST_FOR_LENGTHS, replace=False))
    values, weighing = _start(z.shape[1]), np.ones(len(few))
    for steps in _STEPS:
        values = _optimised(z[few], y[few], values, weighing, steps)
        weighing = _weighed(_Solved(z[few], y[few], values, weighing))
    solved = _Solved(z, y, values, np.ones(len(y)))
    solved = _Solved(z, y, values, _weighed(solved))
    return _finished(solved, live, middle, spread, centre, unit)


def _finished(
    solved: _Solved, live: npt.NDArray[np.int64], middle: Floats, spread: Floats,
    centre: float, unit: float,
) -> Process:  # fmt: skip
    inverse_lengths = solved.inverse_lengths
    kept = inverse_lengths > _LEAST_RELEVANT
    kept[int(inverse_lengths.argmax())] = True
    scale = (inverse_lengths / spread)[kept]
    rows, alpha = np.arange(len(solved.y)), solved.alpha
    if len(rows) > _MOST_CENTRES:
        rows, alpha = _thinned(solved, _CENTRES_OF_MANY)
    return Process(
        columns=live[kept],
        scale=scale.astype(np.float32),
        shift=(-middle[kept] * scale).astype(np.float32),
        centres=solved.z[rows][:, kept].astype(np.float32),
        weights=(unit * solved.amplitude**2 * alpha).astype(np.float32),
        mean=centre,
        amplitude=unit * solved.amplitude,
        smooth=solved.smooth,
        noise=unit * solved.noise,
    )


def _thinned(s: _Solved, number: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows that stand for all, and their weights: the subset of regressors (Rasmussen and Williams,
    equation 8.14), each of them the row that those before say least of.
    """
    covariance = s.amplitude**2 * s.alike
    left, factor = np.diag(covariance).copy(), np.zeros((number, len(s.y)))
    rows: list[int] = []
    for n in range(number):
        row = int(left.argmax())
        rows.append(row)
        part = covariance[row] - factor[:n, row] @ factor[:n]
        factor[n] = part / np.sqrt(max(left[row], _JITTER))
        left = np.maximum(left - factor[n] ** 2, 0.0)
        left[row] = -1.0
    across = covariance[:, rows] / (s.noise * np.sqrt(s.weighing))[:, None]
    gram = covariance[np.ix_(rows, rows)] + across.T @ across
    gram[np.diag_indices(number)] += _JITTER * s.amplitude**2
    alpha = np.linalg.solve(gram, across.T @ (s.y / (s.noise * np.sqrt(s.weighing))))
    return np.array(rows), alpha


class _Solved:
    """The process for given values of its parameters; `z` comes out scaled by them."""

    def __init__(self, z: Floats, y: Floats, values: Floats, weighing: Floats) -> None:
        self.inverse_lengths = np.exp(values[:-3])
        self.amplitude, self.noise = np.exp(values[-3]), np.exp(values[-2])
        self.smooth = float(1 / (1 + np.exp(-values[-1])))
        self.z, self.y, self.weighing = z * self.inverse_lengths, y, weighing
        self.r = np.sqrt(_squared(self.z, self.z) + 1e-12)
        self.decay = np.exp(-self.r)
        self.alike = (1 + self.smooth * self.r) * self.decay
        covariance = self.amplitude**2 * self.alike
        covariance[np.diag_indices(len(y))] += self.noise**2 * weighing + _JITTER
        factor, failed = lapack.dpotrf(covariance, lower=1)
        if failed:
            raise np.linalg.LinAlgError("the covariance is not positive definite")
        self.alpha: Floats = lapack.dpotrs(factor, y, lower=1)[0]
        inverse = lapack.dpotri(factor, lower=1)[0]
        self.inverse: Floats = np.tril(inverse) + np.tril(inverse, -1).T
        self.log_determinant = 2 * float(np.log(np.diag(factor)).sum())


def _optimised(z: Floats, y: Floats, start: Floats, weighing: Floats, steps: int) -> Floats:
    d = z.shape[1]
    bounds = [(-9.0, 3.0)] * d + [(-3.0, 4.0), (_LEAST_LOG_NOISE, 1.0), (-4.0, 4.0)]

    def cost(values: Floats) -> tuple[float, Floats]:
        return _cost(z, y, values, weighing)

    found = minimize(
        cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}
    )
    best: Floats = found.x
    return best


def _cost(z: Floats, y: Floats, values: Floats, weighing: Floats) -> tuple[float, Floats]:
    """What the negative logarithm of marginal likelihood and prior is, and its slope."""
    try:
        s = _Solved(z, y, values, weighing)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(values)
    by_covariance = (s.inverse - np.outer(s.alpha, s.alpha)) / 2
    # Of the covariance by squared distances; the diagonal stays at distance 0.
    by_squared = by_covariance * s.decay * (s.smooth - 1 - s.smooth * s.r) / (2 * s.r)
    by_squared *= s.amplitude**2
    np.fill_diagonal(by_squared, 0.0)
    slope = np.empty_like(values)
    moved = by_squared.sum(axis=1)[:, None] * s.z**2 - s.z * (by_squared @ s.z)
    slope[:-3] = 4 * moved.sum(axis=0) + _SPARSITY * s.inverse_lengths
    slope[-3] = 2 * s.amplitude**2 * float((by_covariance * s.alike).sum())
    slope[-2] = 2 * s.noise**2 * float((np.diag(by_covariance) * weighing).sum())
    by_smooth = s.amplitude**2 * float((by_covariance * s.r * s.decay).sum())
    slope[-1] = by_smooth * s.smooth * (1 - s.smooth)
    value = (y @ s.alpha + s.log_determinant) / 2 + _SPARSITY * float(s.inverse_lengths.sum())
    return float(value), slope


def _weighed(s: _Solved) -> Floats:
    """Each row's share of noise variance, from how far the process is from it."""
    variance = s.noise**2 * s.weighing
    expected = (variance * s.alpha) ** 2 + variance - variance**2 * np.diag(s.inverse)
    weighed: Floats = np.clip((_TAIL + expected / s.noise**2) / (_TAIL + 1), 0.3, 200.0)
    return weighed


def _start(d: int) -> Floats:
    lengths = np.full(d, -np.log(1.5 * np.sqrt(d)))
    return np.concatenate([lengths, [0.0, np.log(0.1), 0.0]])


def _squared(a: Floats, b: Floats) -> Floats:
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    positive: Floats = np.maximum(squared, 0.0, out=squared)
    return positive
