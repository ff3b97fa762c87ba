"""Rules that recognise operators which older exports write as arithmetic.

LayerNormalization (an operator since opset 17) and Gelu (since 20), the latter exact or with tanh.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from millifit.targets.importer.rewrite import Edit, Graph
from millifit.targets.importer.simplify_sequence import without_readers
from millifit.targets.network import AttributeValue, Node

_MOST_FACTORS = 8
# Coefficients of x, x^2, x^3 inside erf and tanh.
_IN_ERF = (0.0, math.sqrt(0.5))
_IN_TANH = (0.0, math.sqrt(2 / math.pi), 0.0, math.sqrt(2 / math.pi) * 0.044715)

# What older exports write as arithmetic has these operators.
PARTS_OF_COMPOSITES = (("Erf",), ("Pow", "Tanh"), ("ReduceMean", "Sqrt", "Sub"))
COMPOSITES_OPSET = 20


def layer_norm(graph: Graph, node: Node) -> Edit | None:
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias`` becomes LayerNormalization."""
    if node.op != "Add" or graph.network.opset < 17:
        return None
    scaled, bias = _with_constant(graph, node)
    if scaled is None or bias is None or scaled.op != "Mul":
        return None
    normal, weight = _with_constant(graph, scaled)
    if normal is None or weight is None or normal.op != "Div":
        return None
    distance, spread = (graph.producers.get(name) for name in normal.inputs)
    x = _distance_from_mean(graph, distance)
    epsilon = _variance_epsilon(graph, spread, x)
    if x is None or epsilon is None:
        return None
    channels = graph.shape(x)[-1:]
    rows = [graph.constant(name) for name in (weight, bias)]
    if any(row is None or row.shape != channels for row in rows):
        return None
    attributes: dict[str, AttributeValue] = {"axis": -1, "epsilon": epsilon}
    made = Node(
        name=node.name, op="LayerNormalization", inputs=(x, weight, bias), outputs=node.outputs,
        attributes=attributes,
    )  # fmt: skip
    return Edit(remove=without_readers(graph, (node,)), insert=(made,))


def _with_constant(graph: Graph, node: Node) -> tuple[Node | None, str | None]:
    """The node that makes the one operand, and the name of the other, a constant."""
    for i, name in enumerate(node.inputs):
        if graph.constant(name) is not None:
            return graph.producers.get(node.inputs[1 - i]), name
    return None, None


def _distance_from_mean(graph: Graph, node: Node | None) -> str | None:
    """The x of ``x - mean(x)``."""
    if node is None or node.op != "Sub":
        return None
    mean = graph.producers.get(node.inputs[1])
    x = node.inputs[0]
    return x if mean is not None and _is_mean_of(graph, mean, x) else None


def _is_mean_of(graph: Graph, node: Node, tensor: str) -> bool:
    """Whether a node is the mean over the last axis, which stays as 1."""
    if (
        node.op != "ReduceMean"
        or node.inputs[0] != tensor
        or not node.attributes.get("keepdims", 1)
    ):
        return False
    axes = node.attributes.get("axes")
    if axes is None:
        given = graph.constant(graph.input(node, 1))
        axes = None if given is None else tuple(int(axis) for axis in given)
    rank = len(graph.shape(tensor))
    return isinstance(axes, tuple) and [int(axis) % rank for axis in axes] == [rank - 1]


def _variance_epsilon(graph: Graph, node: Node | None, x: str | None) -> float | None:
    """The epsilon of ``sqrt(mean((x - mean(x))^2) + epsilon)``."""
    inner = graph.producers.get(node.inputs[0]) if node is not None and node.op == "Sqrt" else None
    if inner is None or inner.op != "Add":
        return None
    mean, name = _with_constant(graph, inner)
    epsilon = None if name is None else graph.constant(name)
    square = graph.producers.get(mean.inputs[0]) if mean is not None else None
    if mean is None or square is None or epsilon is None or epsilon.size != 1:
        return None
    if not _is_mean_of(graph, mean, square.outputs[0]):
        return None
    power = graph.constant(square.inputs[1]) if square.op == "Pow" else None
    twice = square.op == "Mul" and square.inputs[0] == square.inputs[1]
    if not twice and (power is None or power.size != 1 or power.item() != 2):
        return None
    if _distance_from_mean(graph, graph.producers.get(square.inputs[0])) != x:
        return None
    return float(epsilon.item())


