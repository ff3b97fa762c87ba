"""Lowering of what moves, resizes, pools and reduces tensors, real or quantized."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.lowering.fusion import Tail, absorb_quantization, emit_anchor
from millifit.targets.lowering.layers import pads_of, pair_of
from millifit.targets.lowering.operators import generic
from millifit.targets.lowering.sampling import resampling
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node
from millifit.targets.target import Precision

POOLS = {
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "GlobalAveragePool": "global_avg_pool",
    "GlobalMaxPool": "global_max_pool",
}
MOVEMENTS = (
    *("Concat", "Slice", "Split", "Pad", "DepthToSpace", "SpaceToDepth", "ChannelShuffle"),
    *("Resize", "FlattenLast"),
)
# Axes of a map in channels-last order, as ONNX numbers them.
_LAST = (0, 2, 3, 1)


def movement(state: Tensors, node: Node) -> None:
    """Emit an operator that moves values; quantized ones stay as they are."""
    match node.op:
        case "Concat":
            made = _concat(state, node)
        case "Slice":
            made = _slice(state, node)
        case "Split":
            made = _split(state, node)
        case "Pad":
            made = _pad(state, node)
        case "Resize":
            made = _resize(state, node)
        case "FlattenLast":
            made = _flatten_last(state, node)
        case _:
            made = _rearrange(state, node)
    if not made:
        generic(state, node)


def pool(state: Tensors, node: Node) -> None:
    """Emit a pooling operator; uint8 maps are pooled as they are."""
    source, op = node.inputs[0], POOLS[node.op]
    used = [name for name in node.outputs[1:] if name in state.consumers]
    if len(state.network.types[source].shape) != 4 or used:
        generic(state, node)
        return
    attributes: dict[str, KernelAttribute] = {}
    if not node.op.startswith("Global"):
        attributes = {
            "kernel": pair_of(node, "kernel_shape", (1, 1)),
            "strides": pair_of(node, "strides", (1, 1)),
            "pads": pads_of(node),
        }
        dilations = pair_of(node, "dilations", (1, 1))
        if dilations != (1, 1):
            attributes["dilations"] = dilations
        if node.op == "AveragePool":
            attributes["count_include_pad"] = int(str(node.attributes.get("count_include_pad", 0)))
    if source in state.quantized and op.endswith("max_pool"):
        value = state.last(state.quantized[source], source)
        shape = state.shape_last(node.outputs[0])
        _emit(state, node, op, [value], replace(value, shape=shape), attributes)
        return
    _computed(state, node, op, attributes)


def _computed(
    state: Tensors,
    node: Node,
    op: str,
    attributes: dict[str, KernelAttribute],
    constants: dict[str, Array] | None = None,
) -> None:
    """Emit a kernel that computes new values of a map; a quantization behind it is fused."""
    source = node.inputs[0]
    tail = Tail(tensor=node.outputs[0])
    quantizer = state.only_reader(tail.tensor)
    if quantizer is not None and quantizer.op == "QuantizeLinear":
        absorb_quantization(state, tail, quantizer)
    integer = source in state.quantized
    constants = dict(constants or {})
    value = state.last(state.quantized[source] if integer else state.real_of(source), source)
    if integer:
        constants |= scalars_of(input=value)
    precision: Precision = "int8" if integer else "fp32"
    emit_anchor(
        state, node, op, [value], tail, precision=precision, attributes=attributes,
        constants=constants,
    )  # fmt: skip


def _form(state: Tensors, tensor: str) -> Value:
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


def _emit(
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


def _shaped(state: Tensors, value: Value, tensor: str) -> Value:
    """A value of a tensor's shape in the layout of another one."""
    shape = state.network.types[tensor].shape
    return replace(value, shape=state.shape_last(tensor) if value.last else shape)


