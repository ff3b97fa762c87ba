"""A graph convolutional predictor of architectures' accuracy or latency (arXiv 2004.08423).

As in that paper, a graph convolutional network is fitted to a uniform sample of a space's
architectures whose values are noisy, value = truth + error, and then stands in for evaluating
others. Its layers are those of arXiv 1609.02907, equation 2: ``H' = ReLU(A H W + b)`` with
``A = D^-1/2 (A + I) D^-1/2``, the mean of the nodes is read out, and one linear layer follows.

Where this differs from the paper or goes beyond what is known of it:

- sizes, features and optimiser were not available to us; those here are ours. A node's features
  hold its operator and position as one one-hot code, too: without it the mean over nodes cannot
  tell the same operators in another order apart.
- edges are taken in both directions.
- five networks, each trained without a fifth of the data, predict by their mean; their errors on
  that fifth choose the weight decay (see `committee`).
- the paper's search by segments, which keeps the best sub-architectures as super-cells, is not
  part of a predictor.
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
    draw_layers,
    linear,
    train_committee,
    vectorised_mean,
)
from millifit.latency_models.architectures.graphs import Graphs
from millifit.latency_models.archive import State
from millifit.latency_models.conformal import half_width
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions

_KIND = "graph"
_REGRESSOR = "graph regressor"
_ROWS = 4096  # graphs that are predicted at a time, to bound the memory
_UNKNOWN_HALF_WIDTH = math.log(5.0)
# A low learning rate keeps a network from following noise, as of accuracies of single trainings;
# latencies have little, and the same number of steps gets closer to them at a higher one.
_NOISY_RATE = 0.005
_STEADY_RATE = 0.015


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphRegressor:
    """A real number for each graph. Made by `fit_graph_regressor`.

    `weights` are the members' parameters ``[members, ...]``, for values of mean 0 and deviation 1;
    `held_out_errors` ``[n]`` are the errors on the training graphs by members that had not seen
    them, in the values' unit.
    """

    weights: Mapping[str, npt.NDArray[np.float32]]
    mean: float
    deviation: float
    held_out_errors: Floats
    weight_decay: float

    def predict(self, graphs: Graphs) -> Floats:
        """The values of n graphs: ``[n]``. DataError where they have other features."""
        expected = self.weights["weight_1"].shape[1]
        if graphs.features.shape[2] != expected:
            raise DataError(
                f"the graphs have {graphs.features.shape[2]} features per node, the model was "
                f"fitted to {expected}: encode them as for the fit."
            )
        standard = vectorised_mean(_forward, self.weights, _inputs(graphs), rows=_ROWS)
        values: Floats = self.mean + self.deviation * standard
        return values

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind=_REGRESSOR,
            facts={
                "mean": self.mean,
                "deviation": self.deviation,
                "weight_decay": self.weight_decay,
                "weights": sorted(self.weights),
            },
            arrays={**self.weights, "held_out_errors": self.held_out_errors},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The regressor that `to_state` described."""
        names = state.fact("weights")
        return cls(
            weights={name: state.array(name, ndim=3) for name in names},
            mean=float(state.fact("mean")),
            deviation=float(state.fact("deviation")),
            held_out_errors=state.array("held_out_errors", ndim=1),
            weight_decay=float(state.fact("weight_decay")),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphModel:
    """Seconds for each graph. Made by `fit_graph_model`.

    A `GraphRegressor` of log seconds, its held-out errors as the interval, and what it was fitted
    to: features beyond that are flagged and widen the interval.
    """

    regressor: GraphRegressor
    half_width: float
    familiarity: Familiarity
    known_operators: npt.NDArray[np.int64]

    def predict(self, batch: Graphs) -> Predictions:
        """A prediction for each graph; ``unknown`` with an operator that was in none of the fit.

        Raises DataError where the graphs are of another kind than those of the fit.
        """
        log_s = self.regressor.predict(batch)
        outside = self.familiarity.outside(batch.flat)
        unknown = ~np.isin(batch.operators, self.known_operators).all(axis=1)
        half = self.half_width + outside / 2
        return Predictions.around(
            log_s,
            np.where(unknown, np.maximum(half, _UNKNOWN_HALF_WIDTH), half),
            origin=np.where(unknown, ORIGINS.index("unknown"), ORIGINS.index("predicted")).astype(
                np.uint8
            ),
            extrapolated=outside > 0,
        )

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind=_KIND,
            facts={"half_width": self.half_width},
            arrays={"known_operators": self.known_operators},
            parts={
                "regressor": self.regressor.to_state(),
                "familiarity": self.familiarity.to_state(),
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The model that `to_state` described."""
        return cls(
            regressor=GraphRegressor.from_state(state.part("regressor", kind=_REGRESSOR)),
            half_width=float(state.fact("half_width")),
            familiarity=Familiarity.from_state(state.part("familiarity", kind="familiarity")),
            known_operators=state.array("known_operators", ndim=1),
        )


def fit_graph_regressor(
    graphs: Graphs,
    values: Floats,
    *,
    seed: int,
    width: int = 32,
    layers: int = 2,
    training: Training | None = None,
) -> GraphRegressor:
    """Learn real `values` ``[n]``, such as accuracies, of n graphs.

    `layers` graph convolutions (two or three) of `width` channels each. The same graphs, values
    and seed give the same regressor. Raises DataError for values that are not finite or not as
    many as graphs, and for fewer than two graphs per fold.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (len(graphs),) or not np.all(np.isfinite(values)):
        raise DataError(f"needs a finite value for each of {len(graphs)} graphs: check the table.")
    if not np.all(np.isfinite(graphs.features)):
        raise DataError("features of graphs must be finite numbers: check their encoding.")
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    target = torch.from_numpy((values - mean) / deviation).float()
    features = graphs.features.shape[2]

    def initial(members: int, generator: torch.Generator) -> dict[str, Tensor]:
        return draw_layers(members, (features, *[width] * layers, 1), generator)

    committee = train_committee(
        _forward,
        initial,
        _inputs(graphs),
        target,
        training=training or _training(len(values), _NOISY_RATE),
        seed=seed,
    )
    return GraphRegressor(
        weights={name: value.numpy() for name, value in committee.parameters.items()},
        mean=mean,
        deviation=deviation,
        held_out_errors=deviation * committee.held_out_errors,
        weight_decay=committee.weight_decay,
    )


def _training(n: int, learning_rate: float) -> Training:
    return Training(steps=int(np.clip(n, 400, 1600)), learning_rate=learning_rate)


def _inputs(graphs: Graphs) -> tuple[Tensor, Tensor]:
    """The first layer's ``A H`` ``[n, v, f]``, which no weight enters, and ``A`` ``[n, v, v]``."""
    adjacency = normalised(graphs.adjacency)
    propagated = adjacency @ graphs.features
    return torch.from_numpy(propagated).float(), torch.from_numpy(adjacency).float()


def normalised(adjacency: Floats) -> Floats:
    """``D^-1/2 (A + I) D^-1/2`` of ``[n, v, v]``, edges taken in both directions."""
    both = np.maximum(adjacency, adjacency.swapaxes(1, 2))
    looped = np.maximum(both, np.eye(both.shape[1]))
    root = 1 / np.sqrt(looped.sum(axis=2))
    scaled: Floats = looped * root[:, :, None] * root[:, None, :]
    return scaled


def _forward(parameters: Parameters, inputs: tuple[Tensor, ...]) -> Tensor:
    """``A H`` ``[members, n, v, f]`` and ``A`` ``[members, n, v, v]`` to ``[members, n]``."""
    hidden, adjacency = inputs
    members, n, v, _ = hidden.shape
    last = len(parameters) // 2
    for number in range(1, last):
        if number > 1:
            hidden = adjacency @ hidden
        rows = hidden.reshape(members, n * v, -1)
        hidden = torch.relu(linear(parameters, number, rows)).reshape(members, n, v, -1)
    return linear(parameters, last, hidden.mean(dim=2))[..., 0]


def fit_graph_model(
    graphs: Graphs,
    seconds: Floats,
    *,
    seed: int,
    width: int = 32,
    layers: int = 2,
    training: Training | None = None,
) -> GraphModel:
    """Learn latencies: `fit_graph_regressor` of log seconds, with intervals and a flag.

    Raises DataError for seconds that are not positive numbers.
    """
    seconds = np.asarray(seconds, np.float64)
    if not (np.all(np.isfinite(seconds)) and np.all(seconds > 0)):
        raise DataError("latencies must be positive seconds: check the table, or measure again.")
    regressor = fit_graph_regressor(
        graphs,
        np.log(seconds),
        seed=seed,
        width=width,
        layers=layers,
        training=training or _training(len(seconds), _STEADY_RATE),
    )
    return GraphModel(
        regressor=regressor,
        half_width=half_width(regressor.held_out_errors),
        familiarity=Familiarity.of(graphs.flat),
        known_operators=np.unique(graphs.operators).astype(np.int64),
    )
