"""Fine-tuning: it learns, it repeats, and it says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import images, residual

from millifit.compress.evaluate import accuracy, divergence, outputs
from millifit.compress.finetune import finetune, shifted
from millifit.compress.prune.pruner import prune
from millifit.data import Split
from millifit.errors import DataError, ModelError


def test_labels_are_learnt() -> None:
    """A small network fits labels that a function of the images gives."""
    x = images(256)
    y = (x[:, 0].mean(axis=(1, 2)) > 0).astype(np.int64)
    before = accuracy(outputs(residual(), x), y)
    trained = finetune(residual(), Split(x=x, y=y), epochs=20, learning_rate=0.03, seed=0)
    assert before < 0.75
    assert accuracy(outputs(trained, x), y) > 0.9


def test_teacher_is_followed_without_labels() -> None:
    """Distillation alone brings a pruned network closer to the whole one."""
    net, x = residual(), images(256)
    small = prune(net, {"conv1": 6, "conv4": 12})
    trained = finetune(small, Split(x=x, y=None), epochs=4, teacher=net, seed=0)
    reference = outputs(net, x)
    after = divergence(reference, outputs(trained, x))
    assert after < 0.5 * divergence(reference, outputs(small, x))


def test_same_seed_same_network() -> None:
    """One seed gives equal weights, another gives others."""
    split = Split(x=images(64), y=np.arange(64) % 5)
    first, second, other = (
        finetune(residual(), split, epochs=1, shift=1, seed=seed) for seed in (3, 3, 4)
    )
    for name, value in first.constants.items():
        np.testing.assert_array_equal(value, second.constants[name])
    assert not np.array_equal(first.constants["fc.w"], other.constants["fc.w"])


def test_divergence_is_an_error() -> None:
    """A loss that is not a number stops training with advice."""
    x = images(64)
    x[5] = np.nan
    with pytest.raises(ModelError, match="smaller learning rate"):
        finetune(residual(), Split(x=x, y=np.zeros(64, dtype=np.int64)), epochs=1, seed=0)


def test_nothing_to_learn_from_is_an_error() -> None:
    """Neither labels nor a teacher."""
    with pytest.raises(DataError, match="labels or a teacher"):
        finetune(residual(), Split(x=images(4), y=None), epochs=1, seed=0)


def test_shift_moves_images_and_repeats_edges() -> None:
    """Every image is a window of the image with repeated edges; all nine places occur."""
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    moved = shifted(np.repeat(image, 200, axis=0), 1, np.random.default_rng(0))
    padded = np.pad(image[0, 0], 1, mode="edge")
    windows = {padded[i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(3)}
    assert {np.ascontiguousarray(m[0]).tobytes() for m in moved} == windows
