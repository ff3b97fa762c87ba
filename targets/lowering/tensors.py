"""Where a network's tensors are while it is lowered, and the calls emitted so far."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from millifit.errors import ModelError
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.program import Call
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
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
        """Shape and element type as a kernel sees them."""
        return TensorType(shape=self.shape, dtype=self.dtype)

    def same_quantization(self, other: Value) -> bool:
        """Whether both stand for the same real values."""
        return self.scale == other.scale and self.zero_point == other.zero_point


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A quantized constant: ``(values - zero_point) * scale``, per tensor or along `axis`."""

    values: Array
    scale: Array
    zero_point: Array
    axis: int

    @property
    def real(self) -> Array:
        """The float32 values it stands for."""
        shape = [1] * self.values.ndim
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        shift = self.zero_point.astype(np.float32)
        shift = shift.reshape(shape if shift.size > 1 else [1] * self.values.ndim)
        scale = self.scale.astype(np.float32).reshape(shape)
        return np.asarray((self.values.astype(np.float32) - shift) * scale)

    @property
    def transposed(self) -> Stored:
        """The same of a matrix, rows and columns exchanged."""
        return replace(self, values=self.values.T, axis=1 - self.axis)


class Tensors:
    """The state of one lowering: values by the network's tensor, and the program so far.

    `real` has float values and `quantized` uint8 forms; a tensor may have either or both. `done`
    names the nodes that were lowered, as anchors or fused into one.
    """

    def __init__(self, network: Network, target: Target) -> None:
        self.network = network
        self.target = target
        self.consumers = network.consumers()
        self.producers = network.producers()
        self.calls: list[Call] = []
        self.types: dict[str, TensorType] = {}
        # Real values of a network's tensor, and the uint8 form it also or only has.
        self.real: dict[str, Value] = {}
        self.quantized: dict[str, Value] = {}
        self.done: set[str] = set()

    def enter(self, name: str) -> None:
        """Start with an input of the network."""
        kind = self.network.types[name]
        if len(kind.shape) == 4 and kind.shape[0] != 1:
            raise ModelError(
                f"the model's input '{name}' has batch {kind.shape[0]}; millifit fits the latency "
                "of one inference: export the model with batch 1, or pass --input-shape 1,..."
            )
        self.types[name] = kind
        self.real[name] = Value(tensor=name, shape=kind.shape, dtype=kind.dtype, last=False)

    def leave(self, name: str) -> str:
        """The program's tensor of a network output: real values, channels first, of its own."""
        if name not in self.real and name not in self.quantized:
            raise ModelError(f"output '{name}' of the network is made by nothing that is lowered")
        value = self.first(name)
        shape = self.network.types[name].shape
        borrowed = value.tensor in self.network.inputs or self.types[value.tensor].shape != shape
        if not borrowed:
            return value.tensor
        self.types[name] = TensorType(shape=shape, dtype=value.dtype)
        kernel = Kernel(
            op="reshape", inputs=(value.type,), output=self.types[name], precision="fp32"
        )
        self.emit(kernel, [value], name, {}, ())
        return name

    def emit(
        self,
        kernel: Kernel,
        inputs: list[Value],
        output: str,
        constants: dict[str, Array],
        nodes: tuple[str, ...],
    ) -> None:
        """Append a call that makes `output`."""
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

    def real_of(self, tensor: str) -> Value:
        """Real values of a tensor; dequantized here where only uint8 exists."""
        if tensor in self.real:
            return self.real[tensor]
        value = self.quantized[tensor]
        made = replace(value, tensor=f"{tensor}:real", dtype="float32", scale=0.0, zero_point=0)
        kernel = Kernel(op="dequantize", inputs=(value.type,), output=made.type, precision="fp32")
        self.emit(kernel, [value], made.tensor, scalars_of(input=value), (tensor,))
        self.real[tensor] = made
        return made

    def last(self, value: Value, tensor: str) -> Value:
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
            self.emit(kernel, [value], made.tensor, {}, (tensor,))
        return made

    def first(self, tensor: str) -> Value:
        """Real values of a tensor in ONNX's own layout."""
        value = self.real_of(tensor)
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
            self.emit(kernel, [value], made.tensor, {}, (tensor,))
        return made

    def shape_last(self, tensor: str) -> tuple[int, ...]:
        """A tensor's shape with channels last."""
        shape = self.network.types[tensor].shape
        return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape

    def constant(self, tensor: str) -> Array | None:
        """A constant's real values, dequantized where the model stores integers."""
        if tensor in self.network.constants:
            return self.network.constants[tensor]
        stored = self.stored(tensor)
        return None if stored is None else stored.real

    def stored(self, tensor: str) -> Stored | None:
        """The integers of a constant behind a DequantizeLinear."""
        node = self.producers.get(tensor)
        constants = self.network.constants
        if node is None or node.op != "DequantizeLinear" or node.inputs[0] not in constants:
            return None
        values, scale = constants[node.inputs[0]], constants[node.inputs[1]]
        zero_point = np.zeros(scale.shape, values.dtype)
        if len(node.inputs) > 2 and node.inputs[2]:
            zero_point = constants[node.inputs[2]]
        axis = int(str(node.attributes.get("axis", 1))) % max(values.ndim, 1)
        return Stored(values=values, scale=scale.ravel(), zero_point=zero_point.ravel(), axis=axis)

    def quantization(self, node: Node) -> tuple[float, int]:
        """Scale and uint8 zero point of a QuantizeLinear or DequantizeLinear of an activation."""
        constants = self.network.constants
        if any(name and name not in constants for name in node.inputs[1:]):
            raise ModelError(f"node '{node.name}': scale and zero point must be constants")
        scale = constants[node.inputs[1]]
        zero_point: Array = np.zeros((), np.uint8)
        if len(node.inputs) > 2 and node.inputs[2]:
            zero_point = constants[node.inputs[2]]
        integers = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
        kind = self.network.types[integers].dtype  # also where there is no zero point
        if scale.size != 1 or kind not in ("uint8", "int8"):
            raise ModelError(
                f"node '{node.name}' ({node.op}): activations are quantized per tensor to uint8 or "
                f"int8; this one has {scale.size} scales and type {kind}"
            )
        shift = 128 if kind == "int8" else 0
        return float(scale.ravel()[0]), int(zero_point.ravel()[0]) + shift

    def only_reader(self, tensor: str) -> Node | None:
        """The one node that needs a tensor; None where there are several, or it is an output."""
        readers = self.consumers.get(tensor, [])
        if len(readers) != 1 or tensor in self.network.outputs:
            return None
        return readers[0]


def scalars_of(**values: Value) -> dict[str, Array]:
    """``{"input_scale": ..., "input_zero_point": ...}`` for ``input=value`` and so on."""
    made: dict[str, Array] = {}
    for prefix, value in values.items():
        made[f"{prefix}_scale"] = np.asarray(np.float32(value.scale))
        made[f"{prefix}_zero_point"] = np.asarray(np.float32(value.zero_point))
    return made
