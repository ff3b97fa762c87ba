"""From a network to the kernels that will run: channels-last, fused, in the precision it states.

Fusion follows the graph from an anchor (a layer, an elementwise operator, a pool) through the
activation function, a residual addition and a quantization, as far as nobody else needs the values
in between. QuantizeLinear / DequantizeLinear pairs are read as what they mean: the tensor between
them exists as uint8 (a signed one is shifted by 128, which changes no value).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from millifit.errors import ModelError
from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.program import Call, Program
from millifit.targets.target import Precision, Target

_BINARY = {"Add": "add", "Mul": "mul", "Sub": "sub", "Div": "div"}
_UNARY = {
    "Relu": "relu",
    "Clip": "clip",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "Tanh": "tanh",
    "LeakyRelu": "leaky_relu",
}
_UNARY_DEFAULTS = {"hard_sigmoid": {"alpha": 0.2, "beta": 0.5}, "leaky_relu": {"alpha": 0.01}}
_POOLS = {"MaxPool": "max_pool", "AveragePool": "avg_pool", "GlobalAveragePool": "global_avg_pool"}
_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")

# Past this depth the sum of 255 * 127 products may leave int32.
_MAX_INT8_DEPTH = 2**31 // (255 * 127)
_MAX_DEPTHWISE_TAPS = 2**24 // (255 * 127)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """Where a network's tensor is: a tensor of the program, seen with this shape.

    A uint8 value carries its scale and zero point. `last` says that a map of rank 4 is stored
    channels-last; its `shape` is then (N, H, W, C).
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    last: bool
    scale: float = 0.0
    zero_point: int = 0

    @property
    def type(self) -> TensorType:
        return TensorType(shape=self.shape, dtype=self.dtype)

    def same_quantization(self, other: _Value) -> bool:
        return self.scale == other.scale and self.zero_point == other.zero_point


@dataclass(slots=True, kw_only=True)
class _Tail:
    """What is fused behind an anchor, and the network's tensor that comes out at the end."""

    tensor: str
    steps: list[str] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    residual: _Value | None = None
    quantized: _Value | None = None  # scale and zero point of a uint8 output


def lower(network: Network, target: Target) -> Program:
    """Lower a simplified network with static shapes and batch 1.

    Raises ModelError for a batch or a quantization that cannot be lowered, and UnsupportedOperator
    for an operator that has neither a rule nor an import.
    """
    return _Lowering(network, target).program()


