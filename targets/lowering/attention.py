"""Products of activations, and attention: ``softmax(scale * Q K^T + mask) V`` as one kernel.

A product whose result is only scaled, masked and normalized is not computed until it is known
whether a second product follows. If one does, all of it is one kernel; if not, or where somebody
else reads what is in between, every node becomes a kernel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.lowering.fusion import other_input
from millifit.targets.lowering.strided import VIEWS, Strided, put, strided_of
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node

_SCALED_BY = ("Div", "Mul")
_READERS = ("Add", "Div", "Mul", "Softmax")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """``scale * left @ right + mask``, perhaps normalized by Softmax, that nobody computed yet.

    `left` is ``[batch, rows, depth]`` and `right` ``[batch, depth, columns]``.
    """

    left: Strided
    right: Strided
    scale: float
    mask: Strided | None = None
    normalized: bool = False


def is_product(state: Tensors, node: Node) -> bool:
    """Whether a node is a product of two activations, matrix by matrix."""
    if node.op != "MatMul" or any(state.constant(name) is not None for name in node.inputs):
        return False
    types = state.network.types
    shapes = [types[name].shape for name in node.inputs]
    real = all(types[name].dtype == "float32" for name in node.inputs)
    return real and min(map(len, shapes)) >= 2 and shapes[0][:-2] == shapes[1][:-2]


def continues(state: Tensors, node: Node) -> bool:
    """Whether a node scales, masks or normalizes scores that were not computed yet."""
    if node.op not in _READERS:
        return False
    found = [name for name in node.inputs if name in state.scores]
    if len(found) != 1 or state.scores[found[0]].normalized:
        return False
    scores, shape = state.scores[found[0]], state.network.types[node.outputs[0]].shape
    if state.network.types[found[0]].shape != shape:
        return False
    if node.op == "Softmax":
        return int(str(node.attributes.get("axis", -1))) % len(shape) == len(shape) - 1
    value = state.constant(other_input(node, found[0]))
    if node.op in _SCALED_BY:
        first = node.inputs[0] == found[0] or node.op == "Mul"
        scalar = value is not None and value.size == 1 and scores.mask is None
        return first and scalar and value is not None and bool(value.item())
    other = other_input(node, found[0])
    return scores.mask is None and value is None and _mask(state, other, shape) is not None


def _mask(state: Tensors, tensor: str, shape: tuple[int, ...]) -> Strided | None:
    """A tensor broadcast to the scores' shape, as ``[batch, rows, columns]``."""
    if state.network.types[tensor].dtype != "float32" or tensor in state.scores:
        return None
    seen = strided_of(state, tensor).through(lambda x: np.broadcast_to(x, shape))
    seen = None if seen is None else _matrices(seen)
    neighbours = seen is not None and (seen.strides[-1] == 1 or seen.shape[-1] == 1)
    return seen if neighbours and seen is not None and seen.factor == 1.0 else None


def scales_view(state: Tensors, node: Node) -> bool:
    """Whether a node multiplies a transposed tensor by a number, as some exports scale Q and K."""
    seen = [name for name in node.inputs if name in state.strided]
    if node.op not in _SCALED_BY or len(seen) != 1:
        return False
    value = state.constant(other_input(node, seen[0]))
    first = node.inputs[0] == seen[0] or node.op == "Mul"
    return first and value is not None and value.size == 1 and bool(value.item())


def scale_view(state: Tensors, node: Node, plain: Callable[[], None]) -> None:
    """Remember the factor; `plain` computes the product for whoever needs it."""
    source = next(name for name in node.inputs if name in state.strided)
    seen = state.strided[source]
    factor = seen.factor * _factor(state, node, source)
    state.strided[node.outputs[0]] = replace(seen, factor=factor)
    state.defer(node.outputs[0], plain)


def _factor(state: Tensors, node: Node, source: str) -> float:
    value = state.constant(other_input(node, source))
    assert value is not None
    number = float(value.item())
    return 1.0 / number if node.op == "Div" else number


def product(state: Tensors, node: Node) -> None:
    """A product of activations; put off where attention may come out of it."""
    made = node.outputs[0]
    if node.inputs[0] in state.scores and _attention(state, node):
        return
    left, right = (_matrices(strided_of(state, name)) for name in node.inputs)
    if left is None or right is None:
        left, right = (_matrices(strided_of(state, _ordered(state, n))) for n in node.inputs)
    assert left is not None
    assert right is not None
    scale = left.factor * right.factor
    scores = Scores(left=left, right=right, scale=scale)
    reader = state.only_reader(made)
    if reader is not None and reader.op in _READERS:
        state.scores[made] = scores
        state.defer(made, lambda: _matmul(state, node, scores))
    else:
        _matmul(state, node, scores)


def _ordered(state: Tensors, tensor: str) -> str:
    """The tensor, its elements copied into order."""
    state.real_of(tensor)
    state.strided.pop(tensor, None)
    return tensor


def _matrices(seen: Strided) -> Strided | None:
    """Seen as ``[batch, rows, columns]``; None where the leading axes do not join."""
    *leading, rows, columns = seen.shape
    shape = (math.prod(leading), rows, columns)
    return seen.through(lambda x: np.reshape(x, shape, copy=False))


