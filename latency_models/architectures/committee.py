"""Training a committee of small torch networks: one member for each fold that it does not see.

Every member is trained on all folds but one, for every candidate of the weight decay, all members
in one batched computation. The errors of the members on the folds that they have not seen choose
the decay and become intervals: the errors of CV+ (arXiv 1905.02928, section 3), though as one width
for all. The members of the chosen decay predict together, by their mean, so that nothing is fitted
a second time; as a mean errs less than one member, such intervals are a little too wide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from millifit.errors import DataError
from millifit.latency_models.prediction import Floats

Parameters = Mapping[str, Tensor]  # each [members, ...]
# Parameters and inputs, each [members, n, ...], to outputs [members, n].
Forward = Callable[[Parameters, tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How members are trained: Adam with decoupled weight decay and a rate that falls to zero
    along a cosine, for `steps` batches of `batch_size` subjects.

    `weight_decays` are the candidates among which the held-out errors choose.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 0.005
    weight_decays: tuple[float, ...] = (0.1, 0.3, 1.0)
    folds: int = 5

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.folds - 1, len(self.weight_decays))
        if min(counts) < 1 or self.learning_rate <= 0 or min(self.weight_decays) < 0:
            raise ValueError(f"needs steps, a batch, two folds, a rate and decays, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Committee:
    """Trained members: their `parameters` ``[folds, ...]``, the errors ``[n]`` of each subject's
    prediction by the member that has not seen it, and the weight decay that made these smallest.
    """

    parameters: Mapping[str, Tensor]
    held_out_errors: Floats
    weight_decay: float


def train_committee(
    forward: Forward,
    initial: Callable[[int, torch.Generator], dict[str, Tensor]],
    inputs: tuple[Tensor, ...],
    target: Tensor,
    *,
    training: Training,
    seed: int,
) -> Committee:
    """Train on `inputs` ``[n, ...]`` for the mean squared error against `target` ``[n]``.

    `initial` draws the parameters of so many members; those named ``weight...`` decay. `target`
    should have about unit variance. Raises DataError for fewer than two subjects per fold.
    """
    n, folds, decays = len(target), training.folds, training.weight_decays
    if n < 2 * folds:
        raise DataError(
            f"{n} measurements are too few for {folds} folds: measure at least {2 * folds}, or "
            "choose fewer folds or a simpler model."
        )
    generator = torch.Generator().manual_seed(seed)
    fold_of = torch.randperm(n, generator=generator) % folds
    drawn = initial(folds, generator)
    # Members [decays * folds]: each decay starts from the same draw and sees the same batches.
    parameters = {
        name: value.repeat(len(decays), *(1,) * (value.ndim - 1)).requires_grad_()
        for name, value in drawn.items()
    }
    decay = torch.tensor(decays).repeat_interleave(folds)
    batches = _batches(fold_of, training, generator)
    _descend(forward, parameters, inputs, target, batches, decay, training)
    errors = _held_out_errors(forward, parameters, inputs, target, fold_of, len(decays))
    best = int(torch.argmin((errors**2).mean(dim=1)))
    chosen = slice(best * folds, (best + 1) * folds)
    return Committee(
        parameters={name: value.detach()[chosen].clone() for name, value in parameters.items()},
        held_out_errors=errors[best].double().numpy(),
        weight_decay=decays[best],
    )


def draw_layers(
    members: int, widths: Sequence[int], generator: torch.Generator
) -> dict[str, Tensor]:
    """``weight_1``, ``bias_1`` and so on of linear layers between so many channels.

    Weights have the variance 2 / inputs, as suits ReLU (arXiv 1502.01852, equation 10).
    """
    made = {}
    for number, (rows, columns) in enumerate(itertools.pairwise(widths), start=1):
        drawn = torch.randn(members, rows, columns, generator=generator)
        made[f"weight_{number}"] = drawn * math.sqrt(2 / rows)
        made[f"bias_{number}"] = torch.zeros(members, 1, columns)
    return made


def linear(parameters: Parameters, number: int, rows: Tensor) -> Tensor:
    """Layer `number` of each member, for rows ``[members, n, inputs]``."""
    return torch.baddbmm(parameters[f"bias_{number}"], rows, parameters[f"weight_{number}"])


def committee_mean(forward: Forward, parameters: Parameters, inputs: tuple[Tensor, ...]) -> Tensor:
    """The mean of all members' outputs for `inputs` ``[n, ...]``: ``[n]``, differentiable."""
    members = len(next(iter(parameters.values())))
    return forward(parameters, tuple(i.expand(members, *i.shape) for i in inputs)).mean(dim=0)