class _Lowering:
    """The state of one lowering."""

    def __init__(self, network: Network, target: Target) -> None:
        self.network = network
        self.target = target
        self.consumers = network.consumers()
        self.producers = network.producers()
        self.calls: list[Call] = []
        self.types: dict[str, TensorType] = {}
        # Real values of a network's tensor, and the uint8 form it also or only has.
        self.real: dict[str, _Value] = {}
        self.quantized: dict[str, _Value] = {}
        self.done: set[str] = set()

    def program(self) -> Program:
        for name in self.network.inputs:
            self._input(name)
        for node in self.network.nodes:
            if node.name not in self.done:
                self.done.add(node.name)
                self._node(node)
        outputs = tuple(self._output(name) for name in self.network.outputs)
        return Program(
            name=self.network.name,
            inputs=self.network.inputs,
            outputs=outputs,
            calls=tuple(self.calls),
            types=self.types,
        )

    # Values -------------------------------------------------------------------------------

    def _input(self, name: str) -> None:
        kind = self.network.types[name]
        if len(kind.shape) == 4 and kind.shape[0] != 1:
            raise ModelError(
                f"the model's input '{name}' has batch {kind.shape[0]}; millifit fits the latency "
                "of one inference: export the model with batch 1, or pass --input-shape 1,..."
            )
        self.types[name] = kind
        self.real[name] = _Value(tensor=name, shape=kind.shape, dtype=kind.dtype, last=False)

    def _output(self, name: str) -> str:
        """The program's tensor of a network output: real values, channels first, of its own."""
        if name not in self.real and name not in self.quantized:
            raise ModelError(f"output '{name}' of the network is made by nothing that is lowered")
        value = self._first(name)
        shape = self.network.types[name].shape
        borrowed = value.tensor in self.network.inputs or self.types[value.tensor].shape != shape
        if not borrowed:
            return value.tensor
        self.types[name] = TensorType(shape=shape, dtype=value.dtype)
        kernel = Kernel(
            op="reshape", inputs=(value.type,), output=self.types[name], precision="fp32"
        )
        self._emit(kernel, [value], name, {}, ())
        return name

    def _emit(
        self,
        kernel: Kernel,
        inputs: list[_Value],
        output: str,
        constants: dict[str, Array],
        nodes: tuple[str, ...],
    ) -> None:
        self.types[output] = kernel.output
        self.calls.append(
            Call(
                kernel=kernel,
                inputs=tuple(v.tensor for v in inputs),
                output=output,
                constants=constants,
                nodes=nodes,
            )
        )

    def _real(self, tensor: str) -> _Value:
        """Real values of a tensor; dequantized here where only uint8 exists."""
        if tensor in self.real:
            return self.real[tensor]
        value = self.quantized[tensor]
        made = replace(value, tensor=f"{tensor}:real", dtype="float32", scale=0.0, zero_point=0)
        kernel = Kernel(op="dequantize", inputs=(value.type,), output=made.type, precision="fp32")
        self._emit(kernel, [value], made.tensor, _scalars(input=value), (tensor,))
        self.real[tensor] = made
        return made

    def _last(self, value: _Value, tensor: str) -> _Value:
        """The same values, channels-last."""
        if value.last or len(value.shape) != 4:
            return value
        n, c, h, w = value.shape
        made = replace(value, shape=(n, h, w, c), last=True)
        if c == 1 or h * w == 1:
            return made  # the same memory
        made = replace(made, tensor=f"{tensor}:last")
        if made.tensor not in self.types:
            kernel = Kernel(
                op="to_channels_last", inputs=(value.type,), output=made.type, precision="fp32"
            )
            self._emit(kernel, [value], made.tensor, {}, (tensor,))
        return made

    def _first(self, tensor: str) -> _Value:
        """Real values of a tensor in ONNX's own layout."""
        value = self._real(tensor)
        if not value.last or len(value.shape) != 4:
            return value
        n, h, w, c = value.shape
        made = replace(value, shape=(n, c, h, w), last=False)
        if c == 1 or h * w == 1:
            return made
        made = replace(made, tensor=f"{tensor}:first")
        if made.tensor not in self.types:
            kernel = Kernel(
                op="to_channels_first", inputs=(value.type,), output=made.type, precision="fp32"
            )
            self._emit(kernel, [value], made.tensor, {}, (tensor,))
        return made

    def _shape_last(self, tensor: str) -> tuple[int, ...]:
        shape = self.network.types[tensor].shape
        return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape

    # Nodes --------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        match node.op:
            case "QuantizeLinear":
                self._quantize(node)
            case "DequantizeLinear":
                self._dequantize(node)
            case "Conv" if self._is_layer(node) and len(node.inputs) >= 2:
                self._layer(node)
            case "Gemm" if self._is_layer(node):
                self._layer(node)
            case op if op in _POOLS and len(self.network.types[node.inputs[0]].shape) == 4:
                self._pool(node)
            case op if op in _VIEWS:
                self._view(node)
            case op if op in _BINARY:
                self._binary(node)
            case op if op in _UNARY:
                self._unary(node)
            case _:
                self._generic(node)

    def _is_layer(self, node: Node) -> bool:
        weight = self._constant(node.inputs[1])
        rank = len(self.network.types[node.inputs[0]].shape)
        return weight is not None and rank == (4 if node.op == "Conv" else 2)

    def _constant(self, tensor: str) -> Array | None:
        """A constant's real values, dequantized where the model stores integers."""
        if tensor in self.network.constants:
            return self.network.constants[tensor]
        stored = self._stored(tensor)
        if stored is None:
            return None
        values, scale, zero_point = stored
        shape = (-1,) + (1,) * (values.ndim - 1) if scale.size > 1 else ()
        shifted = values.astype(np.float32) - zero_point.astype(np.float32).reshape(shape)
        return np.asarray(shifted * scale.astype(np.float32).reshape(shape))

    def _stored(self, tensor: str) -> tuple[Array, Array, Array] | None:
        """Integer values, scale and zero point of a constant behind a DequantizeLinear."""
        node = self.producers.get(tensor)
        constants = self.network.constants
        if node is None or node.op != "DequantizeLinear" or node.inputs[0] not in constants:
            return None
        values = constants[node.inputs[0]]
        scale = constants[node.inputs[1]]
        zero_point = np.zeros(scale.shape, values.dtype)
        if len(node.inputs) > 2 and node.inputs[2]:
            zero_point = constants[node.inputs[2]]
        if scale.size > 1 and int(str(node.attributes.get("axis", 1))) != 0:
            raise ModelError(
                f"node '{node.name}' dequantizes per channel along an axis other than 0: "
                "quantize weights per output channel"
            )
        return values, scale, zero_point

    def _quantization(self, node: Node) -> tuple[float, int]:
        """Scale and uint8 zero point of a QuantizeLinear or DequantizeLinear of an activation."""
        constants = self.network.constants
        if any(name and name not in constants for name in node.inputs[1:]):
            raise ModelError(f"node '{node.name}': scale and zero point must be constants")
        scale = constants[node.inputs[1]]
        zero_point: Array = np.zeros((), np.uint8)
        if len(node.inputs) > 2 and node.inputs[2]:
            zero_point = constants[node.inputs[2]]
        if scale.size != 1 or zero_point.dtype not in (np.uint8, np.int8):
            raise ModelError(
                f"node '{node.name}' ({node.op}): activations are quantized per tensor to uint8 or "
                f"int8; this one has {scale.size} scales and type {zero_point.dtype}"
            )
        shift = 128 if zero_point.dtype == np.int8 else 0
        return float(scale.ravel()[0]), int(zero_point.ravel()[0]) + shift

    def _quantize(self, node: Node) -> None:
        """A quantization that was fused into nothing."""
        source, made = node.inputs[0], node.outputs[0]
        scale, zero_point = self._quantization(node)
        if source in self.quantized:
            value = self.quantized[source]
            wanted = replace(value, tensor=made, scale=scale, zero_point=zero_point)
            if value.same_quantization(wanted):
                self.quantized[made] = value
                return
            kernel = Kernel(
                op="requantize", inputs=(value.type,), output=wanted.type, precision="int8"
            )
            constants = _scalars(input=value, output=wanted)
        else:
            value = self._real(source)
            op = "quantize"
            shape, last = value.shape, value.last
            if not last and len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1:
                op, shape, last = "to_channels_last", self._shape_last(source), True
            elif not last and len(shape) == 4:
                value = self._last(value, source)
                shape, last = value.shape, True
            wanted = _Value(
                tensor=made,
                shape=shape,
                dtype="uint8",
                last=last,
                scale=scale,
                zero_point=zero_point,
            )
            kernel = Kernel(op=op, inputs=(value.type,), output=wanted.type, precision="fp32")
            constants = _scalars(output=wanted)
        self._emit(kernel, [value], made, constants, (node.name,))
        self.quantized[made] = wanted

    def _dequantize(self, node: Node) -> None:
        if node.inputs[0] in self.network.constants:
            return  # read by the layer it belongs to
        value = self.quantized.get(node.inputs[0])
        if value is None:
            raise ModelError(
                f"node '{node.name}' dequantizes '{node.inputs[0]}', which no QuantizeLinear made"
            )
        scale, zero_point = self._quantization(node)
        self.quantized[node.outputs[0]] = replace(value, scale=scale, zero_point=zero_point)

    # Fusion -------------------------------------------------------------------------------

    def _only_reader(self, tensor: str) -> Node | None:
        readers = self.consumers.get(tensor, [])
        if len(readers) != 1 or tensor in self.network.outputs:
            return None
        return readers[0]

    def _tail(self, node: Node, *, integer: bool, residual: bool) -> _Tail:
        """Follow the graph behind `node`; `residual` says whether an addition may be fused."""
        tail = _Tail(tensor=node.outputs[0])
        low, high = self._absorb_activation(tail)
        added = residual and self._absorbed_addition(tail, low, high)
        if added:
            low, high = self._absorb_activation(tail)
        quantizer = self._only_reader(tail.tensor)
        if (integer and added) or quantizer is None or quantizer.op != "QuantizeLinear":
            self._close_real(tail, low, high)
            return tail
        self._absorb_quantization(tail, quantizer)
        if integer and residual:
            self._absorb_quantized_addition(tail, low, high)
        if added or tail.residual is None:
            _put_limits(tail.constants, "act", low, high)
        return tail

    def _absorb_activation(self, tail: _Tail) -> tuple[float, float]:
        """Limits of the Relu and Clip nodes that follow."""
        low, high = -math.inf, math.inf
        while (reader := self._only_reader(tail.tensor)) is not None:
            limits = _activation_limits(reader)
            if limits is None:
                break
            low, high = min(max(low, limits[0]), limits[1]), min(max(high, limits[0]), limits[1])
            self._take(tail, reader)
        return low, high

    def _take(self, tail: _Tail, node: Node) -> None:
        self.done.add(node.name)
        tail.nodes.append(node)
        tail.tensor = node.outputs[0]

    def _absorbed_addition(self, tail: _Tail, low: float, high: float) -> bool:
        """Fuse an addition of real values that are already there."""
        reader = self._only_reader(tail.tensor)
        if reader is None or reader.op != "Add":
            return False
        other = _other_input(reader, tail.tensor)
        if other not in self.real or self.network.types[other] != self.network.types[tail.tensor]:
            return False
        if not _plain(low, high) and not (low == 0 and high == math.inf):
            return False  # one pair of limits is kept for what follows the addition
        value = self._last(self.real[other], other)
        if not _plain(low, high):
            tail.steps.append("relu")
        tail.steps.append("add")
        tail.residual = value
        self._take(tail, reader)
        return True

    def _close_real(self, tail: _Tail, low: float, high: float) -> None:
        if _plain(low, high):
            return
        if low == 0 and high == math.inf:
            tail.steps.append("relu")
            return
        tail.steps.append("clip")
        _put_limits(tail.constants, "clip", low, high)

    def _absorb_quantization(self, tail: _Tail, quantizer: Node) -> None:
        scale, zero_point = self._quantization(quantizer)
        self._take(tail, quantizer)
        tail.quantized = _Value(
            tensor=tail.tensor,
            shape=self._shape_last(quantizer.inputs[0]),
            dtype="uint8",
            last=True,
            scale=scale,
            zero_point=zero_point,
        )

    def _absorb_quantized_addition(self, tail: _Tail, low: float, high: float) -> None:
        """Fuse ``Q -> DQ -> Add -> [activation] -> Q``: the addition of two quantized maps."""
        inner = tail.quantized
        dequantizer = self._only_reader(tail.tensor)
        if inner is None or dequantizer is None or dequantizer.op != "DequantizeLinear":
            return
        addition = self._only_reader(dequantizer.outputs[0])
        if addition is None or addition.op != "Add":
            return
        other = _other_input(addition, dequantizer.outputs[0])
        sum_type = self.network.types[addition.outputs[0]]
        if other not in self.quantized or self.network.types[other].shape != sum_type.shape:
            return
        ahead = _Tail(tensor=addition.outputs[0])
        taken = set(self.done)
        after_low, after_high = self._absorb_activation(ahead)
        quantizer = self._only_reader(ahead.tensor)
        if quantizer is None or quantizer.op != "QuantizeLinear":
            self.done = taken
            return
        self._take(tail, dequantizer)
        self._take(tail, addition)
        tail.nodes += ahead.nodes
        tail.steps.append("add")
        tail.residual = self.quantized[other]
        tail.constants |= _scalars(inner=inner, residual=tail.residual)
        _put_limits(tail.constants, "inner_act", low, high)
        _put_limits(tail.constants, "act", after_low, after_high)
        self._absorb_quantization(tail, quantizer)

    def _finish(
        self,
        node: Node,
        op: str,
        inputs: list[_Value],
        tail: _Tail,
        *,
        precision: Precision,
        attributes: dict[str, KernelAttribute],
        constants: dict[str, Array],
    ) -> None:
        """Emit an anchor with its tail, and record the value that comes out."""
        shape = self._shape_last(node.outputs[0])
        if tail.quantized is not None:
            made = tail.quantized
            constants |= _scalars(output=made)
        else:
            made = _Value(tensor=tail.tensor, shape=shape, dtype="float32", last=True)
        if tail.residual is not None:
            inputs = [*inputs, tail.residual]
        kernel = Kernel(
            op=op,
            inputs=tuple(v.type for v in inputs),
            output=made.type,
            precision=precision,
            attributes=tuple(sorted(attributes.items())),
            epilogue=tuple(tail.steps),
        )
        names = (node.name, *(n.name for n in tail.nodes))
        self._emit(kernel, inputs, made.tensor, constants | tail.constants, names)
        if tail.quantized is not None:
            self.quantized[made.tensor] = made
        else:
            self.real[made.tensor] = made

    # Operators ----------------------------------------------------------------------------

    def _layer(self, node: Node) -> None:
        source = node.inputs[0]
        stored = self._stored(node.inputs[1])
        weight = self._constant(node.inputs[1])
        assert weight is not None
        depthwise = False
        attributes: dict[str, KernelAttribute] = {}
        if node.op == "Conv":
            depthwise, attributes = _convolution(node, weight, self.network.types[source].shape)
        integer = (
            stored is not None and source in self.quantized and _integer_weights(stored) is not None
        )
        depth = math.prod(weight.shape[1:])
        if integer and depth > (_MAX_DEPTHWISE_TAPS if depthwise else _MAX_INT8_DEPTH):
            integer = False
        tail = self._tail(node, integer=integer, residual=True)
        op = "dense" if node.op == "Gemm" else "depthwise_conv2d" if depthwise else "conv2d"
        if integer:
            assert stored is not None
            value = self._last(self.quantized[source], source)
            constants = self._integer_constants(node, stored, value)
            narrow = int(np.abs(constants["weight"].astype(np.int16)).max(initial=0)) <= 64
            if narrow and not depthwise and self.target.dot_product == "avx2_pmaddwd":
                attributes["weight_bits"] = 7
        else:
            value = self._last(self._real(source), source)
            bias = self._bias(node, weight.shape[0])
            constants = {"weight": weight.astype(np.float32), "bias": bias}
        self._finish(
            node,
            op,
            [value],
            tail,
            precision="int8" if integer else "fp32",
            attributes=attributes,
            constants=constants,
        )

    def _bias(self, node: Node, channels: int) -> Array:
        if len(node.inputs) > 2 and node.inputs[2]:
            bias = self._constant(node.inputs[2])
            if bias is None or bias.size not in (1, channels):
                raise ModelError(f"node '{node.name}': the bias must be a constant per channel")
            return np.broadcast_to(bias.astype(np.float32).ravel(), (channels,)).copy()
        return np.zeros(channels, np.float32)

    def _integer_constants(
        self, node: Node, stored: tuple[Array, Array, Array], value: _Value
    ) -> dict[str, Array]:
        weight = _integer_weights(stored)
        assert weight is not None
        channels = weight.shape[0]
        scale = np.broadcast_to(stored[1].astype(np.float32).ravel(), (channels,))
        step = np.float32(value.scale) * scale
        bias_stored = self._stored(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias_stored is not None and np.allclose(bias_stored[1], step, rtol=1e-5, atol=0):
            bias = bias_stored[0].astype(np.int64)
        else:
            bias = np.rint(self._bias(node, channels).astype(np.float64) / step).astype(np.int64)
        bias = np.clip(bias, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        return {
            "weight": weight,
            "bias": np.broadcast_to(bias, (channels,)),
            "weight_scale": scale,
            **_scalars(input=value),
        }

    def _pool(self, node: Node) -> None:
        source = node.inputs[0]
        attributes: dict[str, KernelAttribute] = {}
        if node.op != "GlobalAveragePool":
            attributes = {
                "kernel": _pair(node, "kernel_shape", (1, 1)),
                "strides": _pair(node, "strides", (1, 1)),
                "pads": _pads(node),
            }
            if node.op == "AveragePool":
                attributes["count_include_pad"] = int(
                    str(node.attributes.get("count_include_pad", 0))
                )
        dilated = any(step != 1 for step in _pair(node, "dilations", (1, 1)))
        if dilated or len(node.outputs) > 1 or node.attributes.get("ceil_mode", 0):
            self._generic(node)
            return
        op = _POOLS[node.op]
        if source in self.quantized and op == "max_pool":
            value = self._last(self.quantized[source], source)
            made = replace(value, tensor=node.outputs[0], shape=self._shape_last(node.outputs[0]))
            kernel = Kernel(
                op=op,
                inputs=(value.type,),
                output=made.type,
                precision="int8",
                attributes=tuple(sorted(attributes.items())),
            )
            self._emit(kernel, [value], made.tensor, {}, (node.name,))
            self.quantized[node.outputs[0]] = made
            return
        integer = source in self.quantized
        tail = _Tail(tensor=node.outputs[0])
        quantizer = self._only_reader(tail.tensor)
        if op != "max_pool" and quantizer is not None and quantizer.op == "QuantizeLinear":
            self._absorb_quantization(tail, quantizer)
        constants: dict[str, Array] = {}
        if integer:
            value = self._last(self.quantized[source], source)
            constants = _scalars(input=value)
        else:
            value = self._last(self._real(source), source)
        self._finish(
            node,
            op,
            [value],
            tail,
            precision="int8" if integer else "fp32",
            attributes=attributes,
            constants=constants,
        )

    def _view(self, node: Node) -> None:
        """Another shape of the same memory; a real map goes back to channels first before."""
        source, made = node.inputs[0], node.outputs[0]
        shape = self.network.types[made].shape
        movable = _same_memory(self.network.types[source].shape)
        if source in self.quantized and movable:
            value = self.quantized[source]
            self.quantized[made] = replace(value, shape=shape, last=False)
        if source in self.real or made not in self.quantized:
            value = self._first(source)
            self.real[made] = replace(value, shape=shape, last=False)

    def _binary(self, node: Node) -> None:
        constant = next((n for n in node.inputs if self._constant(n) is not None), None)
        output = self.network.types[node.outputs[0]]
        left = node.inputs[0]
        if output.dtype != "float32" or len(output.shape) not in (2, 4):
            self._generic(node)
            return
        if constant is not None:
            self._binary_constant(node, constant)
            return
        right = node.inputs[1]
        shapes = [self.network.types[name].shape for name in (left, right)]
        if shapes[0] != output.shape and node.op in ("Add", "Mul"):
            left, right, shapes = right, left, shapes[::-1]
        per_channel = len(output.shape) == 4 and shapes[1] == (*output.shape[:2], 1, 1)
        if shapes[0] != output.shape or not (shapes[1] == output.shape or per_channel):
            self._generic(node)
            return
        both = left in self.quantized and right in self.quantized and not per_channel
        integer = both and node.op == "Add"
        tail = self._tail(node, integer=False, residual=False)
        if integer and tail.quantized is not None:
            values = [self._last(self.quantized[n], n) for n in (left, right)]
            constants = _scalars(input=values[0], residual=values[1])
            precision: Precision = "int8"
        else:
            values = [self._last(self._real(n), n) for n in (left, right)]
            constants, precision = {}, "fp32"
        self._finish(
            node,
            _BINARY[node.op],
            values,
            tail,
            precision=precision,
            attributes={},
            constants=constants,
        )

    def _binary_constant(self, node: Node, constant: str) -> None:
        operand = self._constant(constant)
        other = _other_input(node, constant)
        output = self.network.types[node.outputs[0]]
        commutes = node.op in ("Add", "Mul") or node.inputs[1] == constant
        assert operand is not None
        rank, channels = len(output.shape), output.shape[1]
        aligned = (1,) * (rank - operand.ndim) + operand.shape
        fits = operand.size == 1 or (operand.size == channels and aligned[1] == channels)
        if not (commutes and fits and self.network.types[other].shape == output.shape):
            self._generic(node)
            return
        tail = self._tail(node, integer=False, residual=False)
        value = self._last(self._real(other), other)
        self._finish(
            node,
            _BINARY[node.op],
            [value],
            tail,
            precision="fp32",
            attributes={},
            constants={"operand": operand},
        )

    def _unary(self, node: Node) -> None:
        source = node.inputs[0]
        op = _UNARY[node.op]
        limits = _activation_limits(node)
        if self.network.types[source].dtype != "float32" or (op == "clip" and limits is None):
            self._generic(node)
            return
        value = self._last(self._real(source), source)
        attributes: dict[str, KernelAttribute] = {
            name: float(str(node.attributes.get(name, default)))
            for name, default in _UNARY_DEFAULTS.get(op, {}).items()
        }
        constants: dict[str, Array] = {}
        if op == "clip" and limits is not None:
            _put_limits(constants, "clip", *limits)
        tail = _Tail(tensor=node.outputs[0])
        quantizer = self._only_reader(tail.tensor)
        if quantizer is not None and quantizer.op == "QuantizeLinear":
            self._absorb_quantization(tail, quantizer)
        self._finish(
            node, op, [value], tail, precision="fp32", attributes=attributes, constants=constants
        )

    def _generic(self, node: Node) -> None:
        """An operator without a rule: the ONNX node itself, imported by TVM when it is built."""
        from millifit.targets.schedules.onnx_operator import encode

        values = []
        constants: dict[str, Array] = {}
        for name in dict.fromkeys(n for n in node.inputs if n):
            held = self._constant(name)
            if held is not None:
                constants[name] = held
            else:
                values.append(self._first(name))
        for made in node.outputs[1:]:
            if made in self.consumers:
                raise ModelError(
                    f"node '{node.name}' ({node.op}) has several outputs, which is not supported"
                )
        activations = [n for n in dict.fromkeys(node.inputs) if n and n not in constants]
        model = encode(node, activations, constants, self.network)
        output = self.network.types[node.outputs[0]]
        kernel = Kernel(
            op="onnx",
            inputs=tuple(v.type for v in values),
            output=output,
            precision="fp32",
            attributes=(("model", model), ("operator", node.op)),
        )
        self._emit(kernel, values, node.outputs[0], {}, (node.name,))
        self.real[node.outputs[0]] = _Value(
            tensor=node.outputs[0], shape=output.shape, dtype=output.dtype, last=False
        )


def _scalars(**values: _Value) -> dict[str, Array]:
    """``{"input_scale": ..., "input_zero_point": ...}`` for ``input=value`` and so on."""
    made: dict[str, Array] = {}
    for prefix, value in values.items():
        made[f"{prefix}_scale"] = np.asarray(np.float32(value.scale))
        made[f"{prefix}_zero_point"] = np.asarray(np.float32(value.zero_point))
    return made


def _put_limits(constants: dict[str, Array], prefix: str, low: float, high: float) -> None:
    constants[f"{prefix}_low"] = np.asarray(np.float32(low))
    constants[f"{prefix}_high"] = np.asarray(np.float32(high))


def _plain(low: float, high: float) -> bool:
    return low == -math.inf and high == math.inf


def _activation_limits(node: Node) -> tuple[float, float] | None:
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op == "Clip" and all(not name for name in node.inputs[1:]):
        low = float(str(node.attributes.get("min", -math.inf)))
        return low, float(str(node.attributes.get("max", math.inf)))
    return None


def _other_input(node: Node, tensor: str) -> str:
    return node.inputs[1] if node.inputs[0] == tensor else node.inputs[0]


def _integer_weights(stored: tuple[Array, Array, Array]) -> Array | None:
    """Symmetric int8 weights, or None where they are stored otherwise."""
    values, _, zero_point = stored
    if values.dtype == np.int8 and not np.any(zero_point):
        return values
    if values.dtype == np.uint8 and np.all(zero_point == 128):
        return (values.astype(np.int16) - 128).astype(np.int8)
    return None


def _same_memory(shape: tuple[int, ...]) -> bool:
    """Whether channels-first and channels-last are the same sequence in memory."""
    return len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1


def _pair(node: Node, name: str, default: tuple[int, int]) -> tuple[int, int]:
    given = node.attributes.get(name, default)
    assert isinstance(given, tuple)
    first, second = (int(value) for value in given)
    return first, second


def _pads(node: Node) -> tuple[int, int, int, int]:
    given = node.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(given, tuple)
    top, left, bottom, right = (int(value) for value in given)
    return top, left, bottom, right


def _convolution(
    node: Node, weight: Array, shape: tuple[int, ...]
) -> tuple[bool, dict[str, KernelAttribute]]:
    """Whether a Conv is depthwise, and its kernel's attributes."""
    group = int(str(node.attributes.get("group", 1)))
    attributes: dict[str, KernelAttribute] = {
        "kernel": (int(weight.shape[2]), int(weight.shape[3])),
        "strides": _pair(node, "strides", (1, 1)),
        "dilations": _pair(node, "dilations", (1, 1)),
        "pads": _pads(node),
    }
    depthwise = group > 1 and group == shape[1] == weight.shape[0]
    if not depthwise:
        attributes["groups"] = group
    return depthwise, attributes
