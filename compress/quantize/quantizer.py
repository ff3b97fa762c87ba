"""Quantize a network: QuantizeLinear and DequantizeLinear around its integer layers.

Activations are uint8, affine, one scale per tensor. Weights are int8, symmetric, one scale per
output channel (or per layer). Biases are int32 with scale ``s_x * s_w``. ONNX Runtime runs the
result with integer kernels; so does the code generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millifit.compress.quantize.constants import (
    add_constant,
    add_dequantized,
    without_unread,
)
from millifit.compress.quantize.halves import round_halves
from millifit.compress.quantize.placement import Placement, place
from millifit.compress.quantize.ranges import Range
from millifit.compress.quantize.weight_only import quantize_weights
from millifit.errors import ModelError
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.target import HALF, INTEGER, WEIGHT_ONLY, Precision

_INT32_MAX = 2**31 - 1
# What the largest sum of products must leave for the bias in an int32 accumulator.
_LEAST_BIAS_MAX = 2**24
_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """``integers * scale`` approximates a weight ``[O, ...]``; scale is ``[O]`` or a scalar.

    `integers` are int8 in -127..127.
    """

    integers: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def quantize(
    network: Network,
    precisions: Mapping[str, Precision],
    ranges: Mapping[str, Range],
    *,
    per_channel: bool = True,
) -> Network:
    """The network with every layer in its precision; layers without one stay fp32.

    "int8" and "w7a8" layers get QuantizeLinear and DequantizeLinear; "w7a8" keeps the weights of
    convolutions and dense layers in -63..63, for processors on which two products of 8-bit weights
    could overflow, and stores them as int8 all the same. Depthwise layers, which have no such
    products, keep 8 bits. "fp16" and "bf16" are as `round_halves`, "w8" and "w4" as
    `quantize_weights` say.

    `ranges` come from `calibrate`; only integer layers need them. Raises ModelError naming the
    layer that cannot have its precision: whose sums would overflow 32 bits, whose weight is not a
    constant of at least two axes with the output channels first, or whose input has no range.
    """
    _check(network, precisions)
    network = quantize_weights(network, precisions)
    network = _quantize_integers(network, precisions, ranges, per_channel=per_channel)
    return without_unread(round_halves(network, precisions))


def _quantize_integers(
    network: Network,
    precisions: Mapping[str, Precision],
    ranges: Mapping[str, Range],
    *,
    per_channel: bool,
) -> Network:
    placement = place(network, precisions)
    if not placement.int8_nodes:
        return network
    constants: dict[str, Array] = dict(network.constants)
    types: dict[str, TensorType] = dict(network.types)
    nodes: list[Node] = []
    for tensor in network.inputs:
        nodes += _quantize_tensor(tensor, placement, ranges, constants, types)
    layers = {node.name for node in network.layers}
    for node in network.nodes:
        read = _redirected(node, placement)
        if node.name in layers and node.name in placement.int8_nodes:
            scale = ranges[placement.range_of[node.inputs[0]]].scale
            narrow = precisions[node.name] == "w7a8" and not is_depthwise(network, node)
            levels = 63 if narrow else 127
            nodes += _quantize_layer(read, scale, per_channel, levels, constants, types)
        else:
            nodes.append(read)
        for tensor in node.outputs:
            nodes += _quantize_tensor(tensor, placement, ranges, constants, types)
    return network.replace(nodes=tuple(nodes), constants=constants, types=types)


def quantizable(
    network: Network, precision: Precision = "int8", *, depthwise: bool = False
) -> dict[str, Precision]:
    """Every layer in `precision` that can have it: the most that `quantize` accepts.

    Integer layers need sums that 32 bits can hold; weight-only precisions are for dense layers.
    Depthwise layers, which compute little for what they read, gain nothing from 16 bits on a
    processor: they stay fp32 unless `depthwise`.
    """
    return {
        n.name: precision for n in network.layers if _can_have(network, n, precision, depthwise)
    }


def _can_have(network: Network, layer: Node, precision: Precision, depthwise: bool) -> bool:
    if precision in WEIGHT_ONLY:
        return layer.op == "Gemm"
    if precision in HALF:
        return depthwise or not is_depthwise(network, layer)
    if precision in INTEGER:
        products = int(np.prod(network.types[layer.inputs[1]].shape[1:]))
        return _INT32_MAX - products * 255 * 127 >= _LEAST_BIAS_MAX
    return True


def is_depthwise(network: Network, layer: Node) -> bool:
    """Whether a layer is a convolution of every channel by itself."""
    grouped = layer.op == "Conv" and layer.attributes.get("group", 1) != 1
    return grouped and network.types[layer.inputs[1]].shape[1] == 1


def _check(network: Network, precisions: Mapping[str, Precision]) -> None:
    layers = {node.name: node for node in network.layers}
    if unknown := sorted(set(precisions) - set(layers)):
        raise ModelError(f"'{network.name}' has no layer {', '.join(map(repr, unknown))}")
    for name, precision in precisions.items():
        if precision == "fp32":
            continue
        _check_form(layers[name], network.constants)
        if precision in WEIGHT_ONLY and layers[name].op != "Gemm":
            raise ModelError(
                f"layer '{name}' ({layers[name].op}) cannot be {precision}, which is for dense "
                "layers. Choose another precision for it."
            )


def quantize_weight(
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    *,
    input_scale: float,
    layer: str,
    per_channel: bool = True,
    levels: int = 127,
) -> QuantizedWeight:
    """Symmetric int8 of a weight ``[O, ...]``, so scaled that its bias ``[O]`` fits into int32.

    The integers are in -`levels` .. `levels`.

    ModelError naming the layer where an int32 accumulator cannot hold the sum of ``K`` products.
    """
    products = int(np.prod(weight.shape[1:]))
    bias_max = _INT32_MAX - products * 255 * 127
    if bias_max < _LEAST_BIAS_MAX:
        raise ModelError(
            f"layer '{layer}' sums {products} products per output: 32 bits cannot hold that in "
            "int8. Keep this layer in fp32."
        )
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64)
    offset = np.abs(bias).astype(np.float64) / input_scale
    if not per_channel:
        largest, offset = largest.max(), offset.max()
    # Where all weights are zero any scale will do: one that has the bias exact to 24 bits.
    scale = np.maximum(largest / levels, offset / np.where(largest > 0, bias_max, _LEAST_BIAS_MAX))
    scale = np.where(scale > 0, np.maximum(scale, _SMALLEST_SCALE), 1.0).astype(np.float32)
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1)) if per_channel else scale
    integers = np.clip(np.rint(weight / shaped), -levels, levels).astype(np.int8)
    return QuantizedWeight(integers=integers, scale=scale)


def _redirected(node: Node, placement: Placement) -> Node:
    """The node reading dequantized values where an int8 unit reads or made them."""
    inputs = tuple(
        f"{t}/dequantized"
        if t in placement.range_of
        and (node.name in placement.int8_nodes or t in placement.int8_made)
        else t
        for t in node.inputs
    )
    return dataclasses.replace(node, inputs=inputs)


def _quantize_tensor(
    tensor: str,
    placement: Placement,
    ranges: Mapping[str, Range],
    constants: dict[str, Array],
    types: dict[str, TensorType],
) -> list[Node]:
    if tensor not in placement.range_of:
        return []
    root = placement.range_of[tensor]
    if root not in ranges:
        raise ModelError(f"tensor '{root}' has no calibrated range; calibrate this very network")
    scale, zero = f"{root}/scale", f"{root}/zero_point"
    add_constant(constants, types, scale, np.asarray(ranges[root].scale))
    add_constant(constants, types, zero, np.asarray(ranges[root].zero_point, dtype=np.uint8))
    integers, reals = f"{tensor}/quantized", f"{tensor}/dequantized"
    types[integers] = TensorType(shape=types[tensor].shape, dtype="uint8")
    types[reals] = types[tensor]
    return [
        Node(
            name=f"{tensor}/quantize",
            op="QuantizeLinear",
            inputs=(tensor, scale, zero),
            outputs=(integers,),
        ),
        Node(
            name=f"{tensor}/dequantize",
            op="DequantizeLinear",
            inputs=(integers, scale, zero),
            outputs=(reals,),
        ),
    ]


def _quantize_layer(
    node: Node,
    input_scale: np.float32,
    per_channel: bool,
    levels: int,
    constants: dict[str, Array],
    types: dict[str, TensorType],
) -> list[Node]:
    weight, bias = _weight_and_bias(node, constants)
    quantized = quantize_weight(
        weight,
        bias,
        input_scale=float(input_scale),
        layer=node.name,
        per_channel=per_channel,
        levels=levels,
    )
    bias_scale = np.asarray(quantized.scale * input_scale, dtype=np.float32)
    integers = np.clip(np.rint(bias / bias_scale.astype(np.float64)), -_INT32_MAX, _INT32_MAX)
    made = [
        add_dequantized(node.name, "weight", quantized.integers, quantized.scale, constants, types),
        add_dequantized(node.name, "bias", integers.astype(np.int32), bias_scale, constants, types),
    ]
    inputs = (node.inputs[0], made[0].outputs[0], made[1].outputs[0])
    return [*made, dataclasses.replace(node, inputs=inputs)]


def _check_form(node: Node, constants: Mapping[str, Array]) -> None:
    if node.inputs[1] not in constants:
        raise ModelError(f"layer '{node.name}' is quantized already; give the fp32 network")
    wanted = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
    defaults = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    if node.op == "Gemm" and {**defaults, **node.attributes} != wanted:
        raise ModelError(
            f"layer '{node.name}' is not of the form x @ transpose(W) + b; simplify the network"
        )
    if len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in constants:
        raise ModelError(f"layer '{node.name}' has a bias that is computed; keep it in fp32")


def _weight_and_bias(
    node: Node, constants: Mapping[str, Array]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    weight = constants[node.inputs[1]].astype(np.float32)
    bias = np.zeros(len(weight), dtype=np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias += constants[node.inputs[2]].reshape(-1).astype(np.float32)
    return weight, bias
