"""Weight-only quantization of dense layers: integers in memory, float32 arithmetic.

At batch 1 a large dense layer takes as long as reading its weights. Weights are symmetric: ``w8``
has 8 bits and a scale per output channel, ``w4`` 4 bits and a scale per block of 32 inputs, as
ONNX has them since opset 21. Activations are not quantized, so no data is needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from millifit.compress.quantize.constants import add_constant, add_dequantized
from millifit.targets.importer.onnx_graph import with_opset
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.target import WEIGHT_ONLY, Precision

BLOCK = 32
"""Inputs of an output channel that share a scale in ``w4``."""

_OPSET = 21  # the first with 4-bit integers and scales per block


def quantize_weights(network: Network, precisions: Mapping[str, Precision]) -> Network:
    """The network with the dense layers that `precisions` calls "w8" or "w4" quantized."""
    chosen = {n.name for n in network.layers if precisions.get(n.name) in WEIGHT_ONLY}
    if not chosen:
        return network
    if any(precisions[name] == "w4" for name in chosen):
        network = simplify(with_opset(network, _OPSET))
    constants: dict[str, Array] = dict(network.constants)
    types: dict[str, TensorType] = dict(network.types)
    nodes: list[Node] = []
    for node in network.nodes:
        if node.name in chosen:
            nodes += _quantized(node, precisions[node.name], constants, types)
        else:
            nodes.append(node)
    return network.replace(nodes=tuple(nodes), constants=constants, types=types)


def symmetric_blocks(
    weight: npt.NDArray[np.float32], *, block: int, levels: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers in -`levels` .. `levels` of a weight ``[O, I]``, and scales ``[O, blocks]``.

    The last of the ``ceil(I / block)`` blocks may be shorter. A block whose weights are all 0 has
    the scale 1.
    """
    outputs, inputs = weight.shape
    count = math.ceil(inputs / block)
    padded = np.zeros((outputs, count * block), np.float32)
    padded[:, :inputs] = weight
    blocks = padded.reshape(outputs, count, block)
    scale = (np.abs(blocks).max(axis=2) / levels).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    integers = np.clip(np.rint(blocks / scale[:, :, None]), -levels, levels).astype(np.int8)
    return integers.reshape(outputs, -1)[:, :inputs], scale


def _quantized(
    node: Node,
    precision: Precision,
    constants: dict[str, Array],
    types: dict[str, TensorType],
) -> list[Node]:
    weight = constants[node.inputs[1]].astype(np.float32)
    if precision == "w4":
        integers, scale = symmetric_blocks(weight, block=BLOCK, levels=7)
        values: Array = integers.astype(np.dtype("int4"))
        made = add_dequantized(node.name, "weight", values, scale, constants, types, block=BLOCK)
    else:
        integers, scale = symmetric_blocks(weight, block=weight.shape[1], levels=127)
        made = add_dequantized(node.name, "weight", integers, scale[:, 0], constants, types)
    bias = np.zeros(len(weight), np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias += constants[node.inputs[2]].reshape(-1).astype(np.float32)
    add_constant(constants, types, f"{node.name}/bias", bias)  # its own, to be corrected
    inputs = (node.inputs[0], made.outputs[0], f"{node.name}/bias")
    return [made, dataclasses.replace(node, inputs=inputs)]
