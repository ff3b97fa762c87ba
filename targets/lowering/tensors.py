"""Where a network's tensors are while it is lowered, and the calls emitted so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from millifit.errors import ModelError
from millifit.targets.kernel import Kernel
from millifit.targets.lowering.batches import check_batch
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.program import Call
from millifit.targets.target import HALF, Target, activation_dtype

if TYPE_CHECKING:
    from millifit.targets.lowering.attention import Scores
    from millifit.targets.lowering.strided import Strided

HALF_DTYPES = tuple(activation_dtype(precision) for precision in HALF)


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
    """A quantized constant: ``(values - zero_point) * scale``, per tensor or along `axis`.

    With a `block`, so many neighbours along `axis` share an entry of `scale`, whose other axes are
    those of `values`.
    """

    values: Array
    scale: Array
    zero_point: Array
    axis: int
    block: int = 0

    @property
    def real(self) -> Array:
        """The float32 values it stands for."""
        if self.block:
            extent = self.values.shape[self.axis]

            def spread(given: Array) -> npt.NDArray[np.float32]:
                wide = np.repeat(given.astype(np.float32), self.block, axis=self.axis)
                return np.take(wide, np.arange(extent), axis=self.axis)

            zeros = np.broadcast_to(self.zero_point, self.scale.shape)
            return np.asarray((self.values.astype(np.float32) - spread(zeros)) * spread(self.scale))
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
        turned = replace(self, values=self.values.T, axis=1 - self.axis)
        if not self.block:
            return turned
        return replace(turned, scale=self.scale.T, zero_point=self.zero_point.T)


class Tensors:
    """The state of one lowering: values by the network's tensor, and the program so far.

    `real` has float values, `quantized` uint8 forms and `half` forms of 16 bits. `done`
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
        self.half: dict[str, Value] = {}
        # Not computed yet: how to compute it, and what it is to those who need not.
        self.deferred: dict[str, Callable[[], None]] = {}
        self.strided: dict[str, Strided] = {}
        self.scores: dict[str, Scores] = {}
        self._alone: set[str] = set()
        self.done: set[str] = set()

    def enter(self, name: str) -> None:
        """Start with an input of the network."""
        kind = self.network.types[name]
        check_batch(name, kind, self.target)
        self.types[name] = kind
        self.real[name] = Value(tensor=name, shape=kind.shape, dtype=kind.dtype, last=False)

    def leave(self, name: str) -> str:
        """The program's tensor of a network output: real values, channels first, of its own."""
        made = (self.real, self.quantized, self.deferred)
        if not any(name in tensors for tensors in made):
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
        """Real values of a tensor; made here where only uint8 or 16 bits exist, or nothing yet."""
        if tensor in self.deferred:
            self.deferred.pop(tensor)()
        if tensor in self.real:
            return self.real[tensor]
        if tensor in self.half:
            return self._widened(tensor)
        value = self.quantized[tensor]
        made = replace(value, tensor=f"{tensor}:real", dtype="float32", scale=0.0, zero_point=0)
        kernel = Kernel(op="dequantize", inputs=(value.type,), output=made.type, precision="fp32")
        self.emit(kernel, [value], made.tensor, scalars_of(input=value), (tensor,))
        self.real[tensor] = made
        return made

    def _widened(self, tensor: str) -> Value:
        half = self.half[tensor]
        made = replace(half, tensor=f"{tensor}:real", dtype="float32")
        if made.tensor not in self.types:
            kernel = Kernel(op="cast", inputs=(half.type,), output=made.type, precision="fp32")
            self.emit(kernel, [half], made.tensor, {}, (tensor,))
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
        """A constant's real values, also where the model stores integers or 16 bits."""
        if tensor in self.network.constants:
            return self.network.constants[tensor]
        if self.stored_half(tensor):
            held = self.network.constants[self.producers[tensor].inputs[0]]
            return held.astype(np.float32)
        stored = self.stored(tensor)
        return None if stored is None else stored.real

    def stored_half(self, tensor: str) -> str:
        """The 16-bit type of a constant behind a Cast to float32; empty for anything else."""
        node = self.producers.get(tensor)
        if node is None or node.op != "Cast" or node.inputs[0] not in self.network.constants:
            return ""
        stored = self.network.types[node.inputs[0]].dtype
        real = self.network.types[tensor].dtype == "float32"
        return stored if real and stored in HALF_DTYPES else ""

    def rounds(self, node: Node) -> bool:
        """Whether a node is a Cast to 16 bits that only Casts back to float32 read."""
        if node.op != "Cast" or node.outputs[0] in self.network.outputs:
            return False
        types = self.network.types
        if types[node.inputs[0]].dtype != "float32" or not self._is_half(node.outputs[0]):
            return False
        readers = self.consumers.get(node.outputs[0], [])
        return all(r.op == "Cast" and types[r.outputs[0]].dtype == "float32" for r in readers)

    def _is_half(self, tensor: str) -> bool:
        return self.network.types[tensor].dtype in HALF_DTYPES

    def stored(self, tensor: str) -> Stored | None:
        """The integers of a constant behind a DequantizeLinear."""
        node = self.producers.get(tensor)
        constants = self.network.constants
        if node is None or node.op != "DequantizeLinear" or node.inputs[0] not in constants:
            return None
        values, scale = constants[node.inputs[0]], constants[node.inputs[1]]
        zero_point: Array = np.zeros(scale.shape, values.dtype)
        if len(node.inputs) > 2 and node.inputs[2]:
            zero_point = constants[node.inputs[2]]
        axis = int(str(node.attributes.get("axis", 1))) % max(values.ndim, 1)
        block = int(str(node.attributes.get("block_size", 0)))
        if not block:
            scale, zero_point = scale.ravel(), zero_point.ravel()
        return Stored(values=values, scale=scale, zero_point=zero_point, axis=axis, block=block)

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
        if len(readers) != 1 or tensor in self.network.outputs or tensor in self._alone:
            return None
        return readers[0]

    def defer(self, tensor: str, compute: Callable[[], None]) -> None:
        """Put off computing a tensor until it is read; nothing is fused behind it then."""

        def now() -> None:
            self._alone.add(tensor)
            compute()

        self.deferred[tensor] = now


def scalars_of(**values: Value) -> dict[str, Array]:
    """``{"input_scale": ..., "input_zero_point": ...}`` for ``input=value`` and so on."""
    made: dict[str, Array] = {}
    for prefix, value in values.items():
        made[f"{prefix}_scale"] = np.asarray(np.float32(value.scale))
        made[f"{prefix}_zero_point"] = np.asarray(np.float32(value.zero_point))
    return made
