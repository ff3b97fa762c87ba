"""Bring a network to the one form that lowering and compression look for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from millifit.errors import ModelError
from millifit.targets.importer.fold import fold_constants
from millifit.targets.importer.infer import infer_types
from millifit.targets.importer.rewrite import Edit, Graph, rewrite
from millifit.targets.importer.simplify_composites import gelu, layer_norm
from millifit.targets.importer.simplify_layers import (
    batch_norm_alone,
    explicit_conv,
    explicit_gemm,
    fold_batch_norm,
    fold_bias,
    gemm_input,
    gemm_summand,
    matmul_to_gemm,
    merge_pad,
)
from millifit.targets.importer.simplify_sequence import (
    constant_beside,
    constant_sums,
    rows_through,
    same_view,
    sequence_matmul,
    view_of_view,
)
from millifit.targets.importer.simplify_windows import (
    explicit_pool,
    mean_to_pool,
    pool_of_everything,
)
from millifit.targets.network import AttributeValue, Network, Node

_NO_EFFECT_IF_SAME_TYPE = (
    *("Identity", "Cast", "Expand"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
)


def simplify(network: Network) -> Network:
    """An equal network in normal form; simplifying it again changes nothing.

    - what is constant is a constant; no Identity, Dropout, or other node without effect
    - Conv has kernel_shape, strides, dilations, pads and group, and a bias ``[O]``; pools have
      kernel_shape, strides, pads and ceil_mode, MaxPool dilations, AveragePool count_include_pad
    - Gemm is ``y = x W^T + b`` (transB=1, no factors) with W ``[O, I]`` and b ``[O]``; so is MatMul
      of a matrix with a constant one; a layer on the rows of a tensor of higher rank reads them as
      a matrix, which everything that treats rows alike does, too
    - LayerNormalization and Gelu that are spelled out are one node; Reshapes of one tensor that are
      equal, or follow each other, are one
    - zero padding and constants added before and after a layer, and BatchNormalization, are part of
      it; a BatchNormalization that follows no layer is Mul and Add
    - Clip has its bounds as float attributes "min" and "max" (absent: none); Max and Min with a
      constant number are Clip, and Clip from 0 without an upper bound is Relu
    - means over all spatial axes are GlobalAveragePool; what joins all axes but the first is
      Flatten with axis=1

    Weights behind DequantizeLinear are left as they are, with the layers that read them except for
    explicit attributes.
    """
    merging = (
        *(drop_no_effect, layer_norm, gelu, constant_sums, constant_beside),
        *(view_of_view, same_view, sequence_matmul, rows_through),
        *(explicit_conv, merge_pad, matmul_to_gemm),
        *(gemm_summand, gemm_input, explicit_gemm, fold_bias, fold_batch_norm),
    )
    # After merging: a BatchNormalization that is still there belongs to no layer.
    shaping = (
        *(batch_norm_alone, clip_bounds, bound_to_clip, clip_to_relu, explicit_pool),
        *(pool_of_everything, mean_to_pool, flatten),
    )
    before = None
    simple = network
    while simple is not before:
        before = simple
        simple = rewrite(fold_constants(simple), merging)
        simple = rewrite(simple, shaping)
    simple = infer_types(_without_unused(simple))
    for name in network.outputs:
        if simple.types[name] != network.types[name]:
            raise ModelError(
                f"network '{network.name}': output '{name}' has {network.types[name]}, its "
                f"operators give {simple.types[name]}. Export the model again."
            )
    return simple


def drop_no_effect(graph: Graph, node: Node) -> Edit | None:
    """A node that hands its input on unchanged goes, its readers read the input."""
    if not node.inputs or not _has_no_effect(graph, node):
        return None
    x, y = node.inputs[0], node.outputs[0]
    if y in graph.network.outputs and (x not in graph.producers or x in graph.network.outputs):
        return None  # an output needs a node that makes it
    return Edit(remove=(node,), alias=(y, x))


def _has_no_effect(graph: Graph, node: Node) -> bool:
    if node.op in _NO_EFFECT_IF_SAME_TYPE:
        return graph.network.types[node.inputs[0]] == graph.network.types[node.outputs[0]]
    if node.op == "Dropout":
        training = graph.constant(graph.input(node, 2))
        off = not graph.input(node, 2) or (training is not None and not training.any())
        return off and not any(graph.readers(mask) for mask in node.outputs[1:])
    if node.op == "Pad":
        amounts = graph.constant(node.inputs[1])
        return amounts is not None and not amounts.any()
    return node.op == "Clip" and len(node.inputs) == 1 and not node.attributes


def clip_bounds(graph: Graph, node: Node) -> Edit | None:
    """Clip of floats with constant bounds: they become attributes, infinite ones go."""
    if node.op != "Clip" or len(node.inputs) == 1:
        return None
    if not graph.network.types[node.inputs[0]].dtype.startswith("float"):
        return None
    attributes: dict[str, AttributeValue] = {}
    for position, side in ((1, "min"), (2, "max")):
        name = graph.input(node, position)
        if not name:
            continue
        bound = graph.constant(name)
        if bound is None:
            return None
        if np.isfinite(bound).all():
            attributes[side] = float(bound.item())
    clip = dataclasses.replace(node, inputs=node.inputs[:1], attributes=attributes)
    return Edit(remove=(node,), insert=(clip,))


def bound_to_clip(graph: Graph, node: Node) -> Edit | None:
    """Max or Min of floats with one constant number becomes Clip, of 0 from below Relu."""
    if node.op not in ("Max", "Min") or len(node.inputs) != 2:
        return None
    bounds = [graph.constant(name) for name in node.inputs]
    for bound, x in zip(bounds, reversed(node.inputs), strict=True):
        types = graph.network.types
        if bound is None or bound.size != 1 or types[x] != types[node.outputs[0]]:
            continue
        if not types[x].dtype.startswith("float") or x in graph.network.constants:
            continue
        attributes = {"min" if node.op == "Max" else "max": float(bound.item())}
        clip = dataclasses.replace(node, op="Clip", inputs=(x,), attributes=attributes)
        return Edit(remove=(node,), insert=(clip,))
    return None


def clip_to_relu(graph: Graph, node: Node) -> Edit | None:  # noqa: ARG001 - a rule
    """Clip from 0, without an upper bound, becomes Relu."""
    if node.op != "Clip" or len(node.inputs) > 1 or dict(node.attributes) != {"min": 0.0}:
        return None
    relu = dataclasses.replace(node, op="Relu", attributes={})
    return Edit(remove=(node,), insert=(relu,))


def flatten(graph: Graph, node: Node) -> Edit | None:
    """Reshape, Squeeze or Flatten of ``(N, C, H, W)`` to ``(N, C*H*W)``: Flatten with axis=1."""
    if node.op not in ("Reshape", "Squeeze", "Flatten"):
        return None
    shape, result = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    attributes: dict[str, AttributeValue] = {"axis": 1}
    done = node.op == "Flatten" and node.attributes == attributes
    if done or len(shape) < 2 or result != (shape[0], math.prod(shape[1:])):
        return None
    plain = dataclasses.replace(node, op="Flatten", inputs=node.inputs[:1], attributes=attributes)
    return Edit(remove=(node,), insert=(plain,))


def _without_unused(network: Network) -> Network:
    """Only what the outputs depend on."""
    needed = set(network.outputs)
    kept: list[Node] = []
    for node in reversed(network.nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return network.replace(
        nodes=tuple(reversed(kept)),
        constants={name: value for name, value in network.constants.items() if name in needed},
        types={n: t for n, t in network.types.items() if n in needed or n in network.inputs},
    )
