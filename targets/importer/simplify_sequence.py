"""Rules for sequences: what works on the rows of a tensor works on a matrix.

A tensor ``[1, L, C]`` that goes through dense layers is read as the matrix ``[L, C]``: the layers
become Gemm, and the Reshape that leads back moves behind everything that treats rows alike, until
it meets an operator that needs the other axes (attention) or the network's output.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from millifit.targets.importer.rewrite import Edit, Graph
from millifit.targets.network import Array, Node, TensorType

_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_BY_ELEMENT = (
    *("Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg"),
    *("Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"),
)
_BY_ROW = ("LayerNormalization", "LogSoftmax", "RMSNormalization", "Softmax")
BINARY = ("Add", "Div", "Mul", "Sub")
_QUANTIZATION = ("DequantizeLinear", "QuantizeLinear")


def sequence_matmul(graph: Graph, node: Node) -> Edit | None:
    """MatMul of ``[..., M, K]`` with a constant ``[K, N]`` becomes one of matrices.

    ``[1, 128, 256] x [256, 1024]``: Reshape to ``[128, 256]``, MatMul, Reshape to
    ``[1, 128, 1024]``. The constant may be behind a DequantizeLinear.
    """
    if node.op != "MatMul" or len(graph.shape(node.inputs[0])) < 3:
        return None
    weight = node.inputs[1]
    if len(graph.shape(weight)) != 2 or not _constant(graph, weight):
        return None
    kinds = [graph.network.types[name] for name in (node.inputs[0], node.outputs[0])]
    rows = math.prod(kinds[0].shape[:-1])
    matrices = [dataclasses.replace(kind, shape=(rows, kind.shape[-1])) for kind in kinds]
    names = [graph.fresh_tensor(f"{node.name}_{role}") for role in ("rows", "product")]
    ahead, shapes = reshape(graph, f"{node.name}_rows", node.inputs[0], names[0], matrices[0])
    back, others = reshape(graph, f"{node.name}_back", names[1], node.outputs[0], kinds[1])
    product = dataclasses.replace(node, inputs=(names[0], weight), outputs=(names[1],))
    return Edit(
        remove=(node,),
        insert=(ahead, product, back),
        constants={**shapes, **others},
        types=dict(zip(names, matrices, strict=True)),
    )


def _constant(graph: Graph, tensor: str) -> bool:
    made = graph.producers.get(tensor)
    if made is not None and made.op == "DequantizeLinear":
        tensor = made.inputs[0]
    return graph.constant(tensor) is not None


def reshape(
    graph: Graph, name: str, source: str, made: str, kind: TensorType
) -> tuple[Node, dict[str, Array]]:
    """A Reshape to a fixed shape, and the constant it reads."""
    shape = graph.fresh_tensor(f"{name}_shape")
    node = Node(name=graph.fresh_node(name), op="Reshape", inputs=(source, shape), outputs=(made,))
    return node, {shape: np.array(kind.shape, np.int64)}


def rows_through(graph: Graph, node: Node) -> Edit | None:
    """A Reshape of a matrix in front of an operator that treats its rows alike moves behind it."""
    view = next(
        (found for tensor in node.inputs if (found := rows_view(graph, tensor)) is not None), None
    )
    if view is None or len(node.outputs) != 1 or not treats_rows_alike(graph, node):
        return None
    matrix = graph.shape(view.inputs[0])
    kind = graph.network.types[node.outputs[0]]
    inputs: list[str] = []
    inserted: list[Node] = []
    removed = [node]
    constants: dict[str, Array] = {}
    types: dict[str, TensorType] = {}
    for place, tensor in enumerate(node.inputs):
        own = rows_view(graph, tensor)
        value = graph.constant(tensor)
        if own is not None and graph.shape(own.inputs[0]) == matrix:
            inputs.append(own.inputs[0])
            if {r.name for r in graph.readers(tensor)} == {node.name} and own not in removed:
                removed.append(own)
        elif value is not None and node.op in BINARY and value.ndim > 1:
            flat = graph.fresh_tensor(f"{node.name}_operand")
            constants[flat] = value.reshape(value.shape[-1:])
            inputs.append(flat)
        elif value is not None or not tensor or (place and node.op not in BINARY):
            inputs.append(tensor)
        else:
            made = graph.fresh_tensor(f"{node.name}_rows{place}")
            types[made] = dataclasses.replace(graph.network.types[tensor], shape=matrix)
            view_ahead, shape = reshape(graph, made, tensor, made, types[made])
            inserted.append(view_ahead)
            constants |= shape
            inputs.append(made)
    made = graph.fresh_tensor(f"{node.name}_matrix")
    types[made] = dataclasses.replace(kind, shape=matrix)
    back, shape = reshape(graph, f"{node.name}_back", made, node.outputs[0], kind)
    moved = dataclasses.replace(node, inputs=tuple(inputs), outputs=(made,))
    if node.op in _BY_ROW:
        moved = dataclasses.replace(moved, attributes={**node.attributes, "axis": -1})
    return Edit(
        remove=tuple(removed),
        insert=(*inserted, moved, back),
        constants={**constants, **shape},
        types=types,
    )


def rows_view(graph: Graph, tensor: str) -> Node | None:
    """The Reshape that makes a tensor of higher rank out of a matrix with the same rows."""
    made = graph.producers.get(tensor)
    if made is None or made.op not in _VIEWS or tensor in graph.network.outputs:
        return None
    before, after = graph.shape(made.inputs[0]), graph.shape(tensor)
    fits = len(before) == 2 and len(after) > 2 and before[1] == after[-1]
    return made if fits else None


def treats_rows_alike(graph: Graph, node: Node) -> bool:
    """Whether a node computes each row of its output from the same row of its inputs alone."""
    shape = graph.shape(node.outputs[0])
    match node.op:
        case op if op in _BY_ELEMENT:
            return True
        case "Clip":
            return all(graph.constant(name) is not None for name in node.inputs[1:] if name)
        case op if op in _BY_ROW:
            axis = node.attributes.get("axis", -1)
            return isinstance(axis, int) and axis % len(shape) == len(shape) - 1
        case op if op in _QUANTIZATION:
            values = [graph.constant(name) for name in node.inputs[1:] if name]
            return all(value is not None and value.size == 1 for value in values)
        case op if op in BINARY:
            return all(_fits_rows(graph, tensor, shape) for tensor in node.inputs)
    return False


def _fits_rows(graph: Graph, tensor: str, shape: tuple[int, ...]) -> bool:
    """Whether an operand is a tensor of that very shape, one value, or a constant row."""
    value = graph.constant(tensor)
    if value is None:
        return graph.shape(tensor) == shape
    return value.size == 1 or (value.shape[-1:] == (value.size,) and value.size == shape[-1])


def constant_sums(graph: Graph, node: Node) -> Edit | None:
    """``(x + a) + b`` with constants a and b of the same rank becomes ``x + (a + b)``."""
    if node.op != "Add":
        return None
    for side in (0, 1):
        inner = graph.sole_maker(node.inputs[side])
        second = graph.constant(node.inputs[1 - side])
        if inner is None or inner.op != "Add" or second is None:
            continue
        for place in (0, 1):
            first = graph.constant(inner.inputs[place])
            if first is None or first.ndim != second.ndim:
                continue
            total = graph.fresh_tensor(f"{node.name}_constant")
            merged = dataclasses.replace(node, inputs=(inner.inputs[1 - place], total))
            if graph.shape(inner.inputs[1 - place]) != graph.shape(node.outputs[0]):
                continue
            value = (first.astype(np.float64) + second.astype(np.float64)).astype(first.dtype)
            return Edit(remove=(inner, node), insert=(merged,), constants={total: value})
    return None


def constant_beside(graph: Graph, node: Node) -> Edit | None:
    """A constant put beside a tensor before a constant is added to both: padding, one addition.

    ``Concat(token, x) + positions`` becomes ``Pad(x) + (Concat(token, 0) + positions)``.
    """
    if node.op != "Add":
        return None
    shape = graph.shape(node.outputs[0])
    for side in (0, 1):
        joined, added = graph.sole_maker(node.inputs[side]), graph.constant(node.inputs[1 - side])
        if joined is None or joined.op != "Concat" or added is None or added.shape != shape:
            continue
        parts = [graph.constant(name) for name in joined.inputs]
        known = [part for part in parts if part is not None]
        if len(known) != len(parts) - 1:
            continue
        place = next(i for i, part in enumerate(parts) if part is None)
        x, axis = joined.inputs[place], int(str(joined.attributes["axis"])) % len(shape)
        pieces = [np.zeros(graph.shape(x)) if part is None else part for part in parts]
        joint = np.concatenate([part.astype(np.float64) for part in pieces], axis=axis)
        total = (joint + added.astype(np.float64)).astype(added.dtype)
        pads = np.zeros((2, len(shape)), np.int64)
        pads[0, axis] = sum(part.shape[axis] for part in pieces[:place])
        pads[1, axis] = sum(part.shape[axis] for part in pieces[place + 1 :])
        names = [graph.fresh_tensor(f"{joined.name}_{role}") for role in ("pads", "constant")]
        pad = dataclasses.replace(
            joined, op="Pad", inputs=(x, names[0]), attributes={"mode": "constant"}
        )
        plus = dataclasses.replace(node, inputs=(joined.outputs[0], names[1]))
        constants: dict[str, Array] = {names[0]: pads.ravel(), names[1]: total}
        return Edit(remove=(joined, node), insert=(pad, plus), constants=constants)
    return None


def view_of_view(graph: Graph, node: Node) -> Edit | None:
    """A Reshape of a Reshape is one Reshape of what the first one read."""
    if node.op not in _VIEWS:
        return None
    made = graph.producers.get(node.inputs[0])
    if made is None or made.op not in _VIEWS:
        return None
    kind = graph.network.types[node.outputs[0]]
    view, shape = reshape(graph, node.name, made.inputs[0], node.outputs[0], kind)
    merged = dataclasses.replace(view, name=node.name)
    remove = (made, node) if graph.sole_maker(node.inputs[0]) is made else (node,)
    return Edit(remove=remove, insert=(merged,), constants=shape)


def same_view(graph: Graph, node: Node) -> Edit | None:
    """Equal Reshapes of one tensor are one."""
    if node.op not in _VIEWS or node.outputs[0] in graph.network.outputs:
        return None
    kind = graph.network.types[node.outputs[0]]
    for other in graph.readers(node.inputs[0]):
        if other.name == node.name:
            return None  # the first of them stays
        if other.op in _VIEWS and graph.network.types[other.outputs[0]] == kind:
            return Edit(remove=(node,), alias=(node.outputs[0], other.outputs[0]))
    return None


def without_readers(graph: Graph, ends: Sequence[Node]) -> tuple[Node, ...]:
    """`ends`, and the nodes in front of them that then nobody reads."""
    gone = {node.name: node for node in ends}
    waiting = list(ends)
    while waiting:
        for tensor in waiting.pop().inputs:
            made = graph.producers.get(tensor)
            if made is None or made.name in gone:
                continue
            read = any(r.name not in gone for t in made.outputs for r in graph.readers(t))
            if not read and not set(made.outputs) & set(graph.network.outputs):
                gone[made.name] = made
                waiting.append(made)
    return tuple(gone.values())