def gelu(graph: Graph, node: Node) -> Edit | None:
    """``0.5 x (1 + erf(x / sqrt 2))``, or its form with tanh, becomes Gelu."""
    if node.op != "Mul" or graph.network.opset < COMPOSITES_OPSET:
        return None
    factor, tensors = _factors(graph, node)
    if not math.isclose(factor, 0.5, rel_tol=1e-4) or len(tensors) != 2:
        return None
    for x, gate in (tensors, tensors[::-1]):
        approximate = _gate_of(graph, gate, x)
        if approximate is not None:
            made = dataclasses.replace(
                node, op="Gelu", inputs=(x,), attributes={"approximate": approximate}
            )
            return Edit(remove=without_readers(graph, (node,)), insert=(made,))
    return None


def _factors(graph: Graph, node: Node) -> tuple[float, list[str]]:
    """A product as the product of its constants, and the tensors that are multiplied."""
    number, waiting = 1.0, [*node.inputs]
    tensors: list[str] = []
    while waiting and len(tensors) < _MOST_FACTORS:
        tensor = waiting.pop()
        value, made = graph.constant(tensor), graph.sole_maker(tensor)
        if value is not None and value.size == 1:
            number *= float(value.item())
        elif made is not None and made.op == "Mul":
            waiting += made.inputs
        else:
            tensors.append(tensor)
    return number, tensors


def _gate_of(graph: Graph, gate: str, x: str) -> str | None:
    """ "none" or "tanh" where `gate` is 1 + erf or 1 + tanh of what Gelu has there, of `x`."""
    added = graph.producers.get(gate)
    if added is None or added.op != "Add":
        return None
    function, name = _with_constant(graph, added)
    one = None if name is None else graph.constant(name)
    if function is None or one is None or one.size != 1 or one.item() != 1:
        return None
    inner = _polynomial(graph, function.inputs[0], x)
    for op, wanted, approximate in (("Erf", _IN_ERF, "none"), ("Tanh", _IN_TANH, "tanh")):
        same = inner is not None and len(inner) == len(wanted)
        if function.op == op and same and np.allclose(inner, wanted, rtol=1e-4, atol=1e-7):  # type: ignore[arg-type]  # not None if same
            return approximate
    return None


def _polynomial(graph: Graph, tensor: str, x: str, depth: int = 8) -> tuple[float, ...] | None:
    """Coefficients of 1, x, x^2, ... of what a tensor is; None where it is anything else."""
    if tensor == x:
        return (0.0, 1.0)
    value, node = graph.constant(tensor), graph.producers.get(tensor)
    if value is not None:
        return (float(value.item()),) if value.size == 1 else None
    if node is None or depth == 0 or node.op not in ("Add", "Div", "Mul", "Pow"):
        return None
    left, right = (_polynomial(graph, name, x, depth - 1) for name in node.inputs)
    if left is None or right is None:
        return None
    match node.op:
        case "Add":
            made = np.polynomial.polynomial.polyadd(left, right)
        case "Mul":
            made = np.polynomial.polynomial.polymul(left, right)
        case "Div" if len(right) == 1 and right[0] != 0:
            made = np.asarray(left) / right[0]
        case "Pow" if right in ((2.0,), (3.0,)):
            made = np.polynomial.polynomial.polypow(left, int(right[0]))
        case _:
            return None
    return tuple(float(c) for c in made)
