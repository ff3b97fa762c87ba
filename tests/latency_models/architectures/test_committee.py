"""Members that leave out one fold each."""

import numpy as np
import pytest
import torch
from torch import Tensor

from millifit.errors import DataError
from millifit.latency_models.architectures.committee import (
    Committee,
    Parameters,
    Training,
    committee_mean,
    draw_layers,
    linear,
    train_committee,
)


def forward(parameters: Parameters, inputs: tuple[Tensor, ...]) -> Tensor:
    return linear(parameters, 2, torch.relu(linear(parameters, 1, inputs[0])))[..., 0]


def trained(x: Tensor, target: Tensor, training: Training, seed: int = 0) -> Committee:
    def initial(members: int, generator: torch.Generator) -> dict[str, Tensor]:
        return draw_layers(members, (x.shape[1], 64, 1), generator)

    return train_committee(forward, initial, (x,), target, training=training, seed=seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TRAINING = Training(steps=300, weight_decays=(0.01,), folds=3)


def test_held_out_errors_are_of_members_that_have_not_seen_the_subject() -> None:
    """Noise is learnt by heart by the members that see it; the errors say that nothing was."""
    x, noise = drawn(60, 20), drawn(60, seed=1)
    committee = trained(x, noise, TRAINING)
    seen = noise - committee_mean(forward, committee.parameters, (x,))
    assert float((seen**2).mean()) < 0.4
    assert np.mean(committee.held_out_errors**2) > 0.9


def test_held_out_errors_choose_the_weight_decay() -> None:
    """A decay that flattens everything is not taken for a target without noise."""
    x = drawn(200, 4)
    target = torch.relu(x[:, 0]) - x[:, 1]
    committee = trained(x, target, Training(steps=300, weight_decays=(100.0, 0.01), folds=3))
    assert committee.weight_decay == 0.01
    assert np.sqrt(np.mean(committee.held_out_errors**2)) < 0.2


def test_a_decay_trains_the_same_beside_others() -> None:
    """Candidates share draws and batches but not weights: alone the result is the same."""
    x, target = drawn(80, 4), drawn(80, 4)[:, 0]
    alone = trained(x, target, Training(steps=50, weight_decays=(0.01,), folds=3))
    beside = trained(x, target, Training(steps=50, weight_decays=(50.0, 0.01), folds=3))
    assert beside.weight_decay == 0.01
    assert beside.held_out_errors == pytest.approx(alone.held_out_errors, abs=1e-5)


def test_no_global_state_is_used_or_touched() -> None:
    """Neither the global seed nor its state has to do with a training."""
    x, target = drawn(40, 4), drawn(40, seed=2)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = trained(x, target, TRAINING)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = trained(x, target, TRAINING)
    assert np.array_equal(first.held_out_errors, second.held_out_errors)
    other = trained(x, target, TRAINING, seed=1)
    assert not np.array_equal(first.held_out_errors, other.held_out_errors)


def test_folds_of_unequal_size_and_small_batches() -> None:
    """Ten subjects in three folds: every subject gets an error."""
    committee = trained(drawn(10, 4), drawn(10, seed=2), TRAINING)
    assert np.all(np.isfinite(committee.held_out_errors))


def test_too_few_subjects_and_senseless_options_are_refused() -> None:
    """Two subjects per fold are the least."""
    with pytest.raises(DataError, match="measure at least 6"):
        trained(drawn(5, 4), drawn(5), TRAINING)
    with pytest.raises(ValueError, match="two folds"):
        Training(folds=1)
