"""Lowering of operators on rows: normalization, softmax, embedding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.lowering.fusion import Tail, absorb_quantization
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node

_NORMALIZATIONS = {"LayerNormalization": "layer_norm", "RMSNormalization": "rms_norm"}
_EPSILON = 1e-5  # ONNX's default


def has_rule(state: Tensors, node: Node) -> bool:
    """Whether a node is a normalization or softmax of rows, or an embedding, with a kernel."""
    shape = state.network.types[node.inputs[0]].shape
    real = state.network.types[node.inputs[0]].dtype == "float32"
    match node.op:
        case "LayerNormalization" | "RMSNormalization":
            last = int(str(node.attributes.get("axis", -1))) % len(shape) == len(shape) - 1
            alone = not any(name in state.consumers for name in node.outputs[1:])
            given = [state.constant(name) for name in node.inputs[1:] if name]
            fits = all(value is not None and value.size in (1, shape[-1]) for value in given)
            return real and last and alone and fits
        case "Softmax":
            last = int(str(node.attributes.get("axis", -1))) % max(len(shape), 1) == len(shape) - 1
            return real and last
        case "Gather":
            table = state.constant(node.inputs[0])
            return (
                table is not None and table.ndim == 2 and table.dtype == np.float32
                and not int(str(node.attributes.get("axis", 0)))
                and state.network.types[node.inputs[1]].dtype in ("int32", "int64")
            )  # fmt: skip
    return False


def by_row(state: Tensors, node: Node) -> None:
    """Emit what `has_rule` accepts."""
    attributes: dict[str, KernelAttribute] = {}
    constants: dict[str, Array] = {}
    source = node.inputs[0]
    match node.op:
        case "Softmax":
            op = "softmax"
        case "Gather":
            op, source = "embedding", node.inputs[1]
            table = state.constant(node.inputs[0])
            assert table is not None
            attributes["rows"], constants["table"] = len(table), table
        case _:
            op = _NORMALIZATIONS[node.op]
            for name, tensor in zip(("weight", "bias"), node.inputs[1:], strict=False):
                value = state.constant(tensor) if tensor else None
                if value is not None:
                    constants[name] = value
            epsilon = float(str(node.attributes.get("epsilon", _EPSILON)))
            constants["epsilon"] = np.asarray(np.float32(epsilon))
    _emit(state, node, op, state.first(source), attributes, constants)


def _emit(
    state: Tensors,
    node: Node,
    op: str,
    value: Value,
    attributes: dict[str, KernelAttribute],
    constants: dict[str, Array],
) -> None:
    """Emit a kernel that writes ONNX's order, and a quantization that alone reads its output."""
    tail = Tail(tensor=node.outputs[0])
    shape = state.network.types[node.outputs[0]].shape
    quantizer = state.only_reader(tail.tensor)
    if quantizer is not None and quantizer.op == "QuantizeLinear":
        absorb_quantization(state, tail, quantizer)
    made = Value(tensor=tail.tensor, shape=shape, dtype="float32", last=False)
    if tail.quantized is not None:
        made = replace(tail.quantized, shape=shape, last=False)
        constants |= scalars_of(output=made)
    kernel = Kernel(
        op=op, inputs=(value.type,), output=made.type, precision="fp32",
        attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip
    names = (node.name, *(n.name for n in tail.nodes))
    state.emit(kernel, [value], made.tensor, constants | tail.constants, names)
    (state.quantized if tail.quantized is not None else state.real)[made.tensor] = made
