"""The network of an ONNX model: checked, of one operator set, every shape known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter

from millifit.errors import ModelError, UnsupportedOperator
from millifit.targets.importer.infer import infer_types, to_onnx
from millifit.targets.importer.onnx_nodes import array, dtype_name, read_node
from millifit.targets.importer.simplify_composites import COMPOSITES_OPSET, PARTS_OF_COMPOSITES
from millifit.targets.network import Array, Network, Node, TensorType

_Kind = onnx.AttributeProto
InputShape = Mapping[str, tuple[int, ...]] | tuple[int, ...] | None

# Quantization per channel came with opset 13; newer ones than 23 not every runtime reads.
_OPSETS = range(13, 24)
# Bounds and masks may be infinite, weights may not.
_MAY_READ_INFINITY = ("Clip", "Max", "Min", "Pad", "Where")


def from_onnx(model: onnx.ModelProto, *, name: str, input_shape: InputShape = None) -> Network:
    """The network of an ONNX model, every shape known.

    A symbolic batch (the first dimension: "N", 0 or -1) becomes 1. Other open dimensions need
    `input_shape`, for the one input or by its name. Unnamed nodes are named by operator and
    position, e.g. ``Conv_3``. Models older than opset 13 are converted to it.

    Raises ModelError where the model is invalid, has not exactly one input, has weights that are
    not finite or shapes that depend on data; UnsupportedOperator for control flow and for operators
    outside the standard set.
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    constants = _constants(own.graph)
    own = _checked(own)
    inputs = {i.name: i for i in own.graph.input if i.name not in constants}
    if len(inputs) != 1:
        names = ", ".join(f"'{n}'" for n in inputs) or "none"
        raise ModelError(f"one input expected, the model has {len(inputs)}: {names}.")
    types = {n: _input_type(info, input_shape) for n, info in inputs.items()}
    _fix_shapes(own, types)
    own = _supported_opset(own)
    # Conversion makes constants of what older operators had as attributes.
    constants = _constants(own.graph)
    nodes = _nodes(own.graph, constants)
    if not nodes:
        raise ModelError("the model has no nodes that compute anything.")
    _check_finite(nodes, constants)
    for constant, value in constants.items():
        types[constant] = TensorType(shape=value.shape, dtype=value.dtype.name)
    network = Network(
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(output.name for output in own.graph.output),
        nodes=tuple(nodes),
        constants=constants,
        types=types,
        opset=_opset(own),
    )
    network = infer_types(network)
    _check_channels(network)
    return network


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions inlined, valid, and of standard operators only."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    if not graph.node:
        raise ModelError("the model has no nodes.")
    if graph.sparse_initializer:
        raise ModelError("the model has sparse weights. Export it with dense ones.")
    opset = _opset(model)
    if opset > onnx.defs.onnx_opset_version():
        raise ModelError(f"opset {opset} is newer than this onnx knows. Export with opset 18.")
    for proto, name in zip(graph.node, _node_names(graph), strict=True):
        if proto.domain not in ("", "ai.onnx"):
            raise UnsupportedOperator(op=f"{proto.domain}::{proto.op_type}", node=name)
        if {a.type for a in proto.attribute} & {_Kind.GRAPH, _Kind.GRAPHS}:
            raise UnsupportedOperator(op=proto.op_type, node=name, detail="control flow")
        if not onnx.defs.has(proto.op_type, opset, ""):
            raise UnsupportedOperator(op=proto.op_type, node=name, detail=f"not in opset {opset}")
    try:
        if not all(output.type.tensor_type.HasField("shape") for output in graph.output):
            # Valid models declare the rank of their outputs, but runtimes do not insist.
            model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as invalid:
        raise ModelError(f"not a valid ONNX model: {str(invalid).strip()}") from invalid
    return model


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _node_names(graph: onnx.GraphProto) -> list[str]:
    """A unique name for every node: its own, or operator and position."""
    names: list[str] = []
    taken = {proto.name for proto in graph.node}
    seen: set[str] = set()
    for position, proto in enumerate(graph.node):
        name = proto.name
        if not name or name in seen:
            name = f"{name or proto.op_type}_{position}"
            while name in taken:
                name += "_"
            taken.add(name)
        seen.add(name)
        names.append(name)
    return names


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    return {tensor.name: array(tensor, name=tensor.name) for tensor in graph.initializer}


def _nodes(graph: onnx.GraphProto, constants: dict[str, Array]) -> list[Node]:
    """The nodes that compute; what Constant nodes make is added to `constants`."""
    nodes = []
    for proto, name in zip(graph.node, _node_names(graph), strict=True):
        node = read_node(proto, name=name)
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant_value(node)
        else:
            nodes.append(node)
    return nodes


