"""Lowering of what moves, resizes, pools and reduces tensors, real or quantized."""

from __future__ import annotations

from dataclasses import replace

from millifit.targets.kernel import KernelAttribute
from millifit.targets.lowering.fusion import Tail, absorb_quantization, emit_anchor
from millifit.targets.lowering.layers import pads_of, pair_of
from millifit.targets.lowering.movements import (
    concat,
    emit_moved,
    form_of,
    int_of,
    pad,
    shaped_as,
    slice_of,
    split,
)
from millifit.targets.lowering.operators import generic
from millifit.targets.lowering.sampling import resampling
from millifit.targets.lowering.tensors import Tensors, scalars_of
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


def movement(state: Tensors, node: Node) -> None:
    """Emit an operator that moves values; quantized ones stay as they are."""
    match node.op:
        case "Concat":
            made = concat(state, node)
        case "Slice":
            made = slice_of(state, node)
        case "Split":
            made = split(state, node)
        case "Pad":
            made = pad(state, node)
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
        emit_moved(state, node, op, [value], replace(value, shape=shape), attributes)
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


def _rearrange(state: Tensors, node: Node) -> bool:
    """DepthToSpace, SpaceToDepth and ChannelShuffle."""
    value = state.last(form_of(state, node.inputs[0]), node.inputs[0])
    attributes: dict[str, KernelAttribute]
    match node.op:
        case "ChannelShuffle":
            op, attributes = "channel_shuffle", {"groups": int_of(node, "groups", 1)}
        case "SpaceToDepth":
            size = int_of(node, "blocksize", 1)
            op, attributes = "space_to_depth", {"block": (size, size)}
        case _:
            op = "depth_to_space"
            attributes = {name: pair_of(node, name, (0, 0)) for name in ("block", "crop")}
            attributes["mode"] = str(node.attributes["mode"])
    emit_moved(state, node, op, [value], shaped_as(state, value, node.outputs[0]), attributes)
    return True


def _flatten_last(state: Tensors, node: Node) -> bool:
    """A map as one row, in the order it is stored in."""
    value = state.last(form_of(state, node.inputs[0]), node.inputs[0])
    shape = state.network.types[node.outputs[0]].shape
    made = replace(value, shape=shape, last=False)
    forms = state.half if made.dtype in ("float16", "bfloat16") else state.real
    (state.quantized if made.scale else forms)[node.outputs[0]] = made
    return True


def _resize(state: Tensors, node: Node) -> bool:
    source, made = (state.network.types[n].shape for n in (node.inputs[0], node.outputs[0]))
    given = {name: state.constant(name) for name in node.inputs[2:] if name}
    if any(value is None for value in given.values()):
        return False
    scales = given.get(node.inputs[2]) if len(node.inputs) > 2 else None
    tables = resampling(node, source, made, scales)
    if tables is None or len(source) != 4 or state.constant(node.inputs[0]) is not None:
        return False
    taps = (tables["row_index"].shape[1], tables["column_index"].shape[1])
    if taps != (1, 1):
        _computed(state, node, "resize", {"taps": taps}, tables)
        return True
    value = state.last(form_of(state, node.inputs[0]), node.inputs[0])
    shaped = shaped_as(state, value, node.outputs[0])
    emit_moved(state, node, "resize", [value], shaped, {"taps": taps}, constants=tables)
    return True
