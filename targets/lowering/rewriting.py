"""What the rules that prepare a network for lowering share: constants changed with their scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from millifit.targets.importer.rewrite import Graph
from millifit.targets.network import Array, Node, TensorType

# Operators that treat every element alike, so that they may change places with a movement.
ELEMENTWISE = (
    *("Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu", "Elu", "Gelu"),
    *("Selu", "Softplus", "Mish", "Celu", "Abs", "Neg", "Exp", "Sqrt", "Erf", "QuantizeLinear"),
    *("DequantizeLinear", "Cast"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A constant changed: its new name, and what has to be added to the network for it."""

    tensor: str
    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    types: dict[str, TensorType]


def elementwise(graph: Graph, node: Node) -> bool:
    """Whether a node treats every element of its first input alike, whatever its place."""
    if node.op not in ELEMENTWISE or len(node.outputs) != 1:
        return False
    others = [graph.constant(name) for name in node.inputs[1:] if name]
    return all(value is not None and value.size == 1 for value in others)


def changed(
    graph: Graph,
    tensor: str,
    suffix: str,
    change: Callable[[Array, int], Array],
    per_channel: Callable[[Array], Array] | None,
    *,
    axis: int = 0,
) -> Change | None:
    """A constant passed through `change(values, zero)`, where zero is what stands for 0.

    Integers behind a DequantizeLinear are changed as they are; their scales along `axis`, if there
    are several, pass through `per_channel` and lie along axis 0 of the result. None where the
    tensor is no constant, or quantized in another way.
    """
    name = graph.fresh_tensor(f"{tensor}:{suffix}")
    value = graph.constant(tensor)
    if value is not None:
        made = np.ascontiguousarray(change(value, 0))
        return Change(tensor=name, nodes=(), constants={name: made}, types={name: _type(made)})
    node = graph.producers.get(tensor)
    if node is not None and node.op == "Cast" and graph.constant(node.inputs[0]) is not None:
        return _changed_half(graph, node, name, suffix, change)
    if node is None or node.op != "DequantizeLinear" or node.attributes.get("block_size", 0):
        return None
    parts = [graph.constant(part) for part in node.inputs if part]
    if any(part is None for part in parts):
        return None
    values, scale, *zeros = (np.asarray(part) for part in parts)
    zero = zeros[0] if zeros else np.zeros((), values.dtype)
    if np.unique(zero).size != 1:
        return None
    if scale.size > 1:
        if int(str(node.attributes.get("axis", 1))) % values.ndim != axis or per_channel is None:
            return None
        scale = per_channel(scale)
    integers = np.ascontiguousarray(change(values, int(zero.flat[0])))
    names = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
    filled = np.full(scale.shape, zero.flat[0], values.dtype)
    constants = dict(zip(names, (integers, scale, filled), strict=True))
    dequantize = Node(
        name=graph.fresh_node(f"{node.name}:{suffix}"), op="DequantizeLinear",
        inputs=tuple(names), outputs=(name,), attributes={"axis": 0},
    )  # fmt: skip
    types = {part: _type(array) for part, array in constants.items()}
    types[name] = TensorType(shape=integers.shape, dtype="float32")
    return Change(tensor=name, nodes=(dequantize,), constants=constants, types=types)


def _changed_half(
    graph: Graph, node: Node, name: str, suffix: str, change: Callable[[Array, int], Array]
) -> Change:
    """A constant behind a Cast, which is stored in 16 bits."""
    made = np.ascontiguousarray(change(np.asarray(graph.constant(node.inputs[0])), 0))
    cast = dataclasses.replace(
        node, name=graph.fresh_node(f"{node.name}:{suffix}"), inputs=(f"{name}_stored",),
        outputs=(name,),
    )  # fmt: skip
    types = {
        f"{name}_stored": _type(made),
        name: TensorType(shape=made.shape, dtype=graph.network.types[node.outputs[0]].dtype),
    }
    return Change(tensor=name, nodes=(cast,), constants={f"{name}_stored": made}, types=types)


def _type(value: Array) -> TensorType:
    return TensorType(shape=value.shape, dtype=value.dtype.name)
