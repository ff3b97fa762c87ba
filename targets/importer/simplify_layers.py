"""Rules that bring layers (Conv, Gemm, BatchNormalization) to one form each."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from millifit.targets.importer.rewrite import Edit, Graph
from millifit.targets.importer.simplify_windows import explicit_window, integers
from millifit.targets.network import Array, Node, TensorType

Floats = npt.NDArray[np.float64]


def explicit_conv(graph: Graph, node: Node) -> Edit | None:
    """Conv: every attribute explicit, and a bias of zeros where there is none.

    A convolution whose weight is quantized (behind DequantizeLinear) keeps its inputs.
    """
    if node.op != "Conv":
        return None
    weight = node.inputs[1]
    attributes = explicit_window(graph, node, kernel=graph.shape(weight)[2:])
    group = node.attributes.get("group", 1)
    attributes = {**attributes, "group": group}
    inputs = node.inputs
    constants: dict[str, Array] = {}
    kernel = graph.constant(weight)
    if kernel is not None and not graph.input(node, 2):
        bias = graph.fresh_tensor(f"{node.name}_bias")
        constants[bias] = np.zeros(kernel.shape[0], dtype=kernel.dtype)
        inputs = (*node.inputs[:2], bias)
    if attributes == node.attributes and inputs == node.inputs:
        return None
    explicit = dataclasses.replace(node, inputs=inputs, attributes=attributes)
    return Edit(remove=(node,), insert=(explicit,), constants=constants)


def merge_pad(graph: Graph, node: Node) -> Edit | None:
    """A Pad with zeros that only a Conv reads becomes the Conv's own padding."""
    pad = graph.sole_maker(node.inputs[0]) if node.op == "Conv" else None
    if pad is None or pad.op != "Pad" or "pads" not in node.attributes:
        return None
    amounts = _spatial_padding(graph, pad)
    if amounts is None:
        return None
    pads = tuple(own + more for own, more in zip(integers(node, "pads"), amounts, strict=True))
    merged = dataclasses.replace(
        node,
        inputs=(pad.inputs[0], *node.inputs[1:]),
        attributes={**node.attributes, "pads": pads},
    )
    return Edit(remove=(pad, node), insert=(merged,))


def _spatial_padding(graph: Graph, pad: Node) -> tuple[int, ...] | None:
    """``(top, left, bottom, right)`` of zeros, or None for any other padding."""
    if pad.attributes.get("mode", "constant") != "constant":
        return None
    rank = len(graph.shape(pad.inputs[0]))
    amounts = graph.constant(pad.inputs[1])
    fill = graph.constant(pad.inputs[2]) if graph.input(pad, 2) else np.zeros(())
    chosen = graph.constant(pad.inputs[3]) if graph.input(pad, 3) else np.arange(rank)
    if amounts is None or fill is None or chosen is None or fill.item() != 0:
        return None
    before, after = [0] * rank, [0] * rank
    for position, axis in enumerate(chosen.tolist()):
        before[axis] = int(amounts[position])
        after[axis] = int(amounts[position + len(chosen)])
    if any(before[:2] + after[:2]) or min(before + after) < 0:
        return None
    return (*before[2:], *after[2:])


def fold_batch_norm(graph: Graph, node: Node) -> Edit | None:
    """BatchNormalization behind a Conv or Gemm with constant weights becomes part of it."""
    layer = graph.sole_maker(node.inputs[0]) if node.op == "BatchNormalization" else None
    if layer is None or layer.op not in ("Conv", "Gemm"):
        return None
    norm = _scale_and_shift(graph, node)
    weight, bias = graph.constant(layer.inputs[1]), _bias(graph, layer)
    if norm is None or weight is None or bias is None:
        return None
    scale, shift = norm
    # Both have the output channel first: [O, I, KH, KW] and [O, I].
    scaled = weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return _with_weights(graph, layer, scaled, bias * scale + shift, absorbed=node)