def _constant_value(node: Node) -> Array:
    (kind, value), *_ = node.attributes.items()
    if kind in ("value_float", "value_floats"):
        return np.array(value, dtype=np.float32)
    if kind in ("value_int", "value_ints"):
        return np.array(value, dtype=np.int64)
    if kind == "value" and isinstance(value, np.ndarray):
        return value
    raise UnsupportedOperator(op="Constant", node=node.name, detail=f"attribute '{kind}'")


def _input_type(info: onnx.ValueInfoProto, input_shape: InputShape) -> TensorType:
    """The input's type with every dimension fixed by the model, the batch rule or the caller."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise ModelError(f"input '{info.name}' is no tensor of known rank.")
    stated = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?"
        for d in tensor.shape.dim
    ]
    text = ", ".join(str(d) for d in stated)
    given = _given_shape(info.name, input_shape)
    if given is None:
        given = tuple(
            d if isinstance(d, int) else 1 if axis == 0 and len(stated) > 1 else 0
            for axis, d in enumerate(stated)
        )
        if 0 in given:
            raise ModelError(
                f"input '{info.name}' has shape ({text}): dimensions are open. "
                "Fix them, e.g. --input-shape 1,3,224,224"
            )
    wanted = ", ".join(str(d) for d in given)
    if len(given) != len(stated) or any(
        isinstance(s, int) and s != g for s, g in zip(stated, given, strict=True)
    ):
        raise ModelError(
            f"input '{info.name}' has shape ({text}), which ({wanted}) contradicts. "
            "Leave out --input-shape, or give one that fits."
        )
    if any(d < 1 for d in given):
        raise ModelError(f"input '{info.name}': ({wanted}) is no shape; dimensions are 1 or more.")
    return TensorType(shape=given, dtype=dtype_name(tensor.elem_type, tensor=info.name))


def _given_shape(name: str, input_shape: InputShape) -> tuple[int, ...] | None:
    if not isinstance(input_shape, Mapping):
        return None if input_shape is None else tuple(input_shape)
    if name not in input_shape:
        raise ModelError(
            f"--input-shape names {', '.join(input_shape) or 'nothing'}, the input is '{name}'."
        )
    return tuple(input_shape[name])


def _fix_shapes(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> None:
    # What the file says about inner tensors may be symbolic or wrong: all is inferred again.
    del model.graph.value_info[:]
    for info in model.graph.input:
        if info.name in types:
            for dim, size in zip(
                info.type.tensor_type.shape.dim, types[info.name].shape, strict=True
            ):
                dim.dim_value = size


def _supported_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = _opset(model)
    if opset in _OPSETS:
        return _with_composites(model)
    return _converted(model, min(max(opset, _OPSETS[0]), _OPSETS[-1]))


def with_opset(network: Network, opset: int) -> Network:
    """The same network in `opset`, or as it is where its own is newer; in ONNX's own form.

    ModelError where ONNX cannot convert it.
    """
    if network.opset >= opset:
        return network
    return from_onnx(_converted(to_onnx(network), opset), name=network.name)


def _converted(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, wanted)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as refused:
        raise ModelError(
            f"the model has opset {_opset(model)} and cannot be converted to {wanted}: {refused}. "
            "Export it with opset 18."
        ) from refused


def _with_composites(model: onnx.ModelProto) -> onnx.ModelProto:
    """In the opset that has Gelu and LayerNormalization, where a model seems to spell them out."""
    present = {proto.op_type for proto in model.graph.node}
    spelled_out = any(present.issuperset(parts) for parts in PARTS_OF_COMPOSITES)
    if _opset(model) >= COMPOSITES_OPSET or not spelled_out:
        return model
    try:
        return onnx.version_converter.convert_version(model, COMPOSITES_OPSET)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError):
        return model  # as good a model, only slower


def _check_finite(nodes: list[Node], constants: Mapping[str, Array]) -> None:
    for node in nodes:
        for name in node.inputs:
            value = constants.get(name)
            if value is None or value.dtype.kind != "f" or np.isfinite(value).all():
                continue
            if node.op in _MAY_READ_INFINITY and not np.isnan(value).any():
                continue
            raise ModelError(
                f"'{name}', read by node '{node.name}' ({node.op}), has values that are NaN or "
                "infinite. Train or export the model again."
            )


def _check_channels(network: Network) -> None:
    """What ONNX's shape inference does not compare: the channels of maps and weights."""
    for node in network.nodes:
        if node.op != "Conv":
            continue
        x, weight = (network.types[name].shape for name in node.inputs[:2])
        group = node.attributes.get("group", 1)
        assert isinstance(group, int)
        if group < 1 or x[1] != weight[1] * group or weight[0] % group:
            raise ModelError(
                f"node '{node.name}' (Conv): a weight of shape {weight} with group={group} does "
                f"not fit a map of shape {x}. Check the input's channels, or export again."
            )
