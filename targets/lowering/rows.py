"""Rows that nobody reads are not computed: what chooses rows moves in front of what makes them.

This is for one sample at a time, so it is no part of the normal form, which training reads.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from millifit.targets.importer.rewrite import Edit, Graph, rewrite
from millifit.targets.importer.simplify_sequence import (
    BINARY,
    reshape,
    rows_view,
    treats_rows_alike,
)
from millifit.targets.network import Array, Network, Node, TensorType


def prepared(network: Network) -> Network:
    """The network with rows chosen as early as possible."""
    return rewrite(network, (same_rows, chosen_rows))


def chosen_rows(graph: Graph, node: Node) -> Edit | None:
    """Rows of a matrix that are chosen by constants are chosen before rows are worked on.

    A classifier that reads one token needs no dense layers for the others: ``Gather(Gemm(x))``
    becomes ``Gemm(Gather(x))``, down to the last operator that mixes rows.
    """
    ids = graph.constant(node.inputs[1]) if node.op == "Gather" else None
    if ids is None or ids.size >= math.prod(graph.shape(node.inputs[0])[:-1]):
        return None
    view = rows_view(graph, node.inputs[0])
    axis = int(str(node.attributes.get("axis", 0)))
    shape = graph.shape(node.inputs[0])
    kind = graph.network.types[node.outputs[0]]
    if view is not None:
        if axis % len(shape) != len(shape) - 2 or math.prod(shape[:-2]) != 1 or ids.ndim > 1:
            return None
        return _gather_of_matrix(graph, node, view, ids, kind)
    made = graph.sole_maker(node.inputs[0])
    if made is None or len(shape) != 2 or axis % 2 or ids.ndim != 1 or len(made.outputs) != 1:
        return None
    gemm = made.op == "Gemm" and not made.attributes.get("transA", 0)
    if not gemm and not treats_rows_alike(graph, made):
        return None
    return _gather_before(graph, node, made, kind)


def _gather_of_matrix(graph: Graph, node: Node, view: Node, ids: Array, kind: TensorType) -> Edit:
    """Choose rows of the matrix itself, and give the result the shape it had."""
    chosen, wanted = (graph.fresh_tensor(f"{node.name}_{role}") for role in ("rows", "ids"))
    types = {chosen: dataclasses.replace(kind, shape=(ids.size, kind.shape[-1]))}
    gather = dataclasses.replace(
        node, inputs=(view.inputs[0], wanted), outputs=(chosen,), attributes={"axis": 0}
    )
    back, shape = reshape(graph, f"{node.name}_back", chosen, node.outputs[0], kind)
    constants = {**shape, wanted: np.asarray(ids, np.int64).reshape(-1)}
    remove = (view, node) if graph.sole_maker(node.inputs[0]) is view else (node,)
    return Edit(remove=remove, insert=(gather, back), constants=constants, types=types)


def _gather_before(graph: Graph, node: Node, made: Node, kind: TensorType) -> Edit:
    """Choose rows of all matrices that `made` reads."""
    rows = graph.shape(made.outputs[0])[0]
    inserted: list[Node] = []
    inputs: list[str] = []
    types: dict[str, TensorType] = {}
    for place, tensor in enumerate(made.inputs):
        weights = place > 0 and made.op not in BINARY
        if not tensor or weights or graph.constant(tensor) is not None:
            inputs.append(tensor)
            continue
        assert graph.shape(tensor)[0] == rows
        chosen = graph.fresh_tensor(f"{made.name}_rows{place}")
        source = graph.network.types[tensor]
        types[chosen] = dataclasses.replace(source, shape=(kind.shape[0], source.shape[1]))
        name = node.name if not inserted else graph.fresh_node(f"{made.name}_rows{place}")
        inserted.append(
            dataclasses.replace(node, name=name, inputs=(tensor, node.inputs[1]), outputs=(chosen,))
        )
        inputs.append(chosen)
    moved = dataclasses.replace(made, inputs=tuple(inputs), outputs=node.outputs)
    return Edit(remove=(made, node), insert=(*inserted, moved), types=types)


def same_rows(graph: Graph, node: Node) -> Edit | None:
    """Equal choices from one tensor are one."""
    if node.op != "Gather" or node.outputs[0] in graph.network.outputs:
        return None
    for other in graph.readers(node.inputs[0]):
        if other.name == node.name:
            return None  # the first of them stays
        if (other.op, other.inputs, other.attributes) == (node.op, node.inputs, node.attributes):
            return Edit(remove=(node,), alias=(node.outputs[0], other.outputs[0]))
    return None
