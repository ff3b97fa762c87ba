"""Which tensors of a network pass through 8 bits, given the precision of every layer.

Units are nodes with the Relu or Clip that directly follows a layer or an Add: nothing is quantized
between the two. A layer is an int8 unit where the plan says so; a passive operator (pooling, Add,
Concat, reshapes) where all its activations come out of int8 units. QuantizeLinear and
DequantizeLinear stand on every tensor that an int8 unit reads, and nowhere else::

    Conv(int8) -> Relu -> [Q -> DQ] -> MaxPool -> [Q -> DQ] -> Conv(int8) -> Softmax
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from millifit.errors import ModelError
from millifit.targets.network import Network, Node
from millifit.targets.target import INTEGER, Precision

# Their outputs are values of their input: one scale for both, so that nothing is rounded twice.
_VALUE_PRESERVING = (
    *("DepthToSpace", "Flatten", "GlobalMaxPool", "MaxPool", "Reshape", "Resize", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
PASSIVE_OPERATORS = (
    *("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "Relu"),
    *_VALUE_PRESERVING,
)
_FUSED_ACTIVATIONS = ("Clip", "Relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the 8-bit tensors are.

    `int8_nodes` read and compute 8-bit values. The keys of `range_of` get QuantizeLinear and
    DequantizeLinear, in order of the graph; its values are the tensors whose ranges they use.
    `int8_made` are the outputs of int8 units: of those, every reader takes the dequantized value.
    """

    int8_nodes: frozenset[str]
    range_of: Mapping[str, str]
    int8_made: frozenset[str]


def place(network: Network, precisions: Mapping[str, Precision]) -> Placement:
    """The placement for a plan; a layer without an entry stays fp32.

    ModelError where `precisions` names a layer that the network does not have.
    """
    layers = {node.name for node in network.layers}
    if unknown := sorted(set(precisions) - layers):
        raise ModelError(f"'{network.name}' has no layer {', '.join(map(repr, unknown))}")
    fused = fused_activations(network)
    absorbed = {node.name for node in fused.values()}
    int8_nodes: set[str] = set()
    made: set[str] = set()
    needed: set[str] = set()
    for node in network.nodes:
        if node.name in absorbed:
            continue
        if node.name in layers:
            read = node.inputs[:1] if precisions.get(node.name) in INTEGER else ()
        else:
            read = _int8_passive_inputs(network, node, made)
        if not read:
            continue
        int8_nodes.add(node.name)
        needed.update(read)
        made.update(fused.get(node.name, node).outputs)
    order = [*network.inputs, *(t for node in network.nodes for t in node.outputs)]
    producers = network.producers()
    return Placement(
        int8_nodes=frozenset(int8_nodes),
        range_of={t: _origin(producers, t) for t in order if t in needed},
        int8_made=frozenset(made),
    )


def _origin(producers: Mapping[str, Node], tensor: str) -> str:
    """The tensor whose values `tensor` has: before all pooling of maxima and reshaping."""
    node = producers.get(tensor)
    while node is not None and node.op in _VALUE_PRESERVING:
        tensor = node.inputs[0]
        node = producers.get(tensor)
    return tensor


def fused_activations(network: Network) -> dict[str, Node]:
    """The Relu or Clip that belongs to a layer or an Add, by the name of that node."""
    readers = network.consumers()
    layers = {node.name for node in network.layers}
    fused = {}
    for node in network.nodes:
        if node.name not in layers and node.op != "Add":
            continue
        after = readers.get(node.outputs[0], [])
        if (
            len(after) == 1
            and after[0].op in _FUSED_ACTIVATIONS
            and node.outputs[0] not in network.outputs
        ):
            fused[node.name] = after[0]
    return fused


def _read(network: Network, node: Node) -> tuple[str, ...]:
    """The activations a unit reads: what remains without weights, biases and shapes."""
    if node.op in ("Conv", "Gemm"):
        return node.inputs[:1]
    return tuple(t for t in node.inputs if t and t not in network.constants)


def _int8_passive_inputs(network: Network, node: Node, made: set[str]) -> tuple[str, ...]:
    if node.op not in PASSIVE_OPERATORS or (len(node.outputs) != 1 and node.op != "Split"):
        return ()
    if node.op == "Resize" and node.attributes.get("mode") == "cubic":
        return ()  # what it makes may lie outside its input's range
    if node.op == "Transpose" and not _shuffles(network, node):
        return ()
    read = _read(network, node)
    if node.op in ("Add", "Concat") and len(read) != len(node.inputs):
        return ()  # a constant operand would need a scale of its own
    return read if all(tensor in made for tensor in read) else ()


def _shuffles(network: Network, node: Node) -> bool:
    """Whether a Transpose stands between two Reshapes, as in a shuffle of channels."""
    maker = network.producers().get(node.inputs[0])
    readers = network.consumers().get(node.outputs[0], [])
    return maker is not None and maker.op == "Reshape" and [n.op for n in readers] == ["Reshape"]
