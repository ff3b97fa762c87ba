"""The built-in example: a small MobileNet-style network that reads handwritten digits.

``millifit fit --demo`` is ``millifit fit millifit.demo:network --data millifit.demo:dataset``. The
digits are the 1797 images that come with scikit-learn; nothing is downloaded. The network is
trained here, in about a minute.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from millifit.compress.finetune import shifted
from millifit.data import Dataset, Split
from millifit.progress import SILENT, Progress

SIZE = 32
CLASSES = 10

_VALIDATION, _SEARCH, _CALIBRATION = 450, 200, 150
# Per stage: channels, blocks, stride of the first block. The stem halves the image to 16x16.
_STAGES = ((32, 2, 1), (64, 2, 2), (128, 3, 2))
_STEM = 32
_EXPANSION = 4
_BATCH = 50
_SHIFT = 2
_LEARNING_RATE = 5e-3


class _Residual(nn.Module):
    """Adds what `body` makes of its input to the input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """``x + body(x)``."""
        out: Tensor = x + self.body(x)
        return out


@cache
def dataset() -> Dataset:
    """The digits, split with seed 0."""
    return digits_dataset(seed=0)


def example() -> Tensor:
    """An input of the right shape, ``[1, 1, 32, 32]``."""
    return torch.zeros(1, 1, SIZE, SIZE)


@cache
def network() -> tuple[nn.Module, Tensor]:
    """The trained network of seed 0 and an example input ``[1, 1, 32, 32]``."""
    return train_digits_network(dataset(), seed=0), example()


def digits_dataset(*, seed: int) -> Dataset:
    """scikit-learn's digits as ``[N, 1, 32, 32]``, mean 0 and deviation 1, in four disjoint parts.

    Every part has the ten digits in equal shares: 450 images validate, 200 decide, 150 calibrate,
    997 train.
    """
    digits = load_digits()
    raw = torch.from_numpy(digits.images.astype(np.float32)[:, None] / 16)
    large = functional.interpolate(
        raw, size=(SIZE, SIZE), mode="bilinear", align_corners=False
    ).numpy()
    x = ((large - 0.305) / 0.323).astype(np.float32)
    everything = Split(x=x, y=digits.target.astype(np.int64))
    parts = _stratified(digits.target, (_VALIDATION, _SEARCH, _CALIBRATION), seed=seed)
    validation, search, calibration, train = (everything.take(part) for part in parts)
    return Dataset(calibration=calibration, search=search, validation=validation, train=train)


def _stratified(
    labels: npt.NDArray[np.int64], sizes: tuple[int, ...], *, seed: int
) -> list[npt.NDArray[np.int64]]:
    """Places of disjoint parts of these sizes and of the rest, each with the labels' shares."""
    rest = np.arange(len(labels))
    parts = []
    for place, size in enumerate(sizes):
        rest, part = train_test_split(
            rest, test_size=size, stratify=labels[rest], random_state=seed + place
        )
        parts.append(np.sort(part))
    return [*parts, np.sort(rest)]


def digits_network(*, seed: int) -> nn.Module:
    """The untrained network: inverted residual blocks (Sandler et al., 1801.04381, section 3.3).

    32x32 images, 3x3 stem with stride 2, seven blocks of 32, 64 and 128 channels, ReLU6, global
    average pooling and a classifier: about 15 M multiply-adds.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [*_conv_norm(1, _STEM, kernel=3, stride=2), nn.ReLU6()]
        channels = _STEM
        for width, blocks, stride in _STAGES:
            for block in range(blocks):
                layers.append(_inverted_residual(channels, width, stride if block == 0 else 1))
                channels = width
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
        return nn.Sequential(*layers, *head)


def _conv_norm(
    before: int, after: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after)]


def _inverted_residual(before: int, after: int, stride: int) -> nn.Module:
    """Expand, filter per channel, project; added to the input where the shapes agree."""
    wide = before * _EXPANSION
    body = nn.Sequential(
        *_conv_norm(before, wide, kernel=1),
        nn.ReLU6(),
        *_conv_norm(wide, wide, kernel=3, stride=stride, groups=wide),
        nn.ReLU6(),
        *_conv_norm(wide, after, kernel=1),
    )
    return _Residual(body) if stride == 1 and before == after else body


def train_digits_network(
    data: Dataset, *, seed: int, epochs: int = 12, progress: Progress = SILENT
) -> nn.Module:
    """Train `digits_network` on `data.train`; the result is in evaluation mode.

    AdamW with one cycle of the learning rate, on images shifted by up to two pixels: about 99 % of
    the validation images are read right. One seed gives one network on the same machine.
    """
    assert data.train is not None
    assert data.train.y is not None
    x, y = data.train.x, data.train.y
    module = digits_network(seed=seed).train()
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=_LEARNING_RATE, weight_decay=0.02)
    per_epoch = len(x) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_LEARNING_RATE, total_steps=epochs * per_epoch
    )
    with progress.stage("train the demo network", epochs * per_epoch) as advance:
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for step in range(per_epoch):
                chosen = order[step * _BATCH : (step + 1) * _BATCH]
                images = torch.from_numpy(shifted(x[chosen], _SHIFT, rng))
                loss = functional.cross_entropy(
                    module(images), torch.from_numpy(y[chosen]), label_smoothing=0.05
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                optimizer.step()
                schedule.step()
                advance(1)
    return module.eval()