def _concat(state: Tensors, node: Node) -> bool:
    if any(state.constant(name) is not None for name in node.inputs):
        return False
    parts = [_form(state, name) for name in node.inputs]
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
    shaped = _shaped(state, output, node.outputs[0])
    attributes: dict[str, KernelAttribute] = {"axis": _axis(shaped, _int(node, "axis", 1))}
    if requantized:
        attributes["requantized"] = tuple(requantized)
    _emit(
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


def _slice(state: Tensors, node: Node) -> bool:
    given = _constants(state, node, 1)
    if given is None or given[0] is None or state.constant(node.inputs[0]) is not None:
        return False
    starts = [int(v) for v in given[0]]
    axes = [int(v) for v in given[2]] if given[2] is not None else list(range(len(starts)))
    steps = [int(v) for v in given[3]] if given[3] is not None else [1] * len(starts)
    value = _form(state, node.inputs[0])
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
    shaped = _shaped(state, value, output)
    _emit(state, node, "strided", [value], shaped, attributes, output=output)


def _split(state: Tensors, node: Node) -> bool:
    if state.constant(node.inputs[0]) is not None:
        return False
    value = _form(state, node.inputs[0])
    axis = _int(node, "axis", 0)
    place, at = _axis(value, axis), 0
    for output in node.outputs:
        if output in state.consumers or output in state.network.outputs:
            first, step = [0] * len(value.shape), [1] * len(value.shape)
            first[place] = at
            _take(state, node, value, output, first, step)
        at += state.network.types[output].shape[axis]
    return True


def _pad(state: Tensors, node: Node) -> bool:
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
    value = _form(state, node.inputs[0])
    constants: dict[str, Array] = {}
    if mode == "constant":
        if value.scale and filled != 0:
            value = state.real_of(node.inputs[0])  # 8 bits may not hold that value
        constants["value"] = np.asarray(value.zero_point if value.scale else filled)
    before = [0] * rank
    for axis, pair in pairs.items():
        before[_axis(value, axis)] = pair[0]
    shaped = _shaped(state, value, node.outputs[0])
    attributes: dict[str, KernelAttribute] = {"mode": mode, "before": tuple(before)}
    _emit(state, node, "pad", [value], shaped, attributes, constants=constants)
    return True


def _rearrange(state: Tensors, node: Node) -> bool:
    """DepthToSpace, SpaceToDepth and ChannelShuffle."""
    value = state.last(_form(state, node.inputs[0]), node.inputs[0])
    attributes: dict[str, KernelAttribute]
    match node.op:
        case "ChannelShuffle":
            op, attributes = "channel_shuffle", {"groups": _int(node, "groups", 1)}
        case "SpaceToDepth":
            size = _int(node, "blocksize", 1)
            op, attributes = "space_to_depth", {"block": (size, size)}
        case _:
            op = "depth_to_space"
            attributes = {name: pair_of(node, name, (0, 0)) for name in ("block", "crop")}
            attributes["mode"] = str(node.attributes["mode"])
    _emit(state, node, op, [value], _shaped(state, value, node.outputs[0]), attributes)
    return True


def _flatten_last(state: Tensors, node: Node) -> bool:
    """A map as one row, in the order it is stored in."""
    value = state.last(_form(state, node.inputs[0]), node.inputs[0])
    shape = state.network.types[node.outputs[0]].shape
    made = replace(value, shape=shape, last=False)
    forms = state.half if made.dtype in ("float16", "bfloat16") else state.real
    (state.quantized if made.scale else forms)[node.outputs[0]] = made
    return True


def _resize(state: Tensors, node: Node) -> bool:
    source = state.network.types[node.inputs[0]].shape
    tables = resampling(state, node)
    if tables is None or len(source) != 4 or state.constant(node.inputs[0]) is not None:
        return False
    taps = (tables["row_index"].shape[1], tables["column_index"].shape[1])
    if taps != (1, 1):
        _computed(state, node, "resize", {"taps": taps}, tables)
        return True
    value = state.last(_form(state, node.inputs[0]), node.inputs[0])
    shaped = _shaped(state, value, node.outputs[0])
    _emit(state, node, "resize", [value], shaped, {"taps": taps}, constants=tables)
    return True


def _int(node: Node, name: str, default: int) -> int:
    return int(str(node.attributes.get(name, default)))
