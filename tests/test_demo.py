"""The built-in example."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from millifit import demo
from millifit.data import Dataset


def test_digits_are_split_apart_with_equal_shares() -> None:
    """All 1797 images are used once, in parts of 997, 150, 200 and 450 with a tenth per digit."""
    data = demo.digits_dataset(seed=0)
    assert data.train is not None
    parts = [data.train, data.calibration, data.search, data.validation]
    assert [len(part.x) for part in parts] == [997, 150, 200, 450]
    everything = np.concatenate([part.x for part in parts]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797
    for part in parts:
        assert part.x.shape[1:] == (1, 32, 32)
        assert part.x.dtype == np.float32
        assert part.y is not None
        shares = np.bincount(part.y, minlength=10) / len(part.y)
        assert np.abs(shares - 0.1).max() < 0.01
    assert abs(float(data.train.x.mean())) < 0.02
    assert abs(float(data.train.x.std()) - 1) < 0.02


def test_split_follows_the_seed() -> None:
    """The same seed gives the same parts, another seed others."""
    first, again, other = (demo.digits_dataset(seed=seed).validation.x for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_untrained_network_has_the_stated_size() -> None:
    """14.7 million multiply-adds from 32x32 images to ten logits, whatever the random state."""
    torch.manual_seed(5)
    module = demo.digits_network(seed=0).eval()
    products = []
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(
                lambda m, _, out: products.append(out[0].numel() * m.weight[0].numel())
            )
    assert module(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert sum(products) == 14_701_824
    torch.manual_seed(6)
    again = demo.digits_network(seed=0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in module.state_dict().items())


def _few(count: int) -> Dataset:
    data = demo.digits_dataset(seed=0)
    assert data.train is not None
    return dataclasses.replace(data, train=data.train.take(np.arange(count)))


def test_training_learns() -> None:
    """Four passes over 500 digits get most others right; the network is ready for inference."""
    data = _few(500)
    module = demo.train_digits_network(data, seed=0, epochs=4)
    with torch.no_grad():
        answers = module(torch.from_numpy(data.search.x)).argmax(dim=1).numpy()
    assert not module.training
    assert (answers == data.search.y).mean() > 0.5


def test_training_repeats() -> None:
    """The same seed trains the same weights."""
    data = _few(100)
    first, again = (demo.train_digits_network(data, seed=0, epochs=1) for _ in range(2))
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())
