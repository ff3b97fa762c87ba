"""A network as an ONNX model, and the types of its tensors inferred through it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from millifit.errors import ModelError
from millifit.targets.importer.fold import fold_constants
from millifit.targets.importer.onnx_nodes import dtype_name, element_type, write_node
from millifit.targets.network import Array, Network, Node, TensorType

# Shape inference reads the values of small constants only: axes, sizes, repeats.
_SMALL = 1024


def to_onnx(network: Network) -> onnx.ModelProto:
    """The network as an ONNX model that ONNX Runtime takes; types of inner tensors are left out."""
    nodes, bounds = _with_clip_inputs(network)
    constants = {**network.constants, **bounds}
    return _model(network, nodes, constants, network.inputs, network.outputs)


def _model(
    network: Network,
    nodes: Iterable[Node],
    constants: dict[str, Array],
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> onnx.ModelProto:
    def declared(name: str) -> onnx.ValueInfoProto:
        kind = network.types.get(name)
        if kind is None:
            return onnx.helper.make_empty_tensor_value_info(name)
        return onnx.helper.make_tensor_value_info(name, element_type(kind.dtype), kind.shape)

    graph = onnx.helper.make_graph(
        [write_node(node, opset=network.opset) for node in nodes],
        network.name or "network",
        [declared(name) for name in inputs],
        [declared(name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", network.opset)]
    # The oldest version that has this opset, so that older runtimes take the file, too.
    ir_version = onnx.helper.find_min_ir_version_for(opsets)
    return onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=ir_version, producer_name="millifit"
    )


def _with_clip_inputs(network: Network) -> tuple[list[Node], dict[str, Array]]:
    """Nodes as ONNX has them: a Clip's "min" and "max" attributes are scalar inputs there."""
    nodes: list[Node] = []
    bounds: dict[str, Array] = {}
    for node in network.nodes:
        if node.op != "Clip" or not node.attributes:
            nodes.append(node)
            continue
        # Before the first inference the input's type is not known yet.
        known = network.types.get(node.inputs[0])
        kind = known.dtype if known else "float32"
        names = []
        for side in ("min", "max"):
            name = ""
            if side in node.attributes:
                name = f"{node.name}_{side}"
                while name in network.types:
                    name += "_"
                bounds[name] = np.array(node.attributes[side], dtype=kind)
            names.append(name)
        inputs = (node.inputs[0], *names) if names[1] else (node.inputs[0], names[0])
        nodes.append(Node(name=node.name, op="Clip", inputs=inputs, outputs=node.outputs))
    return nodes, bounds


def infer_types(network: Network) -> Network:
    """The network with the type of every tensor; only inputs and constants need one before.

    Where a shape depends on a computed constant, constants are folded and inference goes on.
    Raises ModelError naming the first tensor whose shape is not fixed, and the node that makes it.
    """
    while True:
        known = network.replace(types={**network.types, **_inferred(network)})
        missing = [
            (tensor, node)
            for node in known.nodes
            for tensor in node.outputs
            if tensor and tensor not in known.types
        ]
        if not missing:
            return known
        folded = fold_constants(known)
        if folded is known:
            tensor, node = missing[0]
            raise ModelError(
                f"the shape of '{tensor}', made by node '{node.name}' ({node.op}), is not fixed: "
                "it depends on the data. Export the model with static shapes."
            )
        network = folded


def _inferred(network: Network) -> dict[str, TensorType]:
    typed = {*network.inputs, *network.constants}
    bare = network.replace(types={n: t for n, t in network.types.items() if n in typed})
    nodes, bounds = _with_clip_inputs(network)
    constants = {**network.constants, **bounds}
    small = {name: value for name, value in constants.items() if value.size <= _SMALL}
    # Large weights are declared as inputs: their values do not matter, and copying them does.
    inputs = (*network.inputs, *(name for name in constants if name not in small))
    made = [name for node in nodes for name in node.outputs if name]
    model = _model(bare, nodes, small, inputs, network.outputs)
    try:
        graph = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        ).graph
    except onnx.shape_inference.InferenceError as refused:
        raise ModelError(f"shapes do not fit together: {str(refused).strip()}") from refused
    types: dict[str, TensorType] = {}
    for info in (*graph.value_info, *graph.output):
        kind = _static_type(info)
        if kind is not None and info.name in made:
            types[info.name] = kind
    return types


def _static_type(info: onnx.ValueInfoProto) -> TensorType | None:
    if not info.type.HasField("tensor_type"):
        return None
    tensor = info.type.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        return None
    if any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    shape = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
    return TensorType(shape=shape, dtype=dtype_name(tensor.elem_type, tensor=info.name))
