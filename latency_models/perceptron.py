"""A multi-layer perceptron over features of kernels, for families with thousands of measurements.

Trained with torch, predicts with NumPy from plain arrays.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.matern import Singles
from millifit.latency_models.prediction import Floats

if TYPE_CHECKING:
    import torch

_WIDTHS = (128, 64, 64)
_BATCH = 128
_STEPS = 10_000
_LEARNING_RATE = 4e-3
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


def fit_perceptron(x: Singles, target: Floats, *, seed: int) -> Perceptron:
    """Learn ``target [n]`` from ``x [n, features]``, in the same way whatever threads there are."""
    import torch

    middle, spread = x.mean(axis=0), x.std(axis=0)
    live = spread > 1e-6
    scale = np.where(live, 1 / np.maximum(spread, 1e-6), 0.0).astype(np.float32)
    far = np.where(live, _FARTHEST * spread, 0.0).astype(np.float32)
    least, most = middle - far, middle + far
    centre, unit = float(target.mean()), max(float(target.std()), 1e-9)
    layers = _trained(
        torch.from_numpy((np.clip(x, least, most) - middle) * scale),
        torch.from_numpy(((target - centre) / unit).astype(np.float32)),
        tolerance=_TOLERANCE / unit,
        generator=torch.Generator().manual_seed(seed),
    )
    weights = [layer.weight.detach().numpy().T.astype(np.float64) for layer in layers]
    biases = [layer.bias.detach().numpy().astype(np.float64) for layer in layers]
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
    x: torch.Tensor, y: torch.Tensor, *, tolerance: float, generator: torch.Generator
) -> list[torch.nn.Linear]:
    """Linear layers after training with AdamW and one cycle of the learning rate."""
    import torch
    from torch.nn import functional

    sizes = (x.shape[1], *_WIDTHS, 1)
    layers = [_layer(a, b, generator) for a, b in itertools.pairwise(sizes)]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=_STEPS + 1, pct_start=0.1
    )
    rows = torch.empty(0, dtype=torch.int64)
    for _ in range(_STEPS):
        if len(rows) < _BATCH:
            rows = torch.cat([rows, torch.randperm(len(x), generator=generator)])
        chosen, rows = rows[:_BATCH], rows[_BATCH:]
        z = x[chosen]
        for layer in layers[:-1]:
            z = functional.hardswish(layer(z))
        optimizer.zero_grad()
        loss = functional.smooth_l1_loss(layers[-1](z)[:, 0], y[chosen], beta=tolerance)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        cycle.step()
    return layers


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> torch.nn.Linear:
    """A layer that starts from He's uniform distribution, drawn from `generator`."""
    import torch

    layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs)
    bound = 1 / inputs**0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
