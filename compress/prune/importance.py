"""How much each channel of a group matters: by its weights alone, or by the loss's gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from millifit.compress.evaluate import Floats, Labels
from millifit.compress.prune.groups import ChannelGroup
from millifit.compress.torch_network import TorchNetwork
from millifit.errors import DataError
from millifit.targets.network import Network

Scores = npt.NDArray[np.float64]

_BATCH = 16


def magnitude_importance(network: Network, group: ChannelGroup) -> Scores:
    """L2 norm of what makes each channel times that of what reads it; ``[size]``.

    The product does not change when a channel is scaled up in its producer and down in its
    consumers. Folded BatchNormalization leaves just such scales behind, which the norm of the
    filters alone would mistake for importance.
    """
    made, read = np.zeros(group.size), np.zeros(group.size)
    for name in group.producers:
        made += _per_channel(_weight(network, name) ** 2, axis=0, size=group.size)
    for use in group.members:
        made *= _per_channel(_weight(network, use.name) ** 2, axis=0, size=group.size)
    for use in group.consumers:
        read += _per_channel(_weight(network, use.name) ** 2, axis=1, size=group.size)
    return np.asarray(np.sqrt(made * (read if group.consumers else 1)))


def taylor_importances(
    network: Network,
    groups: Sequence[ChannelGroup],
    x: Floats,
    y: Labels | None,
    *,
    seed: int,
) -> dict[str, Scores]:
    """First-order Taylor estimate of the loss's change when a channel goes (Molchanov et al.,
    1906.10771): the mean over batches of (sum of gradient times weight) squared.

    ``x: [N, *sample]``, labels ``y: [N]``; without labels the network's own answers are taken for
    right. Scores ``[size]`` by group name.
    """
    if not len(x):
        raise DataError("Taylor importance needs samples; use magnitude_importance without")
    module = TorchNetwork(network)
    order = np.random.default_rng(seed).permutation(len(x))
    scores = {group.name: np.zeros(group.size) for group in groups}
    for start in range(0, len(x), _BATCH):
        chosen = order[start : start + _BATCH]
        module.zero_grad()
        logits = module.logits(torch.from_numpy(x[chosen]))
        labels = logits.argmax(dim=1) if y is None else torch.from_numpy(y[chosen])
        torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]  # torch
        products = _gradient_products(module, network)
        for group in groups:
            effect = sum(products[name] for name in group.producers)
            for use in group.members:
                member = products[use.name].reshape(group.size, -1).sum(axis=1)
                effect = effect + member
            scores[group.name] += np.square(effect) * len(chosen) / len(x)
    return scores


def _gradient_products(module: TorchNetwork, network: Network) -> Mapping[str, Scores]:
    """Sum of gradient times weight over each output channel of every layer: ``[O]`` by name."""
    products = {}
    for node in network.layers:
        total = np.zeros(network.types[node.inputs[1]].shape[0])
        for name in node.inputs[1:]:
            parameter = module.constant(name) if name else None
            if parameter is not None and parameter.grad is not None:
                product = (parameter * parameter.grad).detach().numpy().astype(np.float64)
                total += product.reshape(len(total), -1).sum(axis=1)
        products[node.name] = total
    return products


def _per_channel(squares: Scores, *, axis: int, size: int) -> Scores:
    """Sum over all but one axis, whose neighbours of one channel are joined; ``[size]``."""
    return np.asarray(np.moveaxis(squares, axis, 0).reshape(size, -1).sum(axis=1))


def _weight(network: Network, layer: str) -> Scores:
    return np.asarray(network.constants[network.node(layer).inputs[1]], dtype=np.float64)
