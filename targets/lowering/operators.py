"""Lowering of single operators: which kernel they become, in which precision."""

from __future__ import annotations

from dataclasses import replace

from millifit.errors import ModelError
from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.lowering.fusion import (
    Tail,
    absorb_quantization,
    activation_limits,
    emit_anchor,
    follow,
    other_input,
    put_limits,
)
from millifit.targets.lowering.layers import pads_of, pair_of
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node
from millifit.targets.target import Precision

BINARY = {"Add": "add", "Mul": "mul", "Sub": "sub", "Div": "div"}
UNARY = {
    "Relu": "relu",
    "Clip": "clip",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "Tanh": "tanh",
    "LeakyRelu": "leaky_relu",
}
_DEFAULTS = {"hard_sigmoid": {"alpha": 0.2, "beta": 0.5}, "leaky_relu": {"alpha": 0.01}}
POOLS = {"MaxPool": "max_pool", "AveragePool": "avg_pool", "GlobalAveragePool": "global_avg_pool"}
VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")


def quantize(state: Tensors, node: Node) -> None:
    """A quantization that was fused into nothing."""
    source, made = node.inputs[0], node.outputs[0]
    scale, zero_point = state.quantization(node)
    if source in state.quantized:
        value = state.quantized[source]
        wanted = replace(value, tensor=made, scale=scale, zero_point=zero_point)
        if value.same_quantization(wanted):
            state.quantized[made] = value
            return
        kernel = Kernel(op="requantize", inputs=(value.type,), output=wanted.type, precision="int8")
        constants = scalars_of(input=value, output=wanted)
    else:
        value = state.real_of(source)
        op = "quantize"
        shape, last = value.shape, value.last
        if not last and len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1:
            op, shape, last = "to_channels_last", state.shape_last(source), True
        elif not last and len(shape) == 4:
            value = state.last(value, source)
            shape, last = value.shape, True
        wanted = Value(
            tensor=made,
            shape=shape,
            dtype="uint8",
            last=last,
            scale=scale,
            zero_point=zero_point,
        )
        kernel = Kernel(op=op, inputs=(value.type,), output=wanted.type, precision="fp32")
        constants = scalars_of(output=wanted)
    state.emit(kernel, [value], made, constants, (node.name,))
    state.quantized[made] = wanted


def dequantize(state: Tensors, node: Node) -> None:
    """Nothing to run: whoever needs real values asks for them."""
    if node.inputs[0] in state.network.constants:
        return  # read by the layer it belongs to
    value = state.quantized.get(node.inputs[0])
    if value is None:
        raise ModelError(
            f"node '{node.name}' dequantizes '{node.inputs[0]}', which no QuantizeLinear made"
        )
    scale, zero_point = state.quantization(node)
    state.quantized[node.outputs[0]] = replace(value, scale=scale, zero_point=zero_point)


def pool(state: Tensors, node: Node) -> None:
    """Emit a pooling operator; uint8 maps are pooled as they are."""
    source = node.inputs[0]
    attributes: dict[str, KernelAttribute] = {}
    if node.op != "GlobalAveragePool":
        attributes = {
            "kernel": pair_of(node, "kernel_shape", (1, 1)),
            "strides": pair_of(node, "strides", (1, 1)),
            "pads": pads_of(node),
        }
        if node.op == "AveragePool":
            attributes["count_include_pad"] = int(str(node.attributes.get("count_include_pad", 0)))
    if len(state.network.types[source].shape) != 4:
        generic(state, node)
        return
    dilated = any(step != 1 for step in pair_of(node, "dilations", (1, 1)))
    if dilated or len(node.outputs) > 1 or node.attributes.get("ceil_mode", 0):
        generic(state, node)
        return
    op = POOLS[node.op]
    if source in state.quantized and op == "max_pool":
        value = state.last(state.quantized[source], source)
        made = replace(value, tensor=node.outputs[0], shape=state.shape_last(node.outputs[0]))
        kernel = Kernel(
            op=op,
            inputs=(value.type,),
            output=made.type,
            precision="int8",
            attributes=tuple(sorted(attributes.items())),
        )
        state.emit(kernel, [value], made.tensor, {}, (node.name,))
        state.quantized[node.outputs[0]] = made
        return
    integer = source in state.quantized
    tail = Tail(tensor=node.outputs[0])
    quantizer = state.only_reader(tail.tensor)
    if op != "max_pool" and quantizer is not None and quantizer.op == "QuantizeLinear":
        absorb_quantization(state, tail, quantizer)
    constants: dict[str, Array] = {}
    if integer:
        value = state.last(state.quantized[source], source)
        constants = scalars_of(input=value)
    else:
        value = state.last(state.real_of(source), source)
    emit_anchor(
        state,
        node,
        op,
        [value],
        tail,
        precision="int8" if integer else "fp32",
        attributes=attributes,
        constants=constants,
    )


