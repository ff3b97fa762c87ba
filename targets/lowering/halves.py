"""Lowering of values that exist in 16 bits: what a Cast to fp16 or bf16 and one back mean.

``Cast(half) -> Cast(float32)`` rounds a tensor, as QuantizeLinear and DequantizeLinear do: the
tensor between the two is what is kept in memory. Whoever needs real values asks for them.
"""

from __future__ import annotations

from dataclasses import replace

from millifit.targets.kernel import Kernel
from millifit.targets.lowering.tensors import Tensors
from millifit.targets.network import Node


def is_rounding(state: Tensors, node: Node) -> bool:
    """Whether a Cast is one of a pair that rounds, or restores a constant of 16 bits."""
    return bool(state.stored_half(node.outputs[0])) or state.rounds(node) or _restores(state, node)


def _restores(state: Tensors, node: Node) -> bool:
    real = state.network.types[node.outputs[0]].dtype == "float32"
    return real and node.inputs[0] in state.half


def rounding(state: Tensors, node: Node) -> None:
    """Emit a rounding that was fused into nothing; the way back runs nothing."""
    source, made = node.inputs[0], node.outputs[0]
    if source in state.network.constants:
        return  # read by the layer it belongs to
    if _restores(state, node):
        state.half[made] = state.half[source]
        return
    dtype = state.network.types[made].dtype
    known = state.half.get(source)
    if known is not None and known.dtype == dtype:
        state.half[made] = known
        return
    value = state.last(state.real_of(source), source)
    state.half[made] = replace(value, tensor=made, dtype=dtype)
    kernel = Kernel(op="cast", inputs=(value.type,), output=state.half[made].type, precision="fp32")
    state.emit(kernel, [value], made, {}, (node.name,))