def batch_norm_alone(graph: Graph, node: Node) -> Edit | None:
    """BatchNormalization behind anything else becomes Mul and Add."""
    norm = _scale_and_shift(graph, node) if node.op == "BatchNormalization" else None
    if norm is None:
        return None
    x, y = node.inputs[0], node.outputs[0]
    kind = graph.network.types[x]
    per_channel = (-1, *[1] * (len(kind.shape) - 2))
    scale, shift = (
        graph.fresh_tensor(f"{node.name}_scale"),
        graph.fresh_tensor(f"{node.name}_shift"),
    )
    scaled = graph.fresh_tensor(f"{node.name}_scaled")
    mul, add = graph.fresh_node(f"{node.name}_mul"), graph.fresh_node(f"{node.name}_add")
    return Edit(
        remove=(node,),
        insert=(
            Node(name=mul, op="Mul", inputs=(x, scale), outputs=(scaled,)),
            Node(name=add, op="Add", inputs=(scaled, shift), outputs=(y,)),
        ),
        constants={
            scale: norm[0].reshape(per_channel).astype(kind.dtype),
            shift: norm[1].reshape(per_channel).astype(kind.dtype),
        },
        types={scaled: kind},
    )


def _scale_and_shift(graph: Graph, node: Node) -> tuple[Floats, Floats] | None:
    """What a BatchNormalization computes per channel in float64: ``y = scale * x + shift``."""
    read = [graph.constant(name) for name in node.inputs[1:5]]
    if node.attributes.get("training_mode", 0) or len(node.outputs) > 1:
        return None
    if any(value is None for value in read):
        return None
    gamma, beta, mean, variance = (np.asarray(value, dtype=np.float64) for value in read)
    epsilon = np.float64(np.float32(node.attributes.get("epsilon", 1e-5)))  # type: ignore[arg-type]
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def fold_bias(graph: Graph, node: Node) -> Edit | None:
    """Add of a constant per output channel behind a Conv or Gemm becomes part of its bias."""
    if node.op != "Add":
        return None
    for side in (0, 1):
        layer = graph.sole_maker(node.inputs[side])
        added = graph.constant(node.inputs[1 - side])
        if layer is None or added is None or layer.op not in ("Conv", "Gemm"):
            continue
        weight, bias = graph.constant(layer.inputs[1]), _bias(graph, layer)
        row = _per_channel(added, graph.shape(layer.outputs[0]))
        same = graph.shape(layer.outputs[0]) == graph.shape(node.outputs[0])
        if weight is not None and bias is not None and row is not None and same:
            return _with_weights(graph, layer, weight, bias + row, absorbed=node)
    return None


def _per_channel(added: Array, shape: tuple[int, ...]) -> Floats | None:
    """``[C]`` where `added` is one value, or one per channel of a ``(N, C, ...)`` tensor."""
    aligned = (1,) * (len(shape) - added.ndim) + added.shape
    if any(size != 1 for axis, size in enumerate(aligned) if axis != 1):
        return None
    return np.broadcast_to(added.reshape(-1).astype(np.float64), (shape[1],))


def _bias(graph: Graph, layer: Node) -> Floats | None:
    """The bias; None where it is not a constant vector or the layer is not in form yet."""
    bias = graph.constant(graph.input(layer, 2))
    if bias is None or bias.ndim != 1:
        return None
    if layer.op == "Gemm" and not _in_form(graph, layer):
        return None
    return bias.astype(np.float64)


def _with_weights(graph: Graph, layer: Node, weight: Array, bias: Array, *, absorbed: Node) -> Edit:
    """`layer` with other weights, writing what the node behind it wrote."""
    stored = graph.network.types[layer.inputs[1]].dtype
    weight_name = graph.fresh_tensor(f"{layer.name}_weight")
    bias_name = graph.fresh_tensor(f"{layer.name}_bias")
    merged = dataclasses.replace(
        layer, inputs=(layer.inputs[0], weight_name, bias_name), outputs=absorbed.outputs[:1]
    )
    return Edit(
        remove=(layer, absorbed),
        insert=(merged,),
        constants={weight_name: weight.astype(stored), bias_name: bias.astype(stored)},
    )


def matmul_to_gemm(graph: Graph, node: Node) -> Edit | None:
    """MatMul of a matrix ``[M, K]`` with a constant ``[K, N]`` becomes Gemm."""
    weight = graph.constant(node.inputs[1]) if node.op == "MatMul" else None
    if weight is None or weight.ndim != 2 or len(graph.shape(node.inputs[0])) != 2:
        return None
    return Edit(remove=(node,), insert=(dataclasses.replace(node, op="Gemm", attributes={}),))


