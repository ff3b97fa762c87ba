"""Nodes and tensors between ONNX's protobuf messages and the values of `network`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from millifit.errors import ModelError, UnsupportedOperator
from millifit.targets.network import Array, AttributeValue, Node

DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "bool", "int4"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_Attribute = onnx.AttributeProto


def dtype_name(element_type: int, *, tensor: str) -> str:
    """NumPy's name of an ONNX element type; ModelError for types no stage can compute with."""
    names = {int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))): name for name in DTYPES}
    if element_type not in names:
        kind = onnx.TensorProto.DataType.Name(element_type)
        raise ModelError(
            f"tensor '{tensor}' has element type {kind}, which is not supported. "
            "Export the model in float32."
        )
    return names[element_type]


def element_type(dtype: str) -> int:
    """ONNX's number of a NumPy dtype name."""
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def array(tensor: onnx.TensorProto, *, name: str) -> Array:
    """The values of a tensor message, in memory of its own."""
    dtype_name(tensor.data_type, tensor=name)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(
            f"tensor '{name}' is stored outside the model: read it with read_network(path), or "
            "load the model with its external data."
        )
    try:
        return np.array(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as broken:
        raise ModelError(
            f"tensor '{name}' is damaged ({broken}). Export the model again."
        ) from broken


def read_node(proto: onnx.NodeProto, *, name: str) -> Node:
    """The node of a message; subgraphs and other exotic attributes are unsupported operators."""
    attributes = {a.name: _read_attribute(a, proto.op_type, name) for a in proto.attribute}
    outputs = list(proto.output)
    while outputs and not outputs[-1]:
        outputs.pop()
    return Node(
        name=name,
        op=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(outputs),
        attributes=attributes,
    )


def _read_attribute(proto: onnx.AttributeProto, op: str, node: str) -> AttributeValue:
    match proto.type:
        case _Attribute.FLOAT:
            return float(proto.f)
        case _Attribute.INT:
            return int(proto.i)
        case _Attribute.STRING:
            return proto.s.decode("utf-8", "replace")
        case _Attribute.FLOATS:
            return tuple(float(value) for value in proto.floats)
        case _Attribute.INTS:
            return tuple(int(value) for value in proto.ints)
        case _Attribute.STRINGS:
            return tuple(value.decode("utf-8", "replace") for value in proto.strings)
        case _Attribute.TENSOR:
            return array(proto.t, name=f"{node}.{proto.name}")
        case _Attribute.GRAPH | _Attribute.GRAPHS:
            raise UnsupportedOperator(op=op, node=node, detail="control flow")
        case _:
            raise UnsupportedOperator(op=op, node=node, detail=f"attribute '{proto.name}'")


def write_node(node: Node, *, opset: int) -> onnx.NodeProto:
    """The message of a node, each attribute of the type that its operator declares in `opset`."""
    proto = onnx.helper.make_node(node.op, list(node.inputs), list(node.outputs), name=node.name)
    proto.attribute.extend(_write_attributes(node.op, node.attributes, opset))
    return proto


def _write_attributes(
    op: str, attributes: Mapping[str, AttributeValue], opset: int
) -> list[onnx.AttributeProto]:
    declared = onnx.defs.get_schema(op, opset, "").attributes
    written = []
    for name, value in attributes.items():
        if isinstance(value, np.ndarray):
            written.append(onnx.helper.make_attribute(name, onnx.numpy_helper.from_array(value)))
            continue
        # The type is declared, not guessed from the values: an empty tuple has none.
        kind = None
        if name in declared:
            kind = int(declared[name].type)  # type: ignore[call-overload]  # an enum of integers
        written.append(onnx.helper.make_attribute(name, value, attr_type=kind))
    return written
