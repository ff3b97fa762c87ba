"""A multi-layer regressor of architectures' latency that a search can differentiate through.

The latency predictor of arXiv 2001.06392: an architecture's encoding goes through a perceptron of
the sizes 224-256-256-128-64-1, which is then frozen and adds to the loss of a differentiable
search, ``min_a L_val(w*, a) + lambda * LPM(enc(a))``. `cells` has that paper's kind of encoding.

Where this differs from the paper or goes beyond what is known of it:

- the hidden sizes, lambda and the optimiser could not be checked against the paper; the
  optimiser is ours, and the number of inputs is that of the encoding.
- it learns the logarithm of seconds, as what counts are relative errors. What a search adds to its
  loss is in seconds again.
- a few perceptrons, each trained without a part of the data, predict by the mean of their log
  seconds; their errors on that part choose the weight decay (see `committee`).
- the paper trains on 100,000 architectures of one GPU; nothing here depends on the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from millifit.errors import DataError
from millifit.latency_models.architectures.committee import (
    Parameters,
    Training,
    committee_mean,
    draw_layers,
    linear,
    train_committee,
    vectorised_mean,
)
from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions

_KIND = "multilayer"
_HIDDEN = (256, 256, 128, 64)
_ROWS = 65536  # architectures that are predicted at a time, to bound the memory
_UNKNOWN_HALF_WIDTH = math.log(5.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MultilayerModel:
    """Seconds for encoded architectures. Made by `fit_multilayer_model`.

    `weights` are the members' parameters ``[members, ...]``, for log seconds of mean 0 and
    deviation 1; `held_out_errors` ``[n]`` are errors of log seconds by members that had not seen
    their architecture.
    """

    weights: Mapping[str, npt.NDArray[np.float32]]
    mean: float
    deviation: float
    held_out_errors: Floats
    weight_decay: float
    half_width: float
    familiarity: Familiarity

    def predict(self, batch: Floats) -> Predictions:
        """Predictions for encodings ``[n, inputs]``.

        ``unknown`` where an input differs that was the same in all architectures of the fit, as
        the choice of an operator that none of them has. Raises DataError for another width.
        """
        batch = np.asarray(batch, np.float64)
        self._check(batch.shape)
        log_s = self.mean + self.deviation * vectorised_mean(
            _forward, self.weights, (torch.from_numpy(batch).float(),), rows=_ROWS
        )
        ranges = self.familiarity
        fixed = ranges.lowest == ranges.highest
        unknown = (batch[:, fixed] != ranges.lowest[fixed]).any(axis=1)
        outside = ranges.outside(batch)
        half = self.half_width + outside / 2
        return Predictions.around(
            log_s,
            np.where(unknown, np.maximum(half, _UNKNOWN_HALF_WIDTH), half),
            origin=np.where(unknown, ORIGINS.index("unknown"), ORIGINS.index("predicted")).astype(
                np.uint8
            ),
            extrapolated=outside > 0,
        )

    def expected_latency(self, probabilities: Tensor) -> Tensor:
        """Seconds ``[...]`` of relaxed encodings ``[..., inputs]``, differentiable in them.

        The encoding goes through the network as it is, so that at one-hot codes this is exactly
        what `predict` says, and between them it is the network's interpolation. The weights are
        frozen: they get no gradient. Raises DataError for another width.
        """
        self._check(tuple(probabilities.shape))
        rows = probabilities.reshape(-1, probabilities.shape[-1])
        frozen = {
            name: torch.from_numpy(value).to(rows.device, rows.dtype)
            for name, value in self.weights.items()
        }
        standard = committee_mean(_forward, frozen, (rows,))
        return torch.exp(self.mean + self.deviation * standard).reshape(probabilities.shape[:-1])

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind=_KIND,
            facts={
                "mean": self.mean,
                "deviation": self.deviation,
                "weight_decay": self.weight_decay,
                "half_width": self.half_width,
                "weights": sorted(self.weights),
            },
            arrays={**self.weights, "held_out_errors": self.held_out_errors},
            parts={"familiarity": self.familiarity.to_state()},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described."""
        return cls(
            weights={name: state.array(name, ndim=3) for name in state.fact("weights")},
            mean=float(state.fact("mean")),
            deviation=float(state.fact("deviation")),
            held_out_errors=state.array("held_out_errors", ndim=1),
            weight_decay=float(state.fact("weight_decay")),
            half_width=float(state.fact("half_width")),
            familiarity=Familiarity.from_state(state.part("familiarity", kind="familiarity")),
        )

    def _check(self, shape: tuple[int, ...]) -> None:
        inputs = self.weights["weight_1"].shape[1]
        if not shape or shape[-1] != inputs:
            raise DataError(
                f"the model was fitted to encodings of {inputs} inputs, got an array of the shape "
                f"{shape}: encode the architectures as for the fit."
            )


def fit_multilayer_model(
    x: Floats,
    seconds: Floats,
    *,
    seed: int,
    hidden: tuple[int, ...] = _HIDDEN,
    training: Training | None = None,
) -> MultilayerModel:
    """Learn from encodings ``[n, inputs]`` of about unit size and seconds ``[n]``.

    The same arguments and seed give the same model. Raises DataError for values that are not
    finite, seconds that are not positive, and fewer than two architectures per fold.
    """
    x, seconds = np.asarray(x, np.float64), np.asarray(seconds, np.float64)
    if x.ndim != 2 or seconds.shape != x.shape[:1] or not np.all(np.isfinite(x)):
        raise DataError(
            f"needs finite encodings [n, inputs] and seconds [n], got {x.shape} and "
            f"{seconds.shape}: check the table."
        )
    if not (np.all(np.isfinite(seconds)) and np.all(seconds > 0)):
        raise DataError("latencies must be positive seconds: check the table, or measure again.")
    log_s = np.log(seconds)
    mean, deviation = float(log_s.mean()), float(log_s.std()) or 1.0

    def initial(members: int, generator: torch.Generator) -> dict[str, Tensor]:
        return draw_layers(members, (x.shape[1], *hidden, 1), generator)

    committee = train_committee(
        _forward,
        initial,
        (torch.from_numpy(x).float(),),
        torch.from_numpy((log_s - mean) / deviation).float(),
        training=training or _training(len(x)),
        seed=seed,
    )
    errors = deviation * committee.held_out_errors
    return MultilayerModel(
        weights={name: value.numpy() for name, value in committee.parameters.items()},
        mean=mean,
        deviation=deviation,
        held_out_errors=errors,
        weight_decay=committee.weight_decay,
        half_width=half_width(errors),
        familiarity=Familiarity.of(x),
    )


def _training(n: int) -> Training:
    steps = int(np.clip(n, 400, 2000))
    return Training(steps=steps, learning_rate=0.002, weight_decays=(1.0, 4.0), folds=4)


def _forward(parameters: Parameters, inputs: tuple[Tensor, ...]) -> Tensor:
    """Encodings ``[members, n, inputs]`` to outputs ``[members, n]``."""
    (hidden,) = inputs
    layers = len(parameters) // 2
    for number in range(1, layers + 1):
        hidden = linear(parameters, number, hidden)
        if number < layers:
            hidden = torch.relu(hidden)
    return hidden[..., 0]