def view(state: Tensors, node: Node) -> None:
    """Another shape of the same memory; a real map goes back to channels first before."""
    source, made = node.inputs[0], node.outputs[0]
    shape = state.network.types[made].shape
    movable = _same_memory(state.network.types[source].shape)
    if source in state.quantized and movable:
        value = state.quantized[source]
        state.quantized[made] = replace(value, shape=shape, last=False)
    if source in state.real or made not in state.quantized:
        value = state.first(source)
        state.real[made] = replace(value, shape=shape, last=False)


def binary(state: Tensors, node: Node) -> None:
    """Emit arithmetic on two maps, or on a map and a constant."""
    constant = next((n for n in node.inputs if state.constant(n) is not None), None)
    output = state.network.types[node.outputs[0]]
    left = node.inputs[0]
    if output.dtype != "float32" or len(output.shape) not in (2, 4):
        generic(state, node)
        return
    if constant is not None:
        _binary_constant(state, node, constant)
        return
    right = node.inputs[1]
    shapes = [state.network.types[name].shape for name in (left, right)]
    if shapes[0] != output.shape and node.op in ("Add", "Mul"):
        left, right, shapes = right, left, shapes[::-1]
    per_channel = len(output.shape) == 4 and shapes[1] == (*output.shape[:2], 1, 1)
    if shapes[0] != output.shape or not (shapes[1] == output.shape or per_channel):
        generic(state, node)
        return
    both = left in state.quantized and right in state.quantized and not per_channel
    integer = both and node.op == "Add"
    tail = follow(state, node, integer=False, residual=False)
    if integer and tail.quantized is not None:
        values = [state.last(state.quantized[n], n) for n in (left, right)]
        constants = scalars_of(input=values[0], residual=values[1])
        precision: Precision = "int8"
    else:
        values = [state.last(state.real_of(n), n) for n in (left, right)]
        constants, precision = {}, "fp32"
    emit_anchor(
        state,
        node,
        BINARY[node.op],
        values,
        tail,
        precision=precision,
        attributes={},
        constants=constants,
    )


def _binary_constant(state: Tensors, node: Node, constant: str) -> None:
    operand = state.constant(constant)
    other = other_input(node, constant)
    output = state.network.types[node.outputs[0]]
    commutes = node.op in ("Add", "Mul") or node.inputs[1] == constant
    assert operand is not None
    rank, channels = len(output.shape), output.shape[1]
    aligned = (1,) * (rank - operand.ndim) + operand.shape
    fits = operand.size == 1 or (operand.size == channels and aligned[1] == channels)
    if not (commutes and fits and state.network.types[other].shape == output.shape):
        generic(state, node)
        return
    tail = follow(state, node, integer=False, residual=False)
    value = state.last(state.real_of(other), other)
    emit_anchor(
        state,
        node,
        BINARY[node.op],
        [value],
        tail,
        precision="fp32",
        attributes={},
        constants={"operand": operand},
    )


def unary(state: Tensors, node: Node) -> None:
    """Emit an activation function that was fused into nothing."""
    source = node.inputs[0]
    op = UNARY[node.op]
    limits = activation_limits(node)
    if state.network.types[source].dtype != "float32" or (op == "clip" and limits is None):
        generic(state, node)
        return
    value = state.last(state.real_of(source), source)
    attributes: dict[str, KernelAttribute] = {
        name: float(str(node.attributes.get(name, default)))
        for name, default in _DEFAULTS.get(op, {}).items()
    }
    constants: dict[str, Array] = {}
    if op == "clip" and limits is not None:
        put_limits(constants, "clip", *limits)
    tail = Tail(tensor=node.outputs[0])
    quantizer = state.only_reader(tail.tensor)
    if quantizer is not None and quantizer.op == "QuantizeLinear":
        absorb_quantization(state, tail, quantizer)
    emit_anchor(
        state, node, op, [value], tail, precision="fp32", attributes=attributes, constants=constants
    )


def generic(state: Tensors, node: Node) -> None:
    """An operator without a rule: the ONNX node itself, imported by TVM when it is built."""
    from millifit.targets.schedules.onnx_operator import encode

    values = []
    constants: dict[str, Array] = {}
    for name in dict.fromkeys(n for n in node.inputs if n):
        held = state.constant(name)
        if held is not None:
            constants[name] = held
        else:
            values.append(state.first(name))
    for made in node.outputs[1:]:
        if made in state.consumers:
            raise ModelError(
                f"node '{node.name}' ({node.op}) has several outputs, which is not supported"
            )
    activations = [n for n in dict.fromkeys(node.inputs) if n and n not in constants]
    model = encode(node, activations, constants, state.network)
    output = state.network.types[node.outputs[0]]
    kernel = Kernel(
        op="onnx",
        inputs=tuple(v.type for v in values),
        output=output,
        precision="fp32",
        attributes=(("model", model), ("operator", node.op)),
    )
    state.emit(kernel, values, node.outputs[0], {}, (node.name,))
    state.real[node.outputs[0]] = Value(
        tensor=node.outputs[0], shape=output.shape, dtype=output.dtype, last=False
    )


def _same_memory(shape: tuple[int, ...]) -> bool:
    """Whether channels-first and channels-last are the same sequence in memory."""
    return len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1