def vectorised_mean(
    forward: Forward,
    arrays: Mapping[str, npt.NDArray[np.float32]],
    inputs: tuple[Tensor, ...],
    *,
    rows: int,
) -> Floats:
    """`committee_mean` of saved arrays, as numbers, `rows` subjects at a time: ``[n]``."""
    parameters = {name: torch.from_numpy(value) for name, value in arrays.items()}
    made = [np.empty(0)]
    with torch.inference_mode():
        for start in range(0, len(inputs[0]), rows):
            part = tuple(i[start : start + rows] for i in inputs)
            made.append(committee_mean(forward, parameters, part).double().numpy())
    return np.concatenate(made)


def _batches(fold_of: Tensor, training: Training, generator: torch.Generator) -> Iterator[Tensor]:
    """Numbers of subjects ``[folds, batch]`` for each step; a member never gets its own fold."""
    streams = []
    for fold in range(training.folds):
        seen = torch.nonzero(fold_of != fold)[:, 0]
        size = min(training.batch_size, len(seen))
        epochs = math.ceil(training.steps * size / len(seen))
        order = [seen[torch.randperm(len(seen), generator=generator)] for _ in range(epochs)]
        streams.append(torch.cat(order)[: training.steps * size].reshape(training.steps, size))
    # Folds differ in size by one at most; so may their batches, where there are few subjects.
    size = min(stream.shape[1] for stream in streams)
    return iter(torch.stack([stream[:, :size] for stream in streams], dim=1))


def _descend(
    forward: Forward,
    parameters: dict[str, Tensor],
    inputs: tuple[Tensor, ...],
    target: Tensor,
    batches: Iterator[Tensor],
    decay: Tensor,
    training: Training,
) -> None:
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2), in place."""
    optimizer = torch.optim.Adam(list(parameters.values()), lr=training.learning_rate)
    repeats = len(decay) // training.folds
    for step, batch in enumerate(batches):
        rate = 0.5 * training.learning_rate * (1 + math.cos(math.pi * step / training.steps))
        optimizer.param_groups[0]["lr"] = rate
        rows = batch.repeat(repeats, 1)  # [members, batch]
        errors = forward(parameters, tuple(i[rows] for i in inputs)) - target[rows]
        optimizer.zero_grad()
        # Summed over members: each has the gradient of its own mean squared error.
        (errors**2).mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, value in parameters.items():
                if name.startswith("weight"):
                    value *= (1 - rate * decay).reshape(-1, *(1,) * (value.ndim - 1))
        optimizer.step()


def _held_out_errors(
    forward: Forward,
    parameters: Parameters,
    inputs: tuple[Tensor, ...],
    target: Tensor,
    fold_of: Tensor,
    decays: int,
) -> Tensor:
    """Errors ``[decays, n]`` of each subject by the members that have not seen it."""
    folds = len(next(iter(parameters.values()))) // decays
    errors = torch.empty(decays, len(target))
    with torch.no_grad():
        for fold in range(folds):
            rows = torch.nonzero(fold_of == fold)[:, 0]
            unseen = {name: value[fold::folds] for name, value in parameters.items()}
            part = tuple(i[rows].expand(decays, len(rows), *i.shape[1:]) for i in inputs)
            errors[:, rows] = target[rows] - forward(unseen, part)
    return errors
