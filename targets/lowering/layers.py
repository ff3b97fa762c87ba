"""Lowering of layers: convolutions and dense layers, fp32 or int8."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from millifit.errors import ModelError
from millifit.targets.kernel import KernelAttribute
from millifit.targets.lowering.fusion import emit_anchor, follow
from millifit.targets.lowering.tensors import Stored, Tensors, scalars_of
from millifit.targets.network import Array, Node

# Past this depth the sum of 255 * 127 products may leave int32.
_MAX_INT8_DEPTH = 2**31 // (255 * 127)
_MAX_DEPTHWISE_TAPS = 2**24 // (255 * 127)


def is_layer(state: Tensors, node: Node) -> bool:
    """Whether a Conv, Gemm or MatMul is a layer with a rule: constant weight, map or matrix."""
    weight = state.constant(node.inputs[1])
    rank = len(state.network.types[node.inputs[0]].shape)
    if weight is None:
        return False
    if node.op == "Conv":
        return rank == weight.ndim == 4
    plain = all(node.attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return rank == weight.ndim == 2 and plain and not node.attributes.get("transA", 0)


def layer(state: Tensors, node: Node) -> None:
    """Emit a layer with what is fused behind it."""
    source = node.inputs[0]
    weight, stored = _weight(state, node)
    depthwise = False
    attributes: dict[str, KernelAttribute] = {}
    if node.op == "Conv":
        depthwise, attributes = _convolution(node, weight, state.network.types[source].shape)
    integers = None
    if stored is not None and source in state.quantized:
        integers = _symmetric(stored)
    depth = math.prod(weight.shape[1:])
    if depth > (_MAX_DEPTHWISE_TAPS if depthwise else _MAX_INT8_DEPTH):
        integers = None
    if integers is not None and stored is not None:
        steps = np.float32(state.quantized[source].scale) * stored.scale.astype(np.float32)
        integer_bias = _integer_bias(state, node, weight.shape[0], steps)
        if _may_overflow(integers, integer_bias):
            integers = None
    tail = follow(state, node, integer=integers is not None, residual=True)
    if integers is not None and stored is not None:
        value = state.last(state.quantized[source], source)
        constants = {
            "weight": integers,
            "bias": integer_bias.astype(np.int32),
            "weight_scale": np.broadcast_to(stored.scale.astype(np.float32), (len(integers),)),
            **scalars_of(input=value),
        }
        narrow = int(np.abs(integers.astype(np.int16)).max(initial=0)) <= 64
        if narrow and not depthwise and state.target.dot_product == "avx2_pmaddwd":
            attributes["weight_bits"] = 7
    else:
        value = state.last(state.real_of(source), source)
        bias = _bias(state, node, weight.shape[0])
        constants = {"weight": weight.astype(np.float32), "bias": bias}
    op = "depthwise_conv2d" if depthwise else "conv2d" if node.op == "Conv" else "dense"
    emit_anchor(
        state,
        node,
        op,
        [value],
        tail,
        precision="fp32" if integers is None else "int8",
        attributes=attributes,
        constants=constants,
    )


def _weight(state: Tensors, node: Node) -> tuple[Array, Stored | None]:
    """The weight with output channels first, real and, where the model has it, as integers."""
    weight, stored = state.constant(node.inputs[1]), state.stored(node.inputs[1])
    assert weight is not None
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB", 0)):
        weight, stored = weight.T, None if stored is None else stored.transposed
    return weight, stored


def _bias(state: Tensors, node: Node, channels: int) -> Array:
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = state.constant(node.inputs[2])
        if bias is None or bias.size not in (1, channels):
            raise ModelError(f"node '{node.name}': the bias must be a constant per channel")
        return np.broadcast_to(bias.astype(np.float32).ravel(), (channels,)).copy()
    return np.zeros(channels, np.float32)


def _integer_bias(
    state: Tensors, node: Node, channels: int, steps: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The bias ``[O]`` in `steps`, the scales of the sums; it may not fit into int32."""
    stored = state.stored(node.inputs[2]) if len(node.inputs) > 2 else None
    if stored is not None and np.allclose(stored.scale, steps, rtol=1e-5, atol=0):
        bias = stored.values.astype(np.float64)
    else:
        bias = np.rint(_bias(state, node, channels).astype(np.float64) / steps)
    return np.asarray(np.broadcast_to(bias, (channels,)))


def _may_overflow(integers: Array, bias: npt.NDArray[np.float64]) -> bool:
    """Whether a sum of products with 0..255 and the bias may leave int32."""
    magnitudes = np.abs(integers.astype(np.int64)).reshape(len(integers), -1).sum(axis=1)
    return bool(np.any(255.0 * magnitudes + np.abs(bias) >= 2**31))


def _symmetric(stored: Stored) -> Array | None:
    """int8 weights with zero point 0, per output channel; None where they are stored otherwise."""
    if stored.scale.size > 1 and stored.axis != 0:
        return None
    if stored.values.dtype == np.int8 and not np.any(stored.zero_point):
        return stored.values
    if stored.values.dtype == np.uint8 and np.all(stored.zero_point == 128):
        return (stored.values.astype(np.int16) - 128).astype(np.int8)
    return None


def _convolution(
    node: Node, weight: Array, shape: tuple[int, ...]
) -> tuple[bool, dict[str, KernelAttribute]]:
    """Whether a Conv is depthwise, and its kernel's attributes."""
    group = int(str(node.attributes.get("group", 1)))
    attributes: dict[str, KernelAttribute] = {
        "kernel": (int(weight.shape[2]), int(weight.shape[3])),
        "strides": pair_of(node, "strides", (1, 1)),
        "dilations": pair_of(node, "dilations", (1, 1)),
        "pads": pads_of(node),
    }
    depthwise = group > 1 and group == shape[1] == weight.shape[0]
    if not depthwise:
        attributes["groups"] = group
    return depthwise, attributes


def pair_of(node: Node, name: str, default: tuple[int, int]) -> tuple[int, int]:
    """An attribute of two integers."""
    given = node.attributes.get(name, default)
    assert isinstance(given, tuple)
    first, second = (int(value) for value in given)
    return first, second


def pads_of(node: Node) -> tuple[int, int, int, int]:
    """Padding: top, left, bottom, right."""
    given = node.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(given, tuple)
    top, left, bottom, right = (int(value) for value in given)
    return top, left, bottom, right
