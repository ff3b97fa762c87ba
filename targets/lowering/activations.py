"""Activation functions in the graph: single nodes, and a value multiplied with its own gate."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from millifit.targets.lowering.tensors import Tensors
from millifit.targets.network import Array, Node

_PLAIN = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Mish": "mish"}
_HARD_SWISH_ALPHA = 1 / 6
# ONNX's defaults of the attributes alpha and beta.
_PARAMETRIC: dict[str, tuple[str, dict[str, float]]] = {
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """An activation function as a step of an epilogue, its operands, and the nodes it replaces."""

    step: str
    nodes: tuple[Node, ...]
    constants: dict[str, Array] = field(default_factory=dict)


def activation_of(state: Tensors, node: Node) -> Activation | None:
    """The activation function that one node is; None for Relu and Clip, which are limits."""
    if node.op in _PLAIN:
        return Activation(step=_PLAIN[node.op], nodes=(node,))
    if node.op in _PARAMETRIC:
        step, defaults = _PARAMETRIC[node.op]
        given = {name: float(str(node.attributes.get(name, v))) for name, v in defaults.items()}
        return Activation(step=step, nodes=(node,), constants=_scalars(**given))
    if node.op == "HardSwish":
        constants = _scalars(alpha=_HARD_SWISH_ALPHA, beta=0.5)
        return Activation(step="hard_swish", nodes=(node,), constants=constants)
    if node.op == "Gelu":
        approximate = node.attributes.get("approximate", "none") == "tanh"
        return Activation(step="gelu_tanh" if approximate else "gelu", nodes=(node,))
    if node.op == "PRelu":
        slope = state.constant(node.inputs[1])
        if slope is not None and slope.size == 1:
            constants = _scalars(alpha=float(slope.item()))
            return Activation(step="leaky_relu", nodes=(node,), constants=constants)
    return None


def activation_behind(state: Tensors, tensor: str) -> Activation | None:
    """The activation function that alone reads `tensor`."""
    if tensor in state.network.outputs:
        return None
    readers = state.consumers.get(tensor, [])
    if len(readers) == 1:
        return activation_of(state, readers[0])
    if len(readers) == 2:
        return gate_behind(state, readers, (tensor,))
    return None


def gate_behind(state: Tensors, readers: list[Node], values: tuple[str, ...]) -> Activation | None:
    """``x * sigmoid(x)`` or ``x * hard_sigmoid(x)``, x being any of `values`, among `readers`.

    The gate itself may pass through 8 bits (Q, DQ) before the multiplication.
    """
    gates = [node for node in readers if node.op in ("Sigmoid", "HardSigmoid")]
    products = [node for node in readers if node.op == "Mul"]
    if len(gates) != 1 or len(products) != 1:
        return None
    gate, product = gates[0], products[0]
    made = activation_of(state, gate)
    assert made is not None
    hard = made.step == "hard_sigmoid"
    operands = set(product.inputs)
    if len(operands) != 2 or not operands & set(values):
        return None
    quantizer = state.only_reader(gate.outputs[0])
    if quantizer is None:
        return None
    if quantizer is product:
        step = "hard_swish" if hard else "silu"
        return Activation(step=step, nodes=(gate, product), constants=made.constants)
    dequantizer = state.only_reader(quantizer.outputs[0])
    if quantizer.op != "QuantizeLinear" or dequantizer is None:
        return None
    pair = dequantizer.op == "DequantizeLinear"
    pair = pair and state.quantization(quantizer) == state.quantization(dequantizer)
    if not pair or state.only_reader(dequantizer.outputs[0]) is not product:
        return None
    scale, zero_point = state.quantization(quantizer)
    return Activation(
        step="hard_sigmoid_gate" if hard else "sigmoid_gate",
        nodes=(gate, quantizer, dequantizer, product),
        constants=made.constants | _scalars(gate_scale=scale, gate_zero_point=zero_point),
    )


def quantized_activation(
    state: Tensors, quantized: str, quantization: tuple[float, int]
) -> Activation | None:
    """The activation function that alone reads a uint8 tensor through DequantizeLinear."""
    pairs = state.consumers.get(quantized, [])
    if not pairs or quantized in state.network.outputs:
        return None
    for node in pairs:
        if node.op != "DequantizeLinear" or node.outputs[0] in state.network.outputs:
            return None
        if state.quantization(node) != quantization:
            return None  # read as other values than were written: no pair
    values = tuple(node.outputs[0] for node in pairs)
    readers = [node for value in values for node in state.consumers.get(value, [])]
    found = None
    if len(readers) == 1:
        found = activation_of(state, readers[0])
    elif len(readers) == 2:
        found = gate_behind(state, readers, values)
    if found is None:
        return None
    return Activation(step=found.step, nodes=(*pairs, *found.nodes), constants=found.constants)


def _scalars(**values: float) -> dict[str, Array]:
    return {name: np.asarray(np.float32(value)) for name, value in values.items()}