def _matmul(state: Tensors, node: Node, scores: Scores) -> None:
    """The kernel of one product."""
    batch, rows, depth = scores.left.shape
    columns = scores.right.shape[-1]
    attributes: dict[str, KernelAttribute] = {
        "batch": batch, "rows": rows, "depth": depth, "columns": columns,
        "left": (scores.left.offset, *scores.left.strides),
        "right": (scores.right.offset, *scores.right.strides),
    }  # fmt: skip
    tensor = node.outputs[0]
    made = Value(
        tensor=tensor, shape=state.network.types[tensor].shape, dtype="float32", last=False
    )
    inputs = [scores.left.base, scores.right.base]
    kernel = Kernel(
        op="matmul", inputs=tuple(v.type for v in inputs), output=made.type, precision="fp32",
        attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip
    scale: dict[str, Array] = {"scale": np.asarray(np.float32(scores.scale))}
    state.emit(kernel, inputs, tensor, scale, (node.name,))
    state.real[tensor] = made


def carry_on(state: Tensors, node: Node, plain: Callable[[], None]) -> None:
    """Scale, mask or normalize scores; `plain` computes them for whoever needs them as such."""
    source = next(name for name in node.inputs if name in state.scores)
    scores, made = state.scores[source], node.outputs[0]
    match node.op:
        case "Softmax":
            scores = replace(scores, normalized=True)
        case "Add":
            shape = state.network.types[made].shape
            scores = replace(scores, mask=_mask(state, other_input(node, source), shape))
        case _:
            scores = replace(scores, scale=scores.scale * _factor(state, node, source))
    reader = state.only_reader(made)
    follows = ("MatMul",) if scores.normalized else _READERS
    if reader is None or reader.op not in follows:
        plain()
        return
    state.scores[made] = scores
    state.defer(made, plain)


def _attention(state: Tensors, node: Node) -> bool:
    """The kernel of all that leads to the second product; False where it does not fit."""
    scores = state.scores[node.inputs[0]]
    value = _matrices(strided_of(state, node.inputs[1]))
    if not scores.normalized or value is None or value.strides[-1] != 1 or value.factor != 1.0:
        return False
    heads, queries, depth = scores.left.shape
    keys, width = value.shape[1:]
    turned = replace(
        scores.right,
        shape=(heads, keys, depth),
        strides=tuple(scores.right.strides[axis] for axis in (0, 2, 1)),
    )
    reader = state.only_reader(node.outputs[0])
    between = reader is not None and reader.op == "Transpose"
    strides = (width, heads * width) if between else (queries * width, width)
    attributes: dict[str, KernelAttribute] = {
        "heads": heads, "queries": queries, "keys": keys, "depth": depth, "width": width,
        "output": (0, *strides, 1),
    }  # fmt: skip
    operands = [("query", scores.left), ("key", turned), ("value", value)]
    for name, seen in operands:
        attributes[name] = (seen.offset, *seen.strides)
    inputs = [seen.base for _, seen in operands]
    if scores.mask is not None:
        attributes["mask"] = scores.mask.strides
        inputs.append(scores.mask.base)
        if scores.mask.offset:
            return False
    scale: dict[str, Array] = {"scale": np.asarray(np.float32(scores.scale))}
    base = Value(
        tensor=node.outputs[0], dtype="float32", last=False,
        shape=(queries, heads * width) if between else (heads * queries, width),
    )  # fmt: skip
    _emit(state, node, base, inputs, attributes, scale, strides)
    return True


def _emit(
    state: Tensors,
    node: Node,
    base: Value,
    inputs: list[Value],
    attributes: dict[str, KernelAttribute],
    constants: dict[str, Array],
    strides: tuple[int, int],
) -> None:
    """Emit attention, and the quantization behind what only changes its shape."""
    shape = state.network.types[node.outputs[0]].shape
    heads, width = int(str(attributes["heads"])), int(str(attributes["width"]))
    queries = int(str(attributes["queries"]))
    written = Strided(
        base=base, shape=(heads, queries, width), strides=(*strides, 1), offset=0
    ).through(lambda x: np.reshape(x, shape, copy=False))
    assert written is not None
    quantizer, passed = _quantizer(state, node.outputs[0], written)
    if quantizer is not None:
        scale, zero_point = state.quantization(quantizer)
        base = replace(
            base, tensor=quantizer.outputs[0], dtype="uint8", scale=scale, zero_point=zero_point
        )
        constants |= scalars_of(output=base)
    kernel = Kernel(
        op="attention", inputs=tuple(v.type for v in inputs), output=base.type, precision="fp32",
        attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip
    names = (node.name, *(n.name for n in passed))
    state.emit(kernel, inputs, base.tensor, constants, names)
    if quantizer is None:
        put(state, node.outputs[0], written)
        return
    state.done.update(names)
    shape = state.network.types[quantizer.outputs[0]].shape
    state.quantized[quantizer.outputs[0]] = replace(base, shape=shape)


def _quantizer(state: Tensors, tensor: str, seen: Strided) -> tuple[Node | None, list[Node]]:
    """The QuantizeLinear that alone reads a tensor, as it lies in memory, behind its views."""
    passed: list[Node] = []
    while (reader := state.only_reader(tensor)) is not None:
        passed.append(reader)
        tensor = reader.outputs[0]
        if reader.op == "QuantizeLinear":
            return (reader, passed) if seen.in_order else (None, [])
        shape = state.network.types[tensor].shape
        moved = None
        if reader.op == "Transpose" and isinstance(order := reader.attributes.get("perm"), tuple):
            axes = [int(axis) for axis in order]
            moved = seen.through(lambda x, axes=axes: x.transpose(axes))  # type: ignore[misc]
        elif reader.op in VIEWS:
            moved = seen.through(lambda x, shape=shape: np.reshape(x, shape, copy=False))  # type: ignore[misc]
        if moved is None:
            break
        seen = moved
    return None, []
