"""Lowering of layers: convolutions and dense layers, in the precision the network states."""

from __future__ import annotations

from millifit.targets.kernel import KernelAttribute
from millifit.targets.lowering.arithmetic import arithmetic
from millifit.targets.lowering.fusion import emit_anchor, follow
from millifit.targets.lowering.tensors import Stored, Tensors, scalars_of
from millifit.targets.network import Array, Node
from millifit.targets.target import INTEGER


def is_layer(state: Tensors, node: Node) -> bool:
    """Whether a Conv, Gemm or MatMul is a layer with a rule: constant weight, map or matrix."""
    weight = state.constant(node.inputs[1])
    rank = len(state.network.types[node.inputs[0]].shape)
    if weight is None:
        return False
    if node.op == "Conv":
        return rank == weight.ndim == 4
    plain = all(node.attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return rank == weight.ndim == 2 and plain and not node.attributes.get("transA", 0)


def layer(state: Tensors, node: Node) -> None:
    """Emit a layer with what is fused behind it."""
    source = node.inputs[0]
    weight, stored = _weight(state, node)
    op, attributes = "dense", dict[str, KernelAttribute]()
    if node.op == "Conv":
        depthwise, attributes = _convolution(node, weight, state.network.types[source].shape)
        op = "depthwise_conv2d" if depthwise else "conv2d"
    chosen = arithmetic(state, node, op, weight, stored)
    integer = chosen.precision in INTEGER
    tail = follow(
        state, node, integer=integer, residual=True, writes_half=True, half_residual=chosen.half
    )
    constants = chosen.constants
    if integer:
        value = state.last(state.quantized[source], source)
        constants |= scalars_of(input=value)
    elif chosen.half:
        value = state.last(state.half[source], source)
    else:
        value = state.last(state.real_of(source), source)
    emit_anchor(
        state,
        node,
        op,
        [value],
        tail,
        precision=chosen.precision,
        attributes=attributes | chosen.attributes,
        constants=constants,
    )


def _weight(state: Tensors, node: Node) -> tuple[Array, Stored | None]:
    """The weight with output channels first, real and, where the model has it, as integers."""
    weight, stored = state.constant(node.inputs[1]), state.stored(node.inputs[1])
    assert weight is not None
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB", 0)):
        weight, stored = weight.T, None if stored is None else stored.transposed
    return weight, stored


def _convolution(
    node: Node, weight: Array, shape: tuple[int, ...]
) -> tuple[bool, dict[str, KernelAttribute]]:
    """Whether a Conv is depthwise, and its kernel's attributes."""
    group = int(str(node.attributes.get("group", 1)))
    attributes: dict[str, KernelAttribute] = {
        "kernel": (int(weight.shape[2]), int(weight.shape[3])),
        "strides": pair_of(node, "strides", (1, 1)),
        "dilations": pair_of(node, "dilations", (1, 1)),
        "pads": pads_of(node),
    }
    depthwise = group > 1 and group == shape[1] == weight.shape[0]
    if not depthwise:
        attributes["groups"] = group
    return depthwise, attributes


def pair_of(node: Node, name: str, default: tuple[int, int]) -> tuple[int, int]:
    """An attribute of two integers."""
    given = node.attributes.get(name, default)
    assert isinstance(given, tuple)
    first, second = (int(value) for value in given)
    return first, second


def pads_of(node: Node) -> tuple[int, int, int, int]:
    """Padding: top, left, bottom, right."""
    given = node.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(given, tuple)
    top, left, bottom, right = (int(value) for value in given)
    return top, left, bottom, right
