"""Layers in 16 bits: a tensor rounded by a Cast to fp16 or bf16 and one back.

As with QuantizeLinear and DequantizeLinear, what stands between the two is what exists in memory::

    Relu -> [Cast(bf16) -> Cast(float32)] -> Conv(weight: [bf16 constant -> Cast(float32)])

so every ONNX tool runs the network, with the rounding and without 16-bit kernels. Whoever reads a
rounded tensor takes the rounded values; only QuantizeLinear takes the original ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx.helper

from millifit.compress.quantize.constants import add_constant
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.target import HALF, Precision, activation_dtype


def round_halves(network: Network, precisions: Mapping[str, Precision]) -> Network:
    """The network with the layers that `precisions` calls "fp16" or "bf16" in 16 bits.

    Biases stay float32, as the sums do.
    """
    halves = {
        node.name: activation_dtype(precisions[node.name])
        for node in network.layers
        if precisions.get(node.name) in HALF
    }
    if not halves:
        return network
    wanted: dict[str, list[str]] = {}
    for node in network.layers:
        if node.name in halves and halves[node.name] not in wanted.setdefault(node.inputs[0], []):
            wanted[node.inputs[0]].append(halves[node.name])
    constants: dict[str, Array] = dict(network.constants)
    types: dict[str, TensorType] = dict(network.types)
    nodes: list[Node] = []
    for tensor in network.inputs:
        nodes += _rounding(tensor, wanted, types)
    for node in network.nodes:
        read = dataclasses.replace(node, inputs=_redirected(node, wanted, halves))
        if node.name in halves:
            made, read = _with_half_weight(read, halves[node.name], constants, types)
            nodes.append(made)
        nodes.append(read)
        for tensor in node.outputs:
            nodes += _rounding(tensor, wanted, types)
    return network.replace(nodes=tuple(nodes), constants=constants, types=types)


def _redirected(
    node: Node, wanted: Mapping[str, list[str]], halves: Mapping[str, str]
) -> tuple[str, ...]:
    """The node's inputs, rounded where they are; as it computes where they are in two ways."""
    if node.op == "QuantizeLinear":
        return node.inputs
    inputs = []
    for tensor in node.inputs:
        dtypes = wanted.get(tensor, [])
        own = halves.get(node.name, dtypes[0] if len(dtypes) == 1 else "")
        inputs.append(f"{tensor}/{own}/rounded" if own in dtypes else tensor)
    return tuple(inputs)


def _rounding(
    tensor: str, wanted: Mapping[str, list[str]], types: dict[str, TensorType]
) -> list[Node]:
    made = []
    for dtype in wanted.get(tensor, []):
        half, rounded = f"{tensor}/{dtype}", f"{tensor}/{dtype}/rounded"
        types[half] = dataclasses.replace(types[tensor], dtype=dtype)
        types[rounded] = types[tensor]
        made += [_cast(tensor, half, dtype), _cast(half, rounded, "float32")]
    return made


def _with_half_weight(
    node: Node, dtype: str, constants: dict[str, Array], types: dict[str, TensorType]
) -> tuple[Node, Node]:
    stored, real = f"{node.name}/weight_{dtype}", f"{node.name}/weight_rounded"
    weight = constants[node.inputs[1]]
    add_constant(constants, types, stored, weight.astype(np.dtype(dtype)))
    types[real] = TensorType(shape=weight.shape, dtype="float32")
    inputs = (node.inputs[0], real, *node.inputs[2:])
    return _cast(stored, real, "float32"), dataclasses.replace(node, inputs=inputs)


def _cast(source: str, made: str, dtype: str) -> Node:
    kind = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    name = f"{made}/cast" if dtype == "float32" else f"{made}/round"
    return Node(name=name, op="Cast", inputs=(source,), outputs=(made,), attributes={"to": kind})
