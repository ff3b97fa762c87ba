"""Rules that bring operators on maps to the form that has kernels, before a network is lowered.

Besides ONNX's operators they use ChannelShuffle (attribute ``groups``: one channel of every group
in turn), DepthToSpace with ``block`` (two integers) and ``crop``, and FlattenLast, a Flatten that
leaves a map channels-last because the weights of the layers behind it are in that order.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from millifit.targets.importer.rewrite import Edit, Graph, rewrite
from millifit.targets.lowering.one_dimensional import widened
from millifit.targets.lowering.rewriting import changed, elementwise
from millifit.targets.lowering.transposed_convolution import conv_transpose
from millifit.targets.network import Array, AttributeValue, Network, Node, TensorType

# Flattened weights above this many bytes are not copied into another order.
_MOST_BYTES = 1 << 28


def prepared(network: Network) -> Network:
    """An equal network of the operators that lowering knows; names of layers stay."""
    network = widened(network)
    rules = (
        *(shuffled_channels, conv_transpose, explicit_block, pixels_after_elementwise),
        *(channels_of_pixels, depthwise_multiples, flatten_last),
    )
    return rewrite(network, rules)


def shuffled_channels(graph: Graph, node: Node) -> Edit | None:
    """Reshape, Transpose, Reshape of a map: ChannelShuffle or DepthToSpace."""
    if node.op != "Reshape":
        return None
    turn, after_turn = _maker(graph, node.inputs[0])
    split, after_split = _maker(graph, turn.inputs[0]) if turn is not None else (None, ())
    if turn is None or split is None or (turn.op, split.op) != ("Transpose", "Reshape"):
        return None
    rounding = (*after_split, *after_turn)
    if rounding and not _round_nothing(graph, split.inputs[0], rounding):
        return None
    before, inner = graph.shape(split.inputs[0]), graph.shape(split.outputs[0])
    after, permuted = graph.shape(node.outputs[0]), turn.attributes.get("perm")
    if len(before) != 4 or len(after) != 4:
        return None
    n, c, h, w = before
    made: Node | None = None
    if permuted == (0, 2, 1, 3, 4) and after == before and inner[0] == n and inner[3:] == (h, w):
        made = _node(node, split, "ChannelShuffle", groups=inner[1])
    elif len(inner) == 6 and inner[0] == n and inner[4:] == (h, w):
        block, mode = None, ""
        if permuted == (0, 1, 4, 2, 5, 3):
            block, mode = inner[2:4], "CRD"
        elif permuted == (0, 3, 4, 1, 5, 2):
            block, mode = inner[1:3], "DCR"
        if block is not None:
            channels = c // math.prod(block)
            if after == (n, channels, h * block[0], w * block[1]):
                made = _node(node, split, "DepthToSpace", block=block, mode=mode, crop=(0, 0))
    if made is None:
        return None
    return Edit(remove=(split, turn, node, *rounding), insert=(made,))


def _maker(graph: Graph, tensor: str) -> tuple[Node | None, tuple[Node, ...]]:
    """The node that makes a tensor for one reader alone, and a Q/DQ pair between the two."""
    maker = graph.sole_maker(tensor)
    if maker is None or maker.op != "DequantizeLinear":
        return maker, ()
    quantizer = graph.sole_maker(maker.inputs[0])
    if quantizer is None or quantizer.op != "QuantizeLinear":
        return maker, ()
    return graph.sole_maker(quantizer.inputs[0]), (quantizer, maker)


def _round_nothing(graph: Graph, tensor: str, pairs: tuple[Node, ...]) -> bool:
    """Whether `tensor` was dequantized with the scale and zero point that all of `pairs` have."""
    first = graph.producers.get(tensor)
    if first is None or first.op != "DequantizeLinear":
        return False
    wanted = [graph.constant(name) for name in first.inputs[1:]]
    for node in pairs:
        found = [graph.constant(name) for name in node.inputs[1:]]
        both = list(zip(wanted, found, strict=False))
        if len(wanted) != len(found) or any(a is None or b is None for a, b in both):
            return False
        if not all(np.array_equal(a, b) for a, b in both if a is not None and b is not None):
            return False
    return True


def _node(last: Node, first: Node, op: str, **attributes: int | str | tuple[int, ...]) -> Node:
    return Node(
        name=last.name, op=op, inputs=first.inputs[:1], outputs=last.outputs, attributes=attributes
    )


def explicit_block(graph: Graph, node: Node) -> Edit | None:  # noqa: ARG001 - a rule
    """DepthToSpace with its block as two integers."""
    if node.op != "DepthToSpace" or "block" in node.attributes:
        return None
    size = int(str(node.attributes["blocksize"]))
    mode = str(node.attributes.get("mode", "DCR"))
    attributes: dict[str, AttributeValue] = {"block": (size, size), "mode": mode, "crop": (0, 0)}
    return Edit(remove=(node,), insert=(dataclasses.replace(node, attributes=attributes),))


def pixels_after_elementwise(graph: Graph, node: Node) -> Edit | None:
    """DepthToSpace and what treats every element alike change places, so that layers fuse it."""
    first = graph.sole_maker(node.inputs[0]) if node.inputs and elementwise(graph, node) else None
    if first is None or first.op != "DepthToSpace":
        return None
    between = graph.fresh_tensor(f"{node.outputs[0]}:phases")
    kind = dataclasses.replace(
        graph.network.types[node.outputs[0]], shape=graph.shape(first.inputs[0])
    )
    earlier = dataclasses.replace(
        node, inputs=(first.inputs[0], *node.inputs[1:]), outputs=(between,)
    )
    later = dataclasses.replace(first, inputs=(between,), outputs=node.outputs)
    return Edit(remove=(first, node), insert=(earlier, later), types={between: kind})


def channels_of_pixels(graph: Graph, node: Node) -> Edit | None:
    """DepthToSpace in the order (channel, row, column): its convolution makes the other order.

    Then the channels of an output row are neighbours. The convolution's weights are permuted.
    """
    if node.op != "DepthToSpace" or node.attributes.get("mode") != "CRD":
        return None
    maker = graph.sole_maker(node.inputs[0])
    while maker is not None and elementwise(graph, maker):
        maker = graph.sole_maker(maker.inputs[0])
    if maker is None or maker.op != "Conv" or maker.attributes.get("group", 1) != 1:
        return None
    block = node.attributes["block"]
    assert isinstance(block, tuple)
    area, depth = math.prod(int(extent) for extent in block), graph.shape(maker.outputs[0])[1]
    order = np.arange(depth).reshape(depth // area, area).T.ravel()

    def permuted(values: Array, _: int = 0) -> Array:
        return values[order] if values.shape and values.shape[0] == depth else values

    changes = [
        changed(graph, name, "permuted", permuted, permuted) for name in maker.inputs[1:] if name
    ]
    found = [change for change in changes if change is not None]
    if len(found) < len(changes):
        return None
    conv = dataclasses.replace(maker, inputs=(maker.inputs[0], *(c.tensor for c in found)))
    pixels = dataclasses.replace(node, attributes={**node.attributes, "mode": "DCR"})
    constants = {k: v for c in found for k, v in c.constants.items()}
    types = {k: v for c in found for k, v in c.types.items()}
    nodes = tuple(n for c in found for n in c.nodes)
    # Two edits at two places: nothing between them moves.
    network = graph.network
    made = []
    for each in network.nodes:
        if each.name == maker.name:
            made += [*nodes, conv]
        else:
            made.append(pixels if each.name == node.name else each)
    return Edit(remove=network.nodes, insert=tuple(made), constants=constants, types=types)


def depthwise_multiples(graph: Graph, node: Node) -> Edit | None:
    """A depthwise convolution that makes m channels of each: every channel is repeated m times."""
    if node.op != "Conv" or len(graph.shape(node.inputs[0])) != 4:
        return None
    n, channels, h, w = graph.shape(node.inputs[0])
    outputs = graph.shape(node.outputs[0])[1]
    if node.attributes.get("group", 1) != channels or channels == 1 or outputs == channels:
        return None
    times = outputs // channels
    kind = graph.network.types[node.inputs[0]]
    wide = dataclasses.replace(kind, shape=(n, outputs, h, w))
    joined, mixed = (graph.fresh_tensor(f"{node.name}:{part}") for part in ("joined", "repeated"))
    concat = Node(
        name=graph.fresh_node(joined), op="Concat", inputs=(node.inputs[0],) * times,
        outputs=(joined,), attributes={"axis": 1},
    )  # fmt: skip
    shuffle = Node(
        name=graph.fresh_node(mixed), op="ChannelShuffle", inputs=(joined,), outputs=(mixed,),
        attributes={"groups": times},
    )  # fmt: skip
    conv = dataclasses.replace(
        node, inputs=(mixed, *node.inputs[1:]), attributes={**node.attributes, "group": outputs}
    )
    return Edit(remove=(node,), insert=(concat, shuffle, conv), types={joined: wide, mixed: wide})


def flatten_last(graph: Graph, node: Node) -> Edit | None:
    """Flatten of a map that only dense layers read: their weights take the map's own order."""
    if node.op != "Flatten" or node.attributes.get("axis", 1) != 1:
        return None
    shape = graph.shape(node.inputs[0])
    if len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1:
        return None
    dense = _dense_readers(graph, node.outputs[0])
    if not dense:
        return None
    order = np.arange(math.prod(shape[1:])).reshape(shape[1:]).transpose(1, 2, 0).ravel()
    edits: dict[str, Node] = {node.name: dataclasses.replace(node, op="FlattenLast")}
    added: list[Node] = []
    constants: dict[str, Array] = {}
    types: dict[str, TensorType] = {}
    for layer in dense:
        change = changed(graph, layer.inputs[1], "last", lambda v, _: v[:, order], lambda s: s)
        if change is None:
            return None
        constants |= change.constants
        types |= change.types
        added += change.nodes
        edits[layer.name] = dataclasses.replace(
            layer, inputs=(layer.inputs[0], change.tensor, *layer.inputs[2:])
        )
    nodes = tuple(edits.get(each.name, each) for each in graph.network.nodes)
    return Edit(
        remove=graph.network.nodes, insert=(*added, *nodes), constants=constants, types=types
    )


def _dense_readers(graph: Graph, tensor: str) -> list[Node]:
    """The dense layers that read a flattened map, if nothing else does; none otherwise."""
    found: list[Node] = []
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in graph.network.outputs:
            return []
        for reader in graph.readers(name):
            if elementwise(graph, reader):
                waiting.append(reader.outputs[0])
                continue
            plain = all(reader.attributes.get(a, 1.0) == 1.0 for a in ("alpha", "beta"))
            plain = plain and not reader.attributes.get("transA", 0)
            fits = reader.op == "Gemm" and plain and reader.inputs[0] == name
            if not fits or not reader.attributes.get("transB", 0) or reader.inputs[1] == name:
                return []
            if graph.network.types[reader.inputs[1]].bytes > _MOST_BYTES:
                return []
            found.append(reader)
    return found
