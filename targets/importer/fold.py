"""Constant folding: nodes whose result is known before the network runs become constants."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper

from millifit.targets.importer.onnx_nodes import element_type, write_node
from millifit.targets.network import Array, Network, Node, TensorType

# A constant may always be as large as what it is made of, and at least this many elements.
_LARGEST_FOLDED = 1 << 20
_LAYERS = ("Conv", "Gemm", "MatMul")
# Not constant although the inputs are, or to be kept for the precision they state.
_KEPT = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Bernoulli", "Multinomial", "Dropout"),
)


def fold_constants(network: Network) -> Network:
    """The network without nodes that compute the same on every run.

    Nodes that read only constants are evaluated, `Shape` and `Size` follow from the types. A node
    whose outputs have no type yet stays (types are inferred again after folding), and so does one
    that makes a network output. Returns `network` itself where nothing folds.
    """
    constants = dict(network.constants)
    types = dict(network.types)
    kept: list[Node] = []
    stated = _half_weights(network)
    for node in network.nodes:
        values = None
        if node.name not in stated and not set(node.outputs) & set(network.outputs):
            values = _values(node, constants, types, network.opset)
        if values is None:
            kept.append(node)
            continue
        constants.update(values)
        types.update(
            {name: TensorType(shape=v.shape, dtype=v.dtype.name) for name, v in values.items()}
        )
    if len(kept) == len(network.nodes):
        return network
    return network.replace(nodes=tuple(kept), constants=constants, types=types)


def _half_weights(network: Network) -> set[str]:
    """Casts of 16-bit weights whose layers read a tensor rounded to the same type."""
    producers, readers = network.producers(), network.consumers()

    def rounded(layer: Node, dtype: str) -> bool:
        back = producers.get(layer.inputs[0])
        if back is None or back.op != "Cast" or layer.op not in _LAYERS:
            return False
        known = network.types.get(back.inputs[0])
        return known is not None and known.dtype == dtype

    found = set()
    for node in network.nodes:
        held = network.constants.get(node.inputs[0]) if node.op == "Cast" else None
        if held is None or held.dtype.name not in ("float16", "bfloat16"):
            continue
        layers = readers.get(node.outputs[0], [])
        if layers and all(rounded(layer, held.dtype.name) for layer in layers):
            found.add(node.name)
    return found


def _values(
    node: Node, constants: dict[str, Array], types: dict[str, TensorType], opset: int
) -> dict[str, Array] | None:
    read = [name for name in node.inputs if name]
    if node.op in ("Shape", "Size") and read[0] in types:
        return {node.outputs[0]: _extent(node, types[read[0]].shape)}
    if node.op in _KEPT or any(name not in constants for name in read):
        return None
    made = [name for name in node.outputs if name]
    if any(name not in types for name in made):
        return None
    limit = max(_LARGEST_FOLDED, sum(constants[name].size for name in read))
    if sum(types[name].elements for name in made) > limit:
        return None
    return _evaluate(node, {name: constants[name] for name in read}, types, opset)


def _extent(node: Node, shape: tuple[int, ...]) -> Array:
    if node.op == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
    assert isinstance(start, int)
    assert isinstance(end, int)
    return np.array(shape[start:end], dtype=np.int64)


def _evaluate(
    node: Node, inputs: dict[str, Array], types: dict[str, TensorType], opset: int
) -> dict[str, Array] | None:
    """Run one node by itself; None where ONNX Runtime has no kernel for it."""
    import onnxruntime

    def declared(name: str, kind: TensorType) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, element_type(kind.dtype), kind.shape)

    made = [name for name in node.outputs if name]
    graph = onnx.helper.make_graph(
        [write_node(node, opset=opset)],
        "fold",
        [declared(name, types[name]) for name in inputs],
        [declared(name, types[name]) for name in made],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    ir_version = onnx.helper.find_min_ir_version_for(opsets)
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(made, inputs)
    except Exception:  # ONNX Runtime has classes of its own; the node then just stays
        return None
    return dict(zip(made, (np.asarray(value) for value in values), strict=True))
