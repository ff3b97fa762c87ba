"""A multi-layer perceptron over features of kernels, for families with thousands of measurements.

Trained and asked with NumPy: networks of this size spend most of torch's time between operations.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.kernels.matern import Singles
from millifit.latency_models.prediction import Floats

_WIDTHS = (128, 64, 64)
_BATCH = 128
_STEPS = 16_000
_LEARNING_RATE = 4e-3
_WARM_UP = 0.1  # of the steps
_SQUARES = 0.999  # of the mean of squared slopes, kept in each step
_WEIGHT_DECAY = 0.1
_TOLERANCE = 0.03  # of log seconds: smaller errors are squared, larger ones are not
_FARTHEST = 5.0  # standard deviations that a feature may lie outside
_BLOCK = 1024
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptron:
    """Layers of ``weights[i] [inputs, outputs]`` and ``biases[i] [outputs]``.

    Features are kept between `least` and `most` first. What a layer makes becomes
    ``(u - 1/2) clip(u, 0, 1)``, which is a hard swish whose factors are in the weights.
    """

    least: Singles  # [features]
    most: Singles
    weights: tuple[Singles, ...]
    biases: tuple[Singles, ...]

    def predict(self, x: Singles) -> Floats:
        """For features ``[n, features]``: ``[n]``."""
        made = np.empty(len(x))
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            u = np.clip(x[rows], self.least, self.most)
            for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
                u = u @ weight
                u += bias
                gate = np.clip(u, _ZERO, _ONE)
                u -= _HALF
                u *= gate
            made[rows] = (u @ self.weights[-1])[:, 0] + self.biases[-1][0]
        return made

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        arrays = {"least": self.least, "most": self.most}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays |= {f"weight{number}": weight, f"bias{number}": bias}
        return State(kind="perceptron", facts={"layers": len(self.weights)}, arrays=arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The perceptron that `to_state` described."""
        layers = range(int(state.fact("layers")))
        return cls(
            least=state.array("least", ndim=1),
            most=state.array("most", ndim=1),
            weights=tuple(state.array(f"weight{n}", ndim=2) for n in layers),
            biases=tuple(state.array(f"bias{n}", ndim=1) for n in layers),
        )


def fit_perceptron(
    x: Singles, target: Floats, *, seed: int, widths: tuple[int, ...] | None = None
) -> Perceptron:
    """Learn ``target [n]`` from ``x [n, features]``, with hidden layers of such widths."""
    middle, spread = x.mean(axis=0), x.std(axis=0)
    live = spread > 1e-6
    scale = np.where(live, 1 / np.maximum(spread, 1e-6), 0.0).astype(np.float32)
    far = np.where(live, _FARTHEST * spread, 0.0).astype(np.float32)
    least, most = middle - far, middle + far
    centre, unit = float(target.mean()), max(float(target.std()), 1e-9)
    layers = _trained(
        (np.clip(x, least, most) - middle) * scale,
        ((target - centre) / unit).astype(np.float32),
        widths=widths or _WIDTHS,
        tolerance=_TOLERANCE / unit,
        rng=np.random.default_rng(seed),
    )
    weights, biases = (
        [w.astype(np.float64) for w, _ in layers],
        [b.astype(np.float64) for _, b in layers],
    )
    weights[0] *= scale[:, None]
    biases[0] -= middle @ weights[0]
    for n in range(len(layers) - 1):  # hard swish: 6 (u - 1/2) clip(u, 0, 1) of u = z / 6 + 1/2
        weights[n], biases[n] = weights[n] / 6, biases[n] / 6 + 0.5
        weights[n + 1] *= 6
    weights[-1] *= unit
    biases[-1] = biases[-1] * unit + centre
    return Perceptron(
        least=least,
        most=most,
        weights=tuple(weight.astype(np.float32) for weight in weights),
        biases=tuple(bias.astype(np.float32) for bias in biases),
    )


def _trained(
    x: Singles,
    y: Singles,
    *,
    widths: tuple[int, ...],
    tolerance: float,
    rng: np.random.Generator,
) -> list[tuple[Singles, Singles]]:
    """Weights and biases after training with AdamW (arXiv 1711.05101) and one cycle of the rate."""
    sizes = (x.shape[1], *widths, 1)
    values, layers = _layers(sizes, rng)
    slopes, by_layer = _layers(sizes, None)
    mean, square = np.zeros_like(values), np.zeros_like(values)
    faded = 1.0
    rows = np.empty(0, np.int64)
    for step in range(_STEPS):
        if len(rows) < _BATCH:
            rows = np.concatenate([rows, rng.permutation(len(x))])
        chosen, rows = rows[:_BATCH], rows[_BATCH:]
        _backward(x[chosen], y[chosen], layers, by_layer, tolerance)
        rate, momentum = _cycle(step / _STEPS)
        faded *= momentum
        mean += np.float32(1 - momentum) * (slopes - mean)
        square += np.float32(1 - _SQUARES) * (slopes * slopes - square)
        root = np.sqrt(square * np.float32(1 / (1 - _SQUARES ** (step + 1)))) + np.float32(1e-8)
        values *= np.float32(1 - rate * _WEIGHT_DECAY)
        values -= np.float32(rate / (1 - faded)) * mean / root
    return layers


def _cycle(done: float) -> tuple[float, float]:
    """Rate and momentum: up and down along cosines (arXiv 1708.07120), when a share is done."""
    if done < _WARM_UP:
        high = (1 - math.cos(math.pi * done / _WARM_UP)) / 2
        return _LEARNING_RATE * (0.04 + 0.96 * high), 0.95 - 0.1 * high
    high = (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2
    return _LEARNING_RATE * high, 0.95 - 0.1 * high


def _layers(
    sizes: tuple[int, ...], rng: np.random.Generator | None
) -> tuple[Singles, list[tuple[Singles, Singles]]]:
    """One vector, and the weights and biases that are views of it: zeros, or uniformly drawn."""
    pairs = list(itertools.pairwise(sizes))
    values = np.zeros(sum((a + 1) * b for a, b in pairs), np.float32)
    layers, start = [], 0
    for a, b in pairs:
        part = values[start : start + (a + 1) * b].reshape(a + 1, b)
        if rng is not None:
            part[:] = rng.uniform(-1, 1, part.shape) / a**0.5
        layers.append((part[:a], part[a]))
        start += (a + 1) * b
    return values, layers


def _backward(
    x: Singles,
    y: Singles,
    layers: list[tuple[Singles, Singles]],
    slopes: list[tuple[Singles, Singles]],
    tolerance: float,
) -> None:
    """The slope of the mean smooth absolute error of a batch, by all weights, into `slopes`."""
    seen, bent = [x], []
    for weight, bias in layers[:-1]:
        z = seen[-1] @ weight + bias
        gate = np.clip(z * np.float32(1 / 6) + _HALF, _ZERO, _ONE)
        inside = (gate > 0) & (gate < 1)
        bent.append(gate + inside * z * np.float32(1 / 6))
        seen.append(z * gate)
    error = (seen[-1] @ layers[-1][0])[:, 0] + layers[-1][1] - y
    back = (np.clip(error / np.float32(tolerance), -_ONE, _ONE) / np.float32(len(y)))[:, None]
    for n in reversed(range(len(layers))):
        np.matmul(seen[n].T, back, out=slopes[n][0])
        slopes[n][1][:] = back.sum(axis=0)
        if n:
            back = (back @ layers[n][0].T) * bent[n - 1]
