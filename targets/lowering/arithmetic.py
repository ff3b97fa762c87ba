"""In which precision a layer computes: what its weight is stored as, and its input exists as."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from millifit.errors import ModelError
from millifit.targets.kernel import KernelAttribute
from millifit.targets.lowering.tensors import Stored, Tensors
from millifit.targets.network import Array, Node
from millifit.targets.target import HALF, Precision, activation_dtype

# Past this depth the sum of 255 * 127 products may leave int32.
_MAX_INT8_DEPTH = 2**31 // (255 * 127)
_MAX_DEPTHWISE_TAPS = 2**24 // (255 * 127)
# Two products of 8-bit activations and such weights fit into 16 bits: 2 * 255 * 64 < 2^15.
_LARGEST_W7 = 64
# With more rows a dense layer is limited by arithmetic: widening its weights would only cost.
_MOST_WEIGHT_ONLY_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """A layer's precision, with the constants and attributes that its kernel needs for it.

    `constants` has ``weight`` (output channels first) and ``bias`` ``[O]``; ``weight_scale`` is
    ``[O]`` of an integer layer, ``[O, blocks]`` of weight-only ones.
    """

    precision: Precision
    constants: dict[str, Array]
    attributes: dict[str, KernelAttribute] = field(default_factory=dict)

    @property
    def half(self) -> str:
        """The 16-bit element type that the layer reads; empty where it reads another."""
        return activation_dtype(self.precision) if self.precision in HALF else ""


def arithmetic(
    state: Tensors, node: Node, op: str, weight: Array, stored: Stored | None
) -> Arithmetic:
    """The cheapest arithmetic that gives the values the network states.

    `weight` has its real values, output channels first; `stored` its integers. What the target or
    the operator has no kernel for is computed in fp32 on the same values.
    """
    source = node.inputs[0]
    if stored is not None and source in state.quantized:
        found = _integer(state, node, op, weight, stored)
        if found is not None:
            return found
    bias = bias_of(state, node, weight.shape[0])
    real: dict[str, Array] = {"weight": weight.astype(np.float32), "bias": bias}
    for precision in HALF:
        dtype = activation_dtype(precision)
        exists = source in state.half and state.half[source].dtype == dtype
        stated = exists and state.stored_half(node.inputs[1]) == dtype
        written = op != "depthwise_conv2d" or precision == "fp16"
        if stated and written and precision in state.target.precisions:
            return Arithmetic(precision=precision, constants=real)
    if stored is not None and op == "dense" and source not in state.quantized:
        rows = state.network.types[source].shape[0]
        found = _weight_only(state, stored, bias) if rows <= _MOST_WEIGHT_ONLY_ROWS else None
        if found is not None:
            return found
    return Arithmetic(precision="fp32", constants=real)


def _integer(
    state: Tensors, node: Node, op: str, weight: Array, stored: Stored
) -> Arithmetic | None:
    """Integer arithmetic, where the sums fit into 32 bits; None where they may not."""
    integers = _symmetric(stored)
    depthwise = op == "depthwise_conv2d"
    most = _MAX_DEPTHWISE_TAPS if depthwise else _MAX_INT8_DEPTH
    if integers is None or math.prod(weight.shape[1:]) > most:
        return None
    steps = np.float32(state.quantized[node.inputs[0]].scale) * stored.scale.astype(np.float32)
    bias = _integer_bias(state, node, weight.shape[0], steps)
    if _may_overflow(integers, bias):
        return None
    narrow = int(np.abs(integers.astype(np.int16)).max(initial=0)) <= _LARGEST_W7
    cheaper = narrow and not depthwise and "w7a8" in state.target.precisions
    constants: dict[str, Array] = {
        "weight": integers,
        "bias": bias.astype(np.int32),
        "weight_scale": np.broadcast_to(stored.scale.astype(np.float32), (len(integers),)),
    }
    return Arithmetic(precision="w7a8" if cheaper else "int8", constants=constants)


def _weight_only(state: Tensors, stored: Stored, bias: Array) -> Arithmetic | None:
    """Integer weights, per tensor, output channel or block of inputs, with float activations."""
    values = stored.values
    precision: Precision = "w4" if values.dtype.name == "int4" else "w8"
    if values.dtype.name not in ("int4", "int8") or precision not in state.target.precisions:
        return None
    if np.any(stored.zero_point.astype(np.int8)):
        return None
    scale = stored.scale.astype(np.float32)
    if stored.block:
        if stored.axis != 1:
            return None
        attributes: dict[str, KernelAttribute] = {"block": stored.block}
    elif scale.size > 1 and stored.axis != 0:
        return None
    else:
        scale = np.broadcast_to(scale.reshape(-1, 1), (len(values), 1))
        attributes = {}
    constants: dict[str, Array] = {"weight": values, "bias": bias, "weight_scale": scale}
    return Arithmetic(precision=precision, constants=constants, attributes=attributes)


def bias_of(state: Tensors, node: Node, channels: int) -> Array:
    """The real bias ``[O]``; zeros where the layer has none."""
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
        bias = np.rint(bias_of(state, node, channels).astype(np.float64) / steps)
    return np.asarray(np.broadcast_to(bias, (channels,)))


def _may_overflow(integers: Array, bias: npt.NDArray[np.float64]) -> bool:
    """Whether a sum of products with 0..255 and the bias may leave int32."""
    magnitudes = np.abs(integers.astype(np.int64)).reshape(len(integers), -1).sum(axis=1)
    return bool(np.any(255.0 * magnitudes + np.abs(bias) >= 2**31))


def _symmetric(stored: Stored) -> Array | None:
    """int8 weights with zero point 0, per output channel; None where they are stored otherwise."""
    if stored.block or (stored.scale.size > 1 and stored.axis != 0):
        return None
    if stored.values.dtype == np.int8 and not np.any(stored.zero_point):
        return stored.values
    if stored.values.dtype == np.uint8 and np.all(stored.zero_point == 128):
        return (stored.values.astype(np.int16) - 128).astype(np.int8)
    return None
