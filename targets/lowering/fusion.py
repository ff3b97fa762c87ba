"""Fusion: following the graph from an anchor as far as nobody else needs the values between."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.lowering.activations import (
    Activation,
    activation_behind,
    quantized_activation,
)
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node
from millifit.targets.target import Precision


@dataclass(slots=True, kw_only=True)
class Tail:
    """What is fused behind an anchor, and the network's tensor that comes out at the end."""

    tensor: str
    steps: list[str] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    residual: Value | None = None
    quantized: Value | None = None  # scale and zero point of a uint8 output
    half: Value | None = None  # an output of 16 bits


def follow(
    state: Tensors,
    node: Node,
    *,
    integer: bool,
    residual: bool,
    writes_half: bool = False,
    half_residual: str = "",
) -> Tail:
    """Follow the graph behind `node`; `residual` says whether an addition may be fused.

    `writes_half` says whether the kernel can write 16 bits; `half_residual` names the 16-bit
    element type in which it can read an operand to add.
    """
    tail = Tail(tensor=node.outputs[0])
    low, high = _absorb_activations(state, tail)
    added = residual and _absorbed_addition(state, tail, low, high, half_residual)
    if added:
        low, high = _absorb_activations(state, tail)
    quantizer = state.only_reader(tail.tensor)
    if (integer and added) or quantizer is None or quantizer.op != "QuantizeLinear":
        _close_real(tail, low, high)
        if writes_half and rounded_only(state, tail.tensor) is not None:
            _absorb_rounding(state, tail)
        return tail
    absorb_quantization(state, tail, quantizer)
    put_limits(tail.constants, "act", low, high)
    if integer and not tail.steps:
        if residual:
            _absorb_quantized_addition(state, tail, low, high)
        if not tail.steps:
            _absorb_quantized_activation(state, tail, low, high)
    return tail


def _absorb_activations(state: Tensors, tail: Tail) -> tuple[float, float]:
    """The activation functions that follow, as steps; the limits of a last Relu or Clip."""
    low, high = _absorb_limits(state, tail)
    while (found := activation_behind(state, tail.tensor)) is not None:
        if found.constants and "alpha" in tail.constants:
            break  # a kernel has one pair of parameters
        _close_real(tail, low, high)
        _take_activation(state, tail, found)
        low, high = _absorb_limits(state, tail)
    return low, high


def _take_activation(state: Tensors, tail: Tail, found: Activation) -> None:
    tail.steps.append(found.step)
    tail.constants |= found.constants
    for node in found.nodes:
        _take(state, tail, node)


def _absorb_limits(state: Tensors, tail: Tail) -> tuple[float, float]:
    """Limits of the Relu and Clip nodes that follow; after one Clip as a step, only of Relu."""
    low, high = -math.inf, math.inf
    while (reader := state.only_reader(tail.tensor)) is not None:
        limits = activation_limits(reader)
        if limits is None or (reader.op == "Clip" and "clip" in tail.steps):
            break
        low, high = min(max(low, limits[0]), limits[1]), min(max(high, limits[0]), limits[1])
        _take(state, tail, reader)
    return low, high


def _take(state: Tensors, tail: Tail, node: Node) -> None:
    state.done.add(node.name)
    tail.nodes.append(node)
    tail.tensor = node.outputs[0]


def rounded_only(state: Tensors, tensor: str) -> Node | None:
    """The Cast to 16 bits that alone reads `tensor` and that only Casts back to float32 read."""
    cast = state.only_reader(tensor)
    return cast if cast is not None and state.rounds(cast) else None


def _absorb_rounding(state: Tensors, tail: Tail) -> None:
    """Fuse a Cast: the output has 16 bits."""
    cast = state.only_reader(tail.tensor)
    assert cast is not None
    _take(state, tail, cast)
    tail.half = Value(
        tensor=tail.tensor,
        shape=state.shape_last(cast.inputs[0]),
        dtype=state.network.types[tail.tensor].dtype,
        last=True,
    )


def _absorbed_addition(
    state: Tensors, tail: Tail, low: float, high: float, half_residual: str
) -> bool:
    """Fuse an addition of real values that are already there."""
    reader = state.only_reader(tail.tensor)
    if reader is None or reader.op != "Add":
        return False
    other = other_input(reader, tail.tensor)
    present = other in state.real or other in state.half
    if not present or state.network.types[other] != state.network.types[tail.tensor]:
        return False
    if not unlimited(low, high) and not (low == 0 and high == math.inf):
        return False  # one pair of limits is kept for what follows the addition
    half = state.half.get(other)
    if half is None or half.dtype != half_residual:
        half = state.real_of(other)
    value = state.last(half, other)
    if not unlimited(low, high):
        tail.steps.append("relu")
    tail.steps.append("add")
    tail.residual = value
    _take(state, tail, reader)
    return True


def _close_real(tail: Tail, low: float, high: float) -> None:
    """End with real values: the last activation function becomes a step."""
    if unlimited(low, high):
        return
    if low == 0 and high == math.inf:
        tail.steps.append("relu")
        return
    tail.steps.append("clip")
    put_limits(tail.constants, "clip", low, high)


