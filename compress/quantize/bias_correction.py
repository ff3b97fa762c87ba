"""Empirical bias correction (Nagel et al., 1906.04721, section 4.2).

Rounding weights and clipping activations shifts the mean of each output channel. The shift is
measured on data and subtracted from the bias, one layer after the other: each layer is measured
with all layers before it corrected already, so that no shift is corrected twice. What the samples
do not support is not corrected: each shift is shrunk by its standard error (the positive-part rule
of James and Stein), else the noise of few samples costs more than the shifts of good weights.
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

Means = Mapping[str, torch.Tensor]

_INT32_MAX = 2**31 - 1


def correct_bias(
    network: Network, quantized: Network, x: Floats, *, means: Means | None = None
) -> Network:
    """`quantized` with the biases of layers of integer weights corrected towards `network`.

    `quantized` is `quantize(network, ...)`; ``x: [N, *sample]``, of which as many samples are used
    as fit into memory at once. `means` are `layer_means(network, x)`, where they are known. Layers
    with float weights keep their biases.
    """
    sample = _sample(network, x)
    made = quantized.producers()
    layers = {n.outputs[0]: n for n in quantized.layers if _has_integers(made, n)}
    if means is None:
        means = layer_means(network, x)
    with torch.no_grad():
        constants = dict(quantized.constants)
        for tensor, value in TorchNetwork(quantized).tensors(sample):
            if tensor in layers:
                shift = _supported_shift((_sample_means(value) - means[tensor]).numpy())
                applied = _shift_bias(quantized, layers[tensor], shift, constants)
                value += torch.from_numpy(applied).reshape(-1, *[1] * (value.ndim - 2))
    return quantized.replace(constants=constants)


def layer_means(network: Network, x: Floats) -> Means:
    """The mean output of every layer, per sample and channel: ``{tensor: [N, C]}``."""
    layers = {node.outputs[0] for node in network.layers}
    with torch.no_grad():
        return {
            tensor: _sample_means(value)
            for tensor, value in TorchNetwork(network).tensors(_sample(network, x))
            if tensor in layers
        }


def _sample(network: Network, x: Floats) -> torch.Tensor:
    if not len(x):
        raise DataError("bias correction needs at least one sample")
    return torch.from_numpy(np.ascontiguousarray(x[: samples_at_once(network)]))


def _has_integers(producers: Mapping[str, Node], layer: Node) -> bool:
    maker = producers.get(layer.inputs[1])
    return maker is not None and maker.op == "DequantizeLinear"


def _sample_means(value: torch.Tensor) -> torch.Tensor:
    """Mean over places: ``[N, C, ...]`` gives ``[N, C]``."""
    return value.reshape(*value.shape[:2], -1).mean(dim=2, dtype=torch.float64)


def _supported_shift(shifts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of ``[N, C]`` over samples, towards zero by its squared standard error; ``[C]``."""
    mean = shifts.mean(axis=0)
    error = shifts.var(axis=0, ddof=1) / len(shifts) if len(shifts) > 1 else np.zeros_like(mean)
    squared = np.square(mean)
    kept = np.clip(1 - error / np.maximum(squared, 1e-300), 0, 1)
    return np.asarray(mean * np.where(squared > 0, kept, 0))


def _shift_bias(
    quantized: Network, layer: Node, shift: npt.NDArray[np.float64], constants: dict[str, Array]
) -> Floats:
    """Subtract `shift` ``[C]`` from the layer's bias; the change in reals that this is."""
    producers = quantized.producers()
    if layer.inputs[2] in constants:  # of a weight-only layer
        real = shift.astype(np.float32)
        constants[layer.inputs[2]] = constants[layer.inputs[2]].astype(np.float32) - real
        return -real
    bias_name, scale_name = producers[layer.inputs[2]].inputs[:2]
    weight = constants[producers[layer.inputs[1]].inputs[0]]
    limit = _INT32_MAX - int(np.prod(weight.shape[1:])) * 255 * 127
    before, scale = constants[bias_name].astype(np.int64), constants[scale_name].astype(np.float64)
    after = np.clip(before - np.rint(shift / scale).astype(np.int64), -limit, limit)
    constants[bias_name] = after.astype(np.int32)
    return np.asarray((after - before) * scale, dtype=np.float32)
