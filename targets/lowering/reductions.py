"""Lowering of reductions and of places of extremes."""

from __future__ import annotations

from millifit.targets.kernel import Kernel
from millifit.targets.lowering.operators import generic
from millifit.targets.lowering.tensors import Tensors, Value
from millifit.targets.network import Node, TensorType

REDUCTIONS = {
    "ReduceMean": "reduce_mean",
    "ReduceSum": "reduce_sum",
    "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceL1": "reduce_l1",
    "ReduceL2": "reduce_l2",
    "ReduceSumSquare": "reduce_sum_square",
}
ARGUMENTS = {"ArgMax": "arg_max", "ArgMin": "arg_min"}
_LAST = (0, 2, 3, 1)


def reduction(state: Tensors, node: Node) -> None:
    """Emit a reduction over constant axes of real values."""
    axes = _axes(state, node)
    if axes is None or state.network.types[node.inputs[0]].dtype != "float32":
        generic(state, node)
        return
    _reduced(state, node, REDUCTIONS[node.op], axes, {})


def argument(state: Tensors, node: Node) -> None:
    """Emit an ArgMax or ArgMin of real values."""
    kind = state.network.types[node.inputs[0]]
    if kind.dtype != "float32" or state.constant(node.inputs[0]) is not None:
        generic(state, node)
        return
    axis = int(str(node.attributes.get("axis", 0))) % len(kind.shape)
    last = int(str(node.attributes.get("select_last_index", 0)))
    _reduced(state, node, ARGUMENTS[node.op], (axis,), {"last": last})


def _axes(state: Tensors, node: Node) -> tuple[int, ...] | None:
    """The axes; all where none are named. None where they are computed, or nothing is reduced."""
    rank = len(state.network.types[node.inputs[0]].shape)
    given = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        constant = state.constant(node.inputs[1])
        if constant is None:
            return None
        given = tuple(int(axis) for axis in constant)
    if state.constant(node.inputs[0]) is not None:
        return None
    if not given:
        return None if node.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    assert isinstance(given, tuple)
    return tuple(int(axis) % rank for axis in given)


def _reduced(
    state: Tensors, node: Node, op: str, axes: tuple[int, ...], attributes: dict[str, int]
) -> None:
    source, made = node.inputs[0], node.outputs[0]
    kind = state.network.types[made]
    value = state.real_of(source)
    keeps = bool(node.attributes.get("keepdims", 1))
    if value.last and len(value.shape) == 4 and not (keeps or _same_order(value, axes)):
        value = state.first(source)
    is_last = value.last and len(value.shape) == 4
    places = tuple(sorted(_LAST.index(axis) for axis in axes)) if is_last else tuple(sorted(axes))
    # A kernel writes all axes, the reduced ones with one position; the value is seen as ONNX has it
    full = tuple(1 if i in places else extent for i, extent in enumerate(value.shape))
    shape = full if keeps else kind.shape
    named = {"axis": places[0]} if op in ARGUMENTS.values() else {"axes": places}
    kernel = Kernel(
        op=op, inputs=(value.type,), output=TensorType(shape=full, dtype=kind.dtype),
        precision="fp32", attributes=tuple(sorted((named | attributes).items())),
    )  # fmt: skip
    state.emit(kernel, [value], made, {}, (node.name,))
    state.real[made] = Value(tensor=made, shape=shape, dtype=kind.dtype, last=is_last and keeps)


def _same_order(value: Value, axes: tuple[int, ...]) -> bool:
    """Whether what is kept of a channels-last map has ONNX's order, axes of one position aside."""
    kept = [
        axis for axis, extent in zip(_LAST, value.shape, strict=True)
        if axis not in axes and extent > 1
    ]  # fmt: skip
    return kept == sorted(kept)
