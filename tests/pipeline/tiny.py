"""A tiny network that reads digits of 8x8 pixels, trained in a second, and its data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from millifit.recipe import Recipe
from millifit.samples import Floats, Labels

MakeRecipe = Callable[..., Recipe]
"""Makes the recipe of a run in a folder; see the fixture `make_recipe`."""
SHAPE = (1, 8, 8)
CLASSES = 10
_STEPS, _BATCH = 200, 64


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


@cache
def digits() -> tuple[Floats, Labels]:
    """All 1797 digits ``[N, 1, 8, 8]`` in a random order, and what they show."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = (found.images[order, None] / 8 - 1).astype(np.float32)
    return x, found.target[order].astype(np.int64)


def validation() -> tuple[Floats, Labels]:
    """400 digits that training does not see."""
    x, y = digits()
    return x[:400], y[:400]


def with_training() -> dict[str, tuple[Floats, Labels]]:
    """The same, and 400 digits to calibrate on and to fine-tune with."""
    x, y = digits()
    return {"validation": (x[:300], y[:300]), "train": (x[400:800], y[400:800])}


@cache
def network() -> tuple[nn.Module, torch.Tensor]:
    """The trained network and an example input."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        _Residual(nn.Sequential(
            nn.Conv2d(16, 32, 1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(), nn.Conv2d(32, 16, 1),
        )),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    x, y = digits()
    images, labels = torch.from_numpy(x[400:]), torch.from_numpy(y[400:])
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=_STEPS)
    rng = np.random.default_rng(0)
    for _ in range(_STEPS):
        chosen = torch.from_numpy(rng.choice(len(images), _BATCH, replace=False))
        loss = functional.cross_entropy(module(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval(), torch.zeros(1, *SHAPE)
