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

_WIDTHS = (96, 96, 96)
_BATCH = 128
_STEPS = 6_000
_LEARNING_RATE = 4e-3
_WEIGHT_DECAY = 0.1
_TOLERANCE = 0.03  # of log seconds: smaller errors are squared, larger ones are not
_FARTHEST = 5.0  # standard deviations that a feature may lie outside
_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptron:
    """Layers of ``weights[i] [inputs, outputs]`` with x * clip(x / 6 + 1/2, 0, 1) between them."""

    scale: Singles
    shift: Singles
    weights: tuple[Singles, ...]
    biases: tuple[Singles, ...]

    def predict(self, x: Singles) -> Floats:
        """For features ``[n, features]``: ``[n]``."""
        made = np.empty(len(x))
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            z = x[rows] * self.scale
            z += self.shift
            np.clip(z, -_FARTHEST, _FARTHEST, out=z)
            for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
                z = z @ weight
                z += bias
                gate = z * np.float32(1 / 6)
                gate += np.float32(0.5)
                np.clip(gate, 0, 1, out=gate)
                z *= gate
            made[rows] = (z @ self.weights[-1])[:, 0] + self.biases[-1][0]
        return made

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        arrays = {"scale": self.scale, "shift": self.shift}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays |= {f"weight{number}": weight, f"bias{number}": bias}
        return State(kind="perceptron", facts={"layers": len(self.weights)}, arrays=arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The perceptron that `to_state` described."""
        layers = range(int(state.fact("layers")))
        return cls(
            scale=state.array("scale", ndim=1),
            shift=state.array("shift", ndim=1),
            weights=tuple(state.array(f"weight{n}", ndim=2) for n in layers),
            biases=tuple(state.array(f"bias{n}", ndim=1) for n in layers),
        )


def fit_perceptron(x: Singles, target: Floats, *, seed: int) -> Perceptron:
    """Learn ``target [n]`` from ``x [n, features]``, in the same way whatever threads there are."""
    import torch

    middle, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0).astype(np.float32)
    shift = (-middle * scale).astype(np.float32)
    centre, unit = float(target.mean()), max(float(target.std()), 1e-9)
    layers = _trained(
        torch.from_numpy(np.clip(x * scale + shift, -_FARTHEST, _FARTHEST)),
        torch.from_numpy(((target - centre) / unit).astype(np.float32)),
        tolerance=_TOLERANCE / unit,
        generator=torch.Generator().manual_seed(seed),
    )
    weights = [layer.weight.detach().numpy().T.copy() for layer in layers]
    biases = [layer.bias.detach().numpy().copy() for layer in layers]
    weights[-1] = weights[-1] * np.float32(unit)
    biases[-1] = biases[-1] * np.float32(unit) + np.float32(centre)
    return Perceptron(scale=scale, shift=shift, weights=tuple(weights), biases=tuple(biases))


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
