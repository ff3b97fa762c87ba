"""Fusion: following the graph from an anchor as far as nobody else needs the values between."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from millifit.targets.kernel import Kernel, KernelAttribute
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


def follow(state: Tensors, node: Node, *, integer: bool, residual: bool) -> Tail:
    """Follow the graph behind `node`; `residual` says whether an addition may be fused."""
    tail = Tail(tensor=node.outputs[0])
    low, high = _absorb_activation(state, tail)
    added = residual and _absorbed_addition(state, tail, low, high)
    if added:
        low, high = _absorb_activation(state, tail)
    quantizer = state.only_reader(tail.tensor)
    if (integer and added) or quantizer is None or quantizer.op != "QuantizeLinear":
        _close_real(tail, low, high)
        return tail
    absorb_quantization(state, tail, quantizer)
    if integer and residual:
        _absorb_quantized_addition(state, tail, low, high)
    if added or tail.residual is None:
        put_limits(tail.constants, "act", low, high)
    return tail


def _absorb_activation(state: Tensors, tail: Tail) -> tuple[float, float]:
    """Limits of the Relu and Clip nodes that follow."""
    low, high = -math.inf, math.inf
    while (reader := state.only_reader(tail.tensor)) is not None:
        limits = activation_limits(reader)
        if limits is None:
            break
        low, high = min(max(low, limits[0]), limits[1]), min(max(high, limits[0]), limits[1])
        _take(state, tail, reader)
    return low, high


def _take(state: Tensors, tail: Tail, node: Node) -> None:
    state.done.add(node.name)
    tail.nodes.append(node)
    tail.tensor = node.outputs[0]


def _absorbed_addition(state: Tensors, tail: Tail, low: float, high: float) -> bool:
    """Fuse an addition of real values that are already there."""
    reader = state.only_reader(tail.tensor)
    if reader is None or reader.op != "Add":
        return False
    other = other_input(reader, tail.tensor)
    if other not in state.real or state.network.types[other] != state.network.types[tail.tensor]:
        return False
    if not unlimited(low, high) and not (low == 0 and high == math.inf):
        return False  # one pair of limits is kept for what follows the addition
    value = state.last(state.real[other], other)
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
    after_low, after_high = _absorb_activation(state, ahead)
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
) -> None:
    """Emit an anchor with its tail, and record the value that comes out."""
    shape = state.shape_last(node.outputs[0])
    if tail.quantized is not None:
        made = tail.quantized
        constants |= scalars_of(output=made)
    else:
        made = Value(tensor=tail.tensor, shape=shape, dtype="float32", last=True)
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
