"""Fine-tune a network on training data, with a teacher's answers where one is given."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from millifit.compress.evaluate import Floats, Labels
from millifit.compress.torch_network import TorchNetwork
from millifit.data import Split
from millifit.errors import DataError, ModelError
from millifit.progress import SILENT, Progress
from millifit.targets.network import Network

_WARMUP_FRACTION = 0.1
# Without BatchNormalization single batches make steep gradients; their length is limited.
_GRADIENT_NORM = 1.0


def finetune(
    network: Network,
    train: Split,
    *,
    epochs: int,
    learning_rate: float = 1e-2,
    batch: int = 32,
    teacher: Network | None = None,
    temperature: float = 2.0,
    label_weight: float = 0.5,
    shift: int = 0,
    seed: int,
    progress: Progress = SILENT,
) -> Network:
    """Train the weights and biases of `network` for `epochs` passes over `train`.

    The loss is the cross entropy of the labels and, with a `teacher`, the divergence from its
    answers softened by `temperature` (Hinton et al., 1503.02531, section 2), which has the weight
    ``1 - label_weight``, or 1 without labels. Adam with a short warm-up, then a cosine to zero;
    `learning_rate` is relative: 0.01 moves a tensor by 1 % of its root mean square in a step.
    `shift` moves every image by up to so many pixels at random. The same seed gives the same result
    on the same machine. DataError without labels and teacher; ModelError where the loss diverges.
    """
    if epochs < 1 or batch < 1 or not len(train.x):
        raise DataError(f"nothing to train on: {epochs} epochs of {len(train.x)} samples")
    if train.y is None and teacher is None:
        raise DataError("fine-tuning needs labels or a teacher; give labelled training data")
    module = TorchNetwork(network)
    rng = np.random.default_rng(seed)
    steps = epochs * math.ceil(len(train.x) / batch)
    optimizer = torch.optim.Adam(_relative_rates(module, learning_rate))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    loss = _Loss(teacher, temperature=temperature, label_weight=label_weight)
    with progress.stage(f"fine-tune {network.name}", steps) as advance:
        for _ in range(epochs):
            order = rng.permutation(len(train.x))
            for start in range(0, len(order), batch):
                chosen = np.sort(order[start : start + batch])
                x = shifted(train.x[chosen], shift, rng) if shift else train.x[chosen]
                value = loss(module, x, None if train.y is None else train.y[chosen])
                _step(module, optimizer, value, network.name)
                schedule.step()
                advance(1)
    return module.to_network()


def shifted(x: Floats, shift: int, rng: np.random.Generator) -> Floats:
    """Every image ``[N, C, H, W]`` moved by up to `shift` pixels each way; edges are repeated."""
    if x.ndim != 4:
        raise DataError(f"only images [N, C, H, W] can be shifted, not {x.shape}")
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (shift, shift), (shift, shift)), mode="edge")
    places = rng.integers(0, 2 * shift + 1, size=(len(x), 2))
    images = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, places, strict=True)
    ]
    return np.stack(images)


class _Loss:
    """What is minimised, of a batch."""

    def __init__(self, teacher: Network | None, *, temperature: float, label_weight: float) -> None:
        self._teacher = None if teacher is None else TorchNetwork(teacher)
        self._temperature = temperature
        self._label_weight = label_weight

    def __call__(self, module: TorchNetwork, x: Floats, y: Labels | None) -> Tensor:
        inputs = torch.from_numpy(x)
        logits = module.logits(inputs)
        if self._teacher is None:
            assert y is not None
            return functional.cross_entropy(logits, torch.from_numpy(y))
        with torch.no_grad():
            answers = self._teacher.logits(inputs)
        soft = self._temperature**2 * functional.kl_div(
            functional.log_softmax(logits / self._temperature, dim=1),
            functional.log_softmax(answers / self._temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        if y is None:
            return soft
        hard = functional.cross_entropy(logits, torch.from_numpy(y))
        return self._label_weight * hard + (1 - self._label_weight) * soft


def _relative_rates(module: nn.Module, learning_rate: float) -> list[dict[str, object]]:
    """One group per tensor: a step of Adam moves it by `learning_rate` times its own size.

    Folding BatchNormalization leaves tensors whose sizes differ by orders of magnitude (a first
    layer that reads 0..255 has tiny weights): one absolute rate would wreck the small ones or never
    move the large. As in Adafactor (Shazeer and Stern, 1804.04235, section 8).
    """
    return [
        {
            "params": [parameter],
            "lr": learning_rate * max(float(parameter.detach().square().mean().sqrt()), 1e-3),
        }
        for parameter in module.parameters()
    ]


def _rate(step: int, steps: int) -> float:
    """Learning rate factor at a step: linear warm-up, then half a cosine."""
    warmup = max(1, round(_WARMUP_FRACTION * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _step(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, name: str) -> None:
    optimizer.zero_grad()
    if not torch.isfinite(loss):
        raise ModelError(
            f"fine-tuning of '{name}' diverged (the loss is {loss.item()}); use a smaller learning "
            "rate and check the data for extreme values"
        )
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    nn.utils.clip_grad_norm_(module.parameters(), _GRADIENT_NORM)
    optimizer.step()
