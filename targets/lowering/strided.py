"""Tensors seen as elements of another that lie elsewhere: nothing moves until somebody must read.

A transposition, a slice or a reshape behind one only changes where an element is read. Products and
attention read with any strides; for all other readers the elements are copied into order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from millifit.targets.kernel import Kernel
from millifit.targets.lowering.tensors import Tensors, Value
from millifit.targets.network import Node

Seen = npt.NDArray[np.int8]
VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strided:
    """``base[offset + i * strides[0] + j * strides[1] + ...]``, in elements, times `factor`."""

    base: Value
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    factor: float = 1.0

    @property
    def in_order(self) -> bool:
        """Whether this is all of the base's memory as it lies."""
        size = math.prod(self.shape)
        expected = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        steps = zip(self.shape, self.strides, expected, strict=True)
        ordered = all(extent == 1 or stride == step for extent, stride, step in steps)
        whole = self.offset == 0 and size == math.prod(self.base.shape)
        return whole and ordered and self.factor == 1.0

    def through(self, function: Callable[[Seen], Seen]) -> Strided | None:
        """What NumPy makes of it without a copy; None where there must be one.

        ``strided.through(lambda x: x.transpose(0, 2, 1))``
        """
        memory = np.empty(math.prod(self.base.shape), np.int8)  # one byte for each element
        try:
            made = function(as_strided(memory[self.offset :], self.shape, self.strides))
        except ValueError:
            return None
        offset = made.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
        return replace(self, shape=made.shape, strides=made.strides, offset=offset)


def strided_of(state: Tensors, tensor: str) -> Strided:
    """A tensor in ONNX's order of axes, wherever its elements are."""
    if tensor in state.strided:
        return state.strided[tensor]
    value = state.real_of(tensor)
    steps = [math.prod(value.shape[axis + 1 :]) for axis in range(len(value.shape))]
    seen = Strided(base=value, shape=value.shape, strides=tuple(steps), offset=0)
    if value.last and len(value.shape) == 4:
        seen = seen.through(lambda x: x.transpose(0, 3, 1, 2)) or seen
    return seen


def moves(state: Tensors, node: Node) -> bool:
    """Whether a node only says where elements are read, and is to be treated as such."""
    source = node.inputs[0]
    rank = len(state.network.types[source].shape)
    if state.constant(source) is not None:
        return False
    match node.op:
        case op if op in VIEWS:
            return source in state.strided or _leads_to_transposition(state, node)
        case "Transpose":
            return True
        case "Gather" | "Slice":
            plain = rank != 4 or source in state.strided
            return plain and all(
                state.constant(name) is not None for name in node.inputs[1:] if name
            )
        case "Split":
            return rank != 4 or source in state.strided
    return False


def _leads_to_transposition(state: Tensors, node: Node) -> bool:
    """Whether a Reshape of a channels-last map is transposed next: often back to its memory."""
    value = state.real.get(node.inputs[0])
    reader = state.only_reader(node.outputs[0])
    return (
        value is not None and value.last and len(value.shape) == 4
        and reader is not None and reader.op == "Transpose"
    )  # fmt: skip


def move(state: Tensors, node: Node) -> bool:
    """See the outputs of a node as elements of its input; False where they have to be copied."""
    seen = strided_of(state, node.inputs[0])
    for place, made in enumerate(node.outputs):
        if not made:
            continue
        shape = state.network.types[made].shape
        moved = _moved(state, node, seen, shape, place)
        if moved is None or moved.shape != shape:
            return False
        put(state, made, moved)
    return True


def put(state: Tensors, tensor: str, seen: Strided) -> None:
    """Record where a tensor's elements are."""
    if seen.in_order:
        state.real[tensor] = replace(seen.base, shape=seen.shape, last=False)
        return
    state.strided[tensor] = seen
    state.deferred[tensor] = lambda: _copy(state, tensor, seen)


def _copy(state: Tensors, tensor: str, seen: Strided) -> None:
    """Bring the elements into order."""
    assert seen.factor == 1.0, "whoever scales a view defers its own computation"
    made = Value(tensor=tensor, shape=seen.shape, dtype=seen.base.dtype, last=False)
    kernel = Kernel(
        op="strided", inputs=(seen.base.type,), output=made.type, precision="fp32",
        attributes=(("offset", seen.offset), ("strides", seen.strides)),
    )  # fmt: skip
    state.emit(kernel, [seen.base], tensor, {}, (tensor,))
    state.real[tensor] = made


def _moved(
    state: Tensors, node: Node, seen: Strided, shape: tuple[int, ...], place: int
) -> Strided | None:
    match node.op:
        case op if op in VIEWS:
            return seen.through(lambda x: np.reshape(x, shape, copy=False))
        case "Transpose":
            backwards = tuple(reversed(range(len(seen.shape))))
            order = node.attributes.get("perm", backwards)
            assert isinstance(order, tuple)
            axes = [int(axis) for axis in order]
            return seen.through(lambda x: x.transpose(axes))
        case "Gather":
            return _gathered(state, node, seen)
        case "Slice":
            return _sliced(state, node, seen)
        case "Split":
            axis = int(str(node.attributes.get("axis", 0))) % len(shape)
            extents = [state.network.types[name].shape[axis] for name in node.outputs]
            start = sum(extents[:place])
            return seen.through(lambda x: x[_along(axis, slice(start, start + extents[place]))])
    return None


def _along(axis: int, chosen: slice | int) -> tuple[slice | int, ...]:
    return (*[slice(None)] * axis, chosen)


def _gathered(state: Tensors, node: Node, seen: Strided) -> Strided | None:
    """One index, or some at equal steps."""
    ids = state.constant(node.inputs[1])
    axis = int(str(node.attributes.get("axis", 0))) % len(seen.shape)
    assert ids is not None
    extent = seen.shape[axis]
    picked = [int(i) + (extent if i < 0 else 0) for i in ids.ravel().tolist()]
    steps = {b - a for a, b in pairwise(picked)}
    if ids.ndim > 1 or not picked or len(steps) > 1 or min(picked) < 0 or max(picked) >= extent:
        return None
    step = next(iter(steps), 1)
    if step <= 0:
        return None
    chosen = slice(picked[0], picked[-1] + 1, step) if ids.ndim else picked[0]
    return seen.through(lambda x: x[_along(axis, chosen)])


def _sliced(state: Tensors, node: Node, seen: Strided) -> Strided | None:
    given = [state.constant(name) if name else None for name in node.inputs[1:]]
    given += [None] * (4 - len(given))
    starts, ends, axes, steps = given
    assert starts is not None
    assert ends is not None
    along: Sequence[int] = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    chosen = [slice(None)] * len(seen.shape)
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), along, by, strict=True):
        if step < 0:
            return None
        chosen[axis] = slice(start, end, step)
    return seen.through(lambda x: x[tuple(chosen)])