def absorb_quantization(state: Tensors, tail: Tail, quantizer: Node) -> None:
    """Fuse a QuantizeLinear: the output is uint8."""
    scale, zero_point = state.quantization(quantizer)
    _take(state, tail, quantizer)
    tail.quantized = Value(
        tensor=tail.tensor,
        shape=state.shape_last(quantizer.inputs[0]),
        dtype="uint8",
        last=True,
        scale=scale,
        zero_point=zero_point,
    )


def _absorb_quantized_addition(state: Tensors, tail: Tail, low: float, high: float) -> None:
    """Fuse ``Q -> DQ -> Add -> [activation] -> Q``: the addition of two quantized maps."""
    inner = tail.quantized
    dequantizer = state.only_reader(tail.tensor)
    if inner is None or dequantizer is None or dequantizer.op != "DequantizeLinear":
        return
    if state.quantization(dequantizer) != (inner.scale, inner.zero_point):
        return  # read as other values than were written: no pair
    addition = state.only_reader(dequantizer.outputs[0])
    if addition is None or addition.op != "Add":
        return
    other = other_input(addition, dequantizer.outputs[0])
    sum_type = state.network.types[addition.outputs[0]]
    if other not in state.quantized or state.network.types[other].shape != sum_type.shape:
        return
    ahead = Tail(tensor=addition.outputs[0])
    taken = set(state.done)
    after_low, after_high = _absorb_limits(state, ahead)
    quantizer = state.only_reader(ahead.tensor)
    if quantizer is None or quantizer.op != "QuantizeLinear":
        state.done = taken
        return
    _take(state, tail, dequantizer)
    _take(state, tail, addition)
    tail.nodes += ahead.nodes
    tail.steps.append("add")
    tail.residual = state.quantized[other]
    tail.constants |= scalars_of(inner=inner, residual=tail.residual)
    put_limits(tail.constants, "inner_act", low, high)
    put_limits(tail.constants, "act", after_low, after_high)
    absorb_quantization(state, tail, quantizer)


def _absorb_quantized_activation(state: Tensors, tail: Tail, low: float, high: float) -> None:
    """Fuse ``Q -> DQ -> activation function -> [Q]``: it reads values rounded to 8 bits."""
    inner = tail.quantized
    assert inner is not None
    found = quantized_activation(state, tail.tensor, (inner.scale, inner.zero_point))
    if found is None:
        return
    tail.quantized = None
    tail.steps.append("round")
    _take_activation(state, tail, found)
    tail.constants |= scalars_of(inner=inner)
    put_limits(tail.constants, "inner_act", low, high)
    low, high = _absorb_limits(state, tail)
    quantizer = state.only_reader(tail.tensor)
    if quantizer is None or quantizer.op != "QuantizeLinear":
        put_limits(tail.constants, "act", -math.inf, math.inf)
        _close_real(tail, low, high)
        return
    put_limits(tail.constants, "act", low, high)
    absorb_quantization(state, tail, quantizer)


def emit_anchor(
    state: Tensors,
    node: Node,
    op: str,
    inputs: list[Value],
    tail: Tail,
    *,
    precision: Precision,
    attributes: dict[str, KernelAttribute],
    constants: dict[str, Array],
    last: bool = True,
) -> None:
    """Emit an anchor with its tail, and record the value that comes out.

    `last` says whether a map of rank 4 is made channels-last.
    """
    shape = (
        state.shape_last(node.outputs[0]) if last else state.network.types[node.outputs[0]].shape
    )
    made = tail.quantized or tail.half
    if made is None:
        made = Value(tensor=tail.tensor, shape=shape, dtype="float32", last=last)
    if tail.quantized is not None:
        constants |= scalars_of(output=tail.quantized)
    if not last:
        made = replace(made, shape=shape, last=False)
    if tail.residual is not None:
        inputs = [*inputs, tail.residual]
    kernel = Kernel(
        op=op,
        inputs=tuple(v.type for v in inputs),
        output=made.type,
        precision=precision,
        attributes=tuple(sorted(attributes.items())),
        epilogue=tuple(tail.steps),
    )
    names = (node.name, *(n.name for n in tail.nodes))
    state.emit(kernel, inputs, made.tensor, constants | tail.constants, names)
    if tail.quantized is not None:
        state.quantized[made.tensor] = made
    elif tail.half is not None:
        state.half[made.tensor] = made
    else:
        state.real[made.tensor] = made


def put_limits(constants: dict[str, Array], prefix: str, low: float, high: float) -> None:
    """Limits of an activation function as operands, e.g. ``act_low`` and ``act_high``."""
    constants[f"{prefix}_low"] = np.asarray(np.float32(low))
    constants[f"{prefix}_high"] = np.asarray(np.float32(high))


def unlimited(low: float, high: float) -> bool:
    """Whether limits leave everything as it is."""
    return low == -math.inf and high == math.inf


def activation_limits(node: Node) -> tuple[float, float] | None:
    """The limits that a Relu or Clip node sets; None for any other node."""
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op == "Clip" and all(not name for name in node.inputs[1:]):
        low = float(str(node.attributes.get("min", -math.inf)))
        return low, float(str(node.attributes.get("max", math.inf)))
    return None


def other_input(node: Node, tensor: str) -> str:
    """The input of a binary node that is not `tensor`."""
    return node.inputs[1] if node.inputs[0] == tensor else node.inputs[0]
