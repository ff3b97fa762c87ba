"""Restore the statistics of activations that pruning changed, before any training.

Where channels are gone, sums lose terms: means drift and variances collapse, layer after layer.
Scaling and shifting each output channel back to the mean and the deviation it had in the whole
network (REPAIR, Jordan et al., 2211.08403) undoes much of the damage, with a few samples
and no gradients.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from millifit.compress.evaluate import Floats, samples_at_once
from millifit.compress.torch_network import TorchNetwork
from millifit.errors import DataError
from millifit.targets.network import Array, Network, Node

Kept = npt.NDArray[np.int64]

_LARGEST_FACTOR = 4.0


def restore_statistics(
    network: Network, pruned: Network, kept: Mapping[str, Kept], x: Floats
) -> Network:
    """`pruned` with the outputs of its layers scaled and shifted to those of `network`.

    `kept` has the places ``[kept]`` of a layer's output channels in the whole network, for every
    layer that lost some; ``x: [N, *sample]``. Layers are restored in order, each behind the
    restored ones.
    """
    if not len(x):
        raise DataError("restoring statistics needs at least one sample")
    sample = torch.from_numpy(np.ascontiguousarray(x[: samples_at_once(network)]))
    layers = {node.outputs[0]: node for node in pruned.layers}
    constants = dict(pruned.constants)
    with torch.no_grad():
        wanted = {
            tensor: _statistics(value)
            for tensor, value in TorchNetwork(network).tensors(sample)
            if tensor in layers
        }
        for tensor, value in TorchNetwork(pruned).tensors(sample):
            if tensor not in layers:
                continue
            places = kept.get(layers[tensor].name, slice(None))
            mean, deviation = (statistic[places] for statistic in wanted[tensor])
            now_mean, now_deviation = _statistics(value)
            factor = (deviation + 1e-9) / (now_deviation + 1e-9)
            factor = factor.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
            _rescale(layers[tensor], factor, mean - factor * now_mean, constants)
            shape = (-1, *[1] * (value.ndim - 2))
            value.sub_(now_mean.reshape(shape)).mul_(factor.reshape(shape))
            value.add_(mean.reshape(shape))
    return pruned.replace(constants=constants)


def _statistics(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over samples and places: ``[N, C, ...]`` gives ``[C]`` each."""
    channels = value.transpose(0, 1).reshape(value.shape[1], -1)
    return channels.mean(dim=1), channels.std(dim=1, correction=0)


def _rescale(
    layer: Node, factor: torch.Tensor, shift: torch.Tensor, constants: dict[str, Array]
) -> None:
    weight, bias = layer.inputs[1], layer.inputs[2]
    scale = factor.numpy()
    shaped = scale.reshape(-1, *[1] * (constants[weight].ndim - 1))
    constants[weight] = (constants[weight] * shaped).astype(np.float32)
    constants[bias] = (constants[bias] * scale + shift.numpy()).astype(np.float32)
