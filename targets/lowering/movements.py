"""Lowering of what moves values: joined, cut out, taken apart, padded; real or quantized."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.lowering.fusion import Tail, absorb_quantization
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node

# Axes of a map in channels-last order, as ONNX numbers them.
_LAST = (0, 2, 3, 1)


def form_of(state: Tensors, tensor: str) -> Value:
    """The values of a tensor in the form that is cheapest to move."""
    for forms in (state.quantized, state.half):
        if tensor in forms:
            return forms[tensor]
    return state.real_of(tensor)


def _record(state: Tensors, made: Value) -> None:
    """Remember the values of a tensor in the form they have."""
    if made.dtype == "uint8" and made.scale:
        state.quantized[made.tensor] = made
    elif made.dtype in ("float16", "bfloat16"):
        state.half[made.tensor] = made
    else:
        state.real[made.tensor] = made


def emit_moved(
    state: Tensors,
    node: Node,
    op: str,
    inputs: list[Value],
    made: Value,
    attributes: dict[str, KernelAttribute],
    *,
    output: str = "",
    constants: dict[str, Array] | None = None,
    nodes: tuple[str, ...] = (),
) -> None:
    """Emit a movement whose values are those of `made`, under the name of the node's output."""
    made = replace(made, tensor=output or node.outputs[0])
    kernel = Kernel(
        op=op, inputs=tuple(v.type for v in inputs), output=made.type,
        precision="int8" if made.dtype == "uint8" else "fp32",
        attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip
    state.emit(kernel, inputs, made.tensor, constants or {}, (node.name, *nodes))
    _record(state, made)


def _stays_first(value: Value) -> bool:
    """Whether a tensor is moved in ONNX's own layout: where it is not stored channels-last."""
    return len(value.shape) != 4 or not value.last


def _axis(value: Value, axis: int) -> int:
    """Where an axis that ONNX numbers is in a stored value."""
    axis %= len(value.shape)
    return _LAST.index(axis) if value.last and len(value.shape) == 4 else axis


def shaped_as(state: Tensors, value: Value, tensor: str) -> Value:
    """A value of a tensor's shape in the layout of another one."""
    shape = state.network.types[tensor].shape
    return replace(value, shape=state.shape_last(tensor) if value.last else shape)


def concat(state: Tensors, node: Node) -> bool:
    """Emit the parts along an axis, one behind the other; False where one is constant."""
    if any(state.constant(name) is not None for name in node.inputs):
        return False
    parts = [form_of(state, name) for name in node.inputs]
    output, constants, requantized = parts[0], dict[str, Array](), list[int]()
    nodes: tuple[str, ...] = ()
    made = node.outputs[0]
    if all(part.dtype == "uint8" and part.scale for part in parts):
        quantizer = state.only_reader(made)
        if quantizer is not None and quantizer.op == "QuantizeLinear":
            tail = Tail(tensor=made)
            absorb_quantization(state, tail, quantizer)
            assert tail.quantized is not None
            made, nodes = tail.tensor, (quantizer.name,)
            scale, zero_point = tail.quantized.scale, tail.quantized.zero_point
            output = replace(parts[0], scale=scale, zero_point=zero_point)
        requantized = [i for i, p in enumerate(parts) if not p.same_quantization(output)]
        if requantized:
            constants = scalars_of(output=output)
            for i, part in enumerate(parts):
                constants |= scalars_of(**{f"input{i}": part})
    if (requantized and not nodes) or len({part.dtype for part in parts}) > 1:
        parts = [state.real_of(name) for name in node.inputs]
        output, constants, requantized = parts[0], {}, []
    if not all(_stays_first(part) for part in parts):
        pairs = zip(parts, node.inputs, strict=True)
        parts = [state.last(part, name) for part, name in pairs]
        output = replace(output, last=True)
    shaped = shaped_as(state, output, node.outputs[0])
    attributes: dict[str, KernelAttribute] = {"axis": _axis(shaped, int_of(node, "axis", 1))}
    if requantized:
        attributes["requantized"] = tuple(requantized)
    emit_moved(
        state, node, "concat", parts, shaped, attributes, output=made, constants=constants,
        nodes=nodes,
    )  # fmt: skip
    return True


def _constants(state: Tensors, node: Node, first: int) -> list[Array | None] | None:
    """The inputs from place `first` on, absent ones as None; None where one is computed."""
    found = [state.constant(name) if name else None for name in node.inputs[first:]]
    absent = [not name for name in node.inputs[first:]]
    if any(value is None and not gone for value, gone in zip(found, absent, strict=True)):
        return None
    return [*found, *[None] * 4]


def slice_of(state: Tensors, node: Node) -> bool:
    """Emit a Slice by constants; False for any other."""
    given = _constants(state, node, 1)
    if given is None or given[0] is None or state.constant(node.inputs[0]) is not None:
        return False
    starts = [int(v) for v in given[0]]
    axes = [int(v) for v in given[2]] if given[2] is not None else list(range(len(starts)))
    steps = [int(v) for v in given[3]] if given[3] is not None else [1] * len(starts)
    value = form_of(state, node.inputs[0])
    first, step = [0] * len(value.shape), [1] * len(value.shape)
    for start, axis, by in zip(starts, axes, steps, strict=True):
        place = _axis(value, axis)
        extent = value.shape[place]
        start = start + extent if start < 0 else start
        first[place] = min(max(start, 0), extent - 1)
        step[place] = by
    _take(state, node, value, node.outputs[0], first, step)
    return True


def _take(
    state: Tensors, node: Node, value: Value, output: str, first: list[int], step: list[int]
) -> None:
    """Emit the part of a value that starts at `first` and takes every `step`-th of each axis."""
    strides = [math.prod(value.shape[axis + 1 :]) for axis in range(len(value.shape))]
    attributes: dict[str, KernelAttribute] = {
        "offset": sum(at * stride for at, stride in zip(first, strides, strict=True)),
        "strides": tuple(by * stride for by, stride in zip(step, strides, strict=True)),
    }
    shaped = shaped_as(state, value, output)
    emit_moved(state, node, "strided", [value], shaped, attributes, output=output)


def split(state: Tensors, node: Node) -> bool:
    """Emit the outputs of a Split that somebody reads."""
    if state.constant(node.inputs[0]) is not None:
        return False
    value = form_of(state, node.inputs[0])
    axis = int_of(node, "axis", 0)
    place, at = _axis(value, axis), 0
    for output in node.outputs:
        if output in state.consumers or output in state.network.outputs:
            first, step = [0] * len(value.shape), [1] * len(value.shape)
            first[place] = at
            _take(state, node, value, output, first, step)
        at += state.network.types[output].shape[axis]
    return True


def pad(state: Tensors, node: Node) -> bool:
    """Emit a Pad by constants; False for negative amounts, or more than there is to repeat."""
    given, source = _constants(state, node, 1), state.network.types[node.inputs[0]]
    mode = str(node.attributes.get("mode", "constant"))
    if given is None or given[0] is None or state.constant(node.inputs[0]) is not None:
        return False
    rank = len(source.shape)
    axes = [int(v) % rank for v in given[2]] if given[2] is not None else list(range(rank))
    amounts = [int(v) for v in given[0]]
    pairs = dict(
        zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True)
    )
    for axis, pair in pairs.items():
        most = {"reflect": source.shape[axis] - 1, "wrap": source.shape[axis]}.get(mode, max(pair))
        if min(pair) < 0 or max(pair) > most:
            return False
    filled = float(given[1].item()) if given[1] is not None else 0.0
    value = form_of(state, node.inputs[0])
    constants: dict[str, Array] = {}
    if mode == "constant":
        if value.scale and filled != 0:
            value = state.real_of(node.inputs[0])  # 8 bits may not hold that value
        constants["value"] = np.asarray(value.zero_point if value.scale else filled)
    before = [0] * rank
    for axis, pair in pairs.items():
        before[_axis(value, axis)] = pair[0]
    shaped = shaped_as(state, value, node.outputs[0])
    attributes: dict[str, KernelAttribute] = {"mode": mode, "before": tuple(before)}
    emit_moved(state, node, "pad", [value], shaped, attributes, constants=constants)
    return True


def int_of(node: Node, name: str, default: int) -> int:
    """An attribute that is an integer."""
    return int(str(node.attributes.get(name, default)))
