"""Lowering of elementwise operators: arithmetic of any broadcasting, and functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from millifit.targets.kernel import KernelAttribute
from millifit.targets.lowering.activations import Activation, activation_of, gate_behind
from millifit.targets.lowering.fusion import (
    Tail,
    absorb_quantization,
    activation_limits,
    emit_anchor,
    follow,
    put_limits,
)
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node
from millifit.targets.target import Precision

_BINARY = {
    "Add": "add", "Div": "div", "Max": "max", "Min": "min", "Mul": "mul", "Pow": "pow",
    "Sub": "sub",
}  # fmt: skip
_UNARY = {
    "Abs": "abs", "Ceil": "ceil", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Log": "log",
    "Neg": "neg", "Reciprocal": "reciprocal", "Round": "round", "Sqrt": "sqrt",
}  # fmt: skip
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
# x to the power of these is a cheaper function.
_POWERS = {0.5: "sqrt", 2.0: "square", -1.0: "reciprocal"}


def is_elementwise(state: Tensors, node: Node) -> bool:
    """Whether a node is an elementwise operator on float32 that has a rule."""
    types = state.network.types
    names = [name for name in node.inputs if name]
    if any(types[name].dtype != "float32" for name in (*names, node.outputs[0])):
        return False
    if node.op in _BINARY:
        return len(names) == 2
    if node.op in _UNARY or node.op == "Selu":
        return True
    return _function(state, node) is not None


def elementwise(state: Tensors, node: Node) -> None:
    """Emit an elementwise operator with what is fused behind it."""
    if node.op not in _BINARY:
        _unary(state, node)
        return
    constant = next((n for n in node.inputs if state.constant(n) is not None), None)
    if constant is None:
        _binary(state, node)
    else:
        _binary_constant(state, node, constant)


def _binary(state: Tensors, node: Node) -> None:
    """Arithmetic on two activations; on integers where the model says how to round the result."""
    names = node.inputs
    tail = follow(state, node, integer=False, residual=False)
    last = _stays_last(state, names, node.outputs[0])
    values = [_operand(state, name, node.outputs[0], last=last) for name in names]
    integer = node.op in ("Add", "Mul") and tail.quantized is not None and not tail.steps
    integer = integer and all(value.dtype == "uint8" for value in values)
    if node.op == "Add" and values[0].shape != values[1].shape:
        integer = False
    precision: Precision = "int8" if integer else "fp32"
    constants: dict[str, Array] = {}
    for prefix, value in zip(("input", "residual"), values, strict=True):
        if value.dtype == "uint8":
            constants |= scalars_of(**{prefix: value})
    emit_anchor(
        state, node, _BINARY[node.op], values, tail, precision=precision, attributes={},
        constants=constants, last=last,
    )  # fmt: skip


def _binary_constant(state: Tensors, node: Node, constant: str) -> None:
    """Arithmetic on an activation and a constant."""
    place = 1 if node.inputs[1] == constant else 0
    source, operand = node.inputs[1 - place], state.constant(constant)
    assert operand is not None
    if node.op == "Pow" and place == 1 and operand.size == 1:
        power = _POWERS.get(float(operand.item()))
        if (
            power
            and state.network.types[source].shape == state.network.types[node.outputs[0]].shape
        ):
            _emit_unary(state, node, source, Activation(step=power, nodes=(node,)))
            return
    tail = follow(state, node, integer=False, residual=False)
    last = _stays_last(state, (source,), node.outputs[0])
    value = _operand(state, source, node.outputs[0], last=last)
    made = state.network.types[node.outputs[0]].shape
    operand = operand.astype(np.float32).reshape((1,) * (len(made) - operand.ndim) + operand.shape)
    if last and len(made) == 4:
        operand = operand.transpose(0, 2, 3, 1)
    shape = () if operand.size == 1 else _without_leading_ones(operand.shape)
    attributes: dict[str, KernelAttribute] = {}
    channels = (state.shape_last(node.outputs[0]) if last else made)[-1:]
    if shape != channels:
        attributes["operand"] = shape
    if place == 0 and node.op in ("Div", "Pow", "Sub"):
        attributes["reversed"] = 1
    constants: dict[str, Array] = {"operand": operand.reshape(shape)}
    if value.dtype == "uint8":
        constants |= scalars_of(input=value)
    emit_anchor(
        state, node, _BINARY[node.op], [value], tail, precision="fp32", attributes=attributes,
        constants=constants, last=last,
    )  # fmt: skip


def _unary(state: Tensors, node: Node) -> None:
    source = node.inputs[0]
    gated = _gate(state, node)
    if gated is not None:
        state.done |= {other.name for other in gated.nodes}
    found = gated or _function(state, node)
    assert found is not None
    _emit_unary(state, node, source, found)


def _function(state: Tensors, node: Node) -> Activation | None:
    """An elementwise function of one node."""
    if node.op in _UNARY:
        return Activation(step=_UNARY[node.op], nodes=(node,))
    if node.op == "Selu":
        alpha = float(str(node.attributes.get("alpha", _SELU_ALPHA)))
        gamma = float(str(node.attributes.get("gamma", _SELU_GAMMA)))
        constants: dict[str, Array] = {
            "alpha": np.asarray(np.float32(alpha)), "beta": np.asarray(np.float32(gamma)),
        }  # fmt: skip
        return Activation(step="selu", nodes=(node,), constants=constants)
    limits = activation_limits(node)
    if limits is not None:
        constants = {}
        if node.op == "Clip":
            put_limits(constants, "clip", *limits)
        return Activation(step="relu" if node.op == "Relu" else "clip", nodes=(node,),
                          constants=constants)  # fmt: skip
    return activation_of(state, node)


def _gate(state: Tensors, node: Node) -> Activation | None:
    """The product of a tensor with its own sigmoid, where `node` is that sigmoid."""
    if node.op not in ("Sigmoid", "HardSigmoid"):
        return None
    source = node.inputs[0]
    product = state.only_reader(node.outputs[0])
    if product is None or product.op != "Mul" or source not in product.inputs:
        return None
    return gate_behind(state, [node, product], (source,))


def _emit_unary(state: Tensors, node: Node, source: str, found: Activation) -> None:
    value = _stored(state, source)
    ended = found.nodes[-1]
    if found.constants:  # a kernel has one set of parameters: nothing else that might need them
        tail = Tail(tensor=ended.outputs[0])
        quantizer = state.only_reader(tail.tensor)
        if quantizer is not None and quantizer.op == "QuantizeLinear":
            absorb_quantization(state, tail, quantizer)
    else:
        tail = follow(state, ended, integer=False, residual=False)
    tail.nodes[:0] = found.nodes[1:]
    constants = dict(found.constants)
    if value.dtype == "uint8":
        constants |= scalars_of(input=value)
    emit_anchor(
        state, node, found.step, [value], tail, precision="fp32", attributes={},
        constants=constants, last=value.last or len(value.shape) != 4,
    )  # fmt: skip


def _stored(state: Tensors, name: str) -> Value:
    """A tensor as it is: real values, or the uint8 ones that it only has."""
    if name not in state.real and name in state.quantized:
        return state.quantized[name]
    return state.real_of(name)


def _stays_last(state: Tensors, names: tuple[str, ...], made: str) -> bool:
    """Whether a result of rank 4 is computed channels-last: where an operand is, or it is free."""
    shape = state.network.types[made].shape
    if len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1:
        return True
    stored = [_stored(state, name) for name in names]
    return any(v.last and len(v.shape) == 4 and v.shape[1] * v.shape[2] > 1 for v in stored)


def _operand(state: Tensors, name: str, made: str, *, last: bool) -> Value:
    """An operand in the layout of the result `made`, its rank filled up with ones in front."""
    value = _stored(state, name)
    rank = len(state.network.types[made].shape)
    if not last or rank != 4:
        return state.first(name) if value.last and len(value.shape) == 4 else value
    if len(value.shape) < 4:
        value = replace(value, shape=(1,) * (4 - len(value.shape)) + value.shape, last=False)
    return state.last(value, name)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((place for place, extent in enumerate(shape) if extent != 1), len(shape))
    return shape[first:]
