"""Rules that make pooling explicit, and the window attributes that convolutions share with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from millifit.targets.importer.rewrite import Edit, Graph
from millifit.targets.network import AttributeValue, Node


def integers(node: Node, name: str) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    value = node.attributes[name]
    assert isinstance(value, tuple)
    return tuple(int(item) for item in value)


def explicit_window(
    graph: Graph, node: Node, *, kernel: Sequence[int]
) -> dict[str, AttributeValue]:
    """`kernel_shape`, `strides`, `dilations` and `pads`, with defaults and `auto_pad` resolved.

    For a 3x3 window with stride 2 on a 224x224 map, SAME_UPPER gives ``pads (0, 0, 1, 1)``.
    """
    rank = len(kernel)
    ones = (1,) * rank
    strides = integers(node, "strides") if "strides" in node.attributes else ones
    dilations = integers(node, "dilations") if "dilations" in node.attributes else ones
    rule = node.attributes.get("auto_pad", "NOTSET")
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        sizes = graph.shape(node.inputs[0])[2:]
        pads = _same_pads(sizes, kernel, strides, dilations, extra_last=rule == "SAME_UPPER")
    elif rule == "NOTSET" and "pads" in node.attributes:
        pads = integers(node, "pads")
    else:
        pads = (0,) * (2 * rank)
    return {
        "kernel_shape": tuple(kernel),
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
    }


def _same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    extra_last: bool,
) -> tuple[int, ...]:
    before, after = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (k - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if extra_last else more)
        after.append(more if extra_last else less)
    return (*before, *after)


def explicit_pool(graph: Graph, node: Node) -> Edit | None:
    """MaxPool and AveragePool with every attribute explicit, AveragePool without dilations of 1."""
    if node.op not in ("MaxPool", "AveragePool"):
        return None
    attributes = explicit_window(graph, node, kernel=integers(node, "kernel_shape"))
    automatic = node.attributes.get("auto_pad", "NOTSET") != "NOTSET"
    # With automatic padding the output size is fixed by the rule, which rounds as it says.
    attributes["ceil_mode"] = 0 if automatic else node.attributes.get("ceil_mode", 0)
    if node.op == "AveragePool":
        attributes["count_include_pad"] = node.attributes.get("count_include_pad", 0)
        # The operator has this attribute from opset 19 only.
        if set(integers(node, "dilations") if "dilations" in node.attributes else (1,)) == {1}:
            del attributes["dilations"]
    elif node.attributes.get("storage_order", 0):
        attributes["storage_order"] = 1
    if attributes == node.attributes:
        return None
    explicit = dataclasses.replace(node, attributes=attributes)
    return Edit(remove=(node,), insert=(explicit,))


def pool_of_everything(graph: Graph, node: Node) -> Edit | None:
    """AveragePool whose one window is the whole map becomes GlobalAveragePool."""
    if node.op != "AveragePool" or "pads" not in node.attributes:
        return None
    sizes = graph.shape(node.inputs[0])[2:]
    whole = integers(node, "kernel_shape") == sizes and not any(integers(node, "pads"))
    if not whole or "dilations" in node.attributes:
        return None
    pool = dataclasses.replace(node, op="GlobalAveragePool", attributes={})
    return Edit(remove=(node,), insert=(pool,))


def mean_to_pool(graph: Graph, node: Node) -> Edit | None:
    """ReduceMean over all spatial axes: GlobalAveragePool, and Flatten if the axes are dropped."""
    if node.op != "ReduceMean" or node.outputs[0] not in graph.network.types:
        return None
    kind = graph.network.types[node.inputs[0]]
    rank = len(kind.shape)
    axes = _axes(graph, node)
    if axes is None or rank < 3 or sorted(axis % rank for axis in axes) != [*range(2, rank)]:
        return None
    if node.attributes.get("keepdims", 1):
        pool = dataclasses.replace(
            node, op="GlobalAveragePool", inputs=node.inputs[:1], attributes={}
        )
        return Edit(remove=(node,), insert=(pool,))
    pooled = graph.fresh_tensor(f"{node.name}_pooled")
    pool = Node(name=node.name, op="GlobalAveragePool", inputs=node.inputs[:1], outputs=(pooled,))
    flatten = Node(
        name=graph.fresh_node(f"{node.name}_flatten"),
        op="Flatten",
        inputs=(pooled,),
        outputs=node.outputs,
        attributes={"axis": 1},
    )
    shape = (*kind.shape[:2], *(1,) * (rank - 2))
    types = {pooled: dataclasses.replace(kind, shape=shape)}
    return Edit(remove=(node,), insert=(pool, flatten), types=types)


def _axes(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """The axes of a reduction: an attribute before opset 18, a constant input since."""
    if "axes" in node.attributes:
        return integers(node, "axes")
    axes = graph.constant(graph.input(node, 1))
    return None if axes is None else tuple(int(axis) for axis in axes)