_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def _in_form(graph: Graph, node: Node) -> bool:
    weight, bias = graph.constant(node.inputs[1]), graph.constant(graph.input(node, 2))
    if weight is None or bias is None or dict(node.attributes) != _GEMM:
        return False
    return bias.shape == weight.shape[:1]


def _factor(node: Node, name: str) -> float:
    value = node.attributes.get(name, 1.0)
    assert isinstance(value, float)
    return value


def gemm_summand(graph: Graph, node: Node) -> Edit | None:
    """Gemm that adds anything but a row of constants: the sum gets a node of its own."""
    summand = graph.input(node, 2) if node.op == "Gemm" else ""
    if not summand or graph.constant(node.inputs[1]) is None:
        return None
    value = graph.constant(summand)
    output = graph.network.types[node.outputs[0]]
    if value is not None and _per_channel(value, output.shape) is not None:
        return None
    product = graph.fresh_tensor(f"{node.name}_product")
    gemm = dataclasses.replace(node, inputs=node.inputs[:2], outputs=(product,))
    nodes, constants, types = [gemm], {}, {product: output}
    beta = _factor(node, "beta")
    if beta != 1:
        factor = graph.fresh_tensor(f"{node.name}_beta")
        scaled = graph.fresh_tensor(f"{node.name}_scaled")
        constants[factor] = np.array(beta, dtype=output.dtype)
        types[scaled] = graph.network.types[summand]
        name = graph.fresh_node(f"{node.name}_mul")
        nodes.append(Node(name=name, op="Mul", inputs=(summand, factor), outputs=(scaled,)))
        summand = scaled
    name = graph.fresh_node(f"{node.name}_add")
    nodes.append(Node(name=name, op="Add", inputs=(product, summand), outputs=node.outputs))
    return Edit(remove=(node,), insert=tuple(nodes), constants=constants, types=types)


def gemm_input(graph: Graph, node: Node) -> Edit | None:
    """Gemm that transposes its activations: the transposition gets a node of its own."""
    if node.op != "Gemm" or not node.attributes.get("transA", 0):
        return None
    kind = graph.network.types[node.inputs[0]]
    turned = graph.fresh_tensor(f"{node.name}_input")
    transpose = Node(
        name=graph.fresh_node(f"{node.name}_transpose"),
        op="Transpose",
        inputs=node.inputs[:1],
        outputs=(turned,),
        attributes={"perm": (1, 0)},
    )
    gemm = dataclasses.replace(
        node,
        inputs=(turned, *node.inputs[1:]),
        attributes={**node.attributes, "transA": 0},
    )
    types = {turned: TensorType(shape=kind.shape[::-1], dtype=kind.dtype)}
    return Edit(remove=(node,), insert=(transpose, gemm), types=types)


def explicit_gemm(graph: Graph, node: Node) -> Edit | None:
    """Gemm with constant weight: ``y = x W^T + b``, W ``[O, I]``, b ``[O]``, and no factors."""
    weight = graph.constant(node.inputs[1]) if node.op == "Gemm" else None
    if weight is None or _in_form(graph, node):
        return None
    if not node.attributes.get("transB", 0):
        weight = weight.T
    bias = graph.constant(graph.input(node, 2))
    row: Floats | None = np.zeros(len(weight))
    if bias is not None:
        row = _per_channel(bias, graph.shape(node.outputs[0]))
    assert row is not None, "gemm_summand leaves rows only"
    names = [graph.fresh_tensor(f"{node.name}_{role}") for role in ("weight", "bias")]
    scaled = weight.astype(np.float64) * _factor(node, "alpha")
    constants: dict[str, Array] = {
        names[0]: np.ascontiguousarray(scaled).astype(weight.dtype),
        names[1]: (row * _factor(node, "beta")).astype(weight.dtype),
    }
    explicit = dataclasses.replace(node, inputs=(node.inputs[0], *names), attributes=dict(_GEMM))
    return Edit(remove=(node,), insert=(explicit,), constants=constants)
