"""Lowering of single operators: which kernel they become, in which precision."""

from __future__ import annotations

from dataclasses import replace

from millifit.errors import ModelError
from millifit.targets.kernel import Kernel
from millifit.targets.lowering.tensors import Tensors, Value, scalars_of
from millifit.targets.network import Array, Node

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


def view(state: Tensors, node: Node) -> None:
    """Another shape of the same memory; a real map goes back to channels first before."""
    source, made = node.inputs[0], node.outputs[0]
    shape = state.network.types[made].shape
    movable = _same_memory(state.network.types[source].shape)
    if source in state.quantized and movable:
        value = state.quantized[source]
        state.quantized[made] = replace(value, shape=shape, last=False)
    if source in state.half and movable:
        state.half[made] = replace(state.half[source], shape=shape, last=False)
    if source in state.real or (made not in state.quantized and made not in state.half):
        value = state.first(source)
        state.real[made] = replace(value, shape=shape, last=False)


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
