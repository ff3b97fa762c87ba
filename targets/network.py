"""A network as a value: the ONNX graph with every shape known.

One representation serves all stages: it is read from ONNX (`onnx_file.read_network`), compressed by
functions from network to network (`millifit.compress`), and lowered to kernels (`lower.lower`).
A quantized network carries QuantizeLinear / DequantizeLinear nodes, exactly as its ONNX file does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes  # noqa: F401 - NumPy knows "bfloat16" and "int4" by it
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """Shape and element type of a tensor, e.g. ``(1, 32, 112, 112)`` of ``"float32"``."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator of the graph. An absent optional input is the empty string, as in ONNX."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Nodes in execution order, constants, and the type of every tensor, in ONNX's NCHW layout.

    Node names are unique and not empty. `types` has every input, constant and node output.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    types: Mapping[str, TensorType]
    opset: int

    def producers(self) -> dict[str, Node]:
        """The node that makes each tensor (inputs and constants have none)."""
        return {out: node for node in self.nodes for out in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor, in order; a tensor nobody reads is absent."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    def node(self, name: str) -> Node:
        """The node of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def replace(self, **changes: object) -> Network:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # checked by callers

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes that carry a weight to be compressed: Conv and Gemm with constant weights.

        In a quantized network the weight is constant behind a DequantizeLinear, or behind a Cast
        where it is stored in 16 bits.
        """
        made = self.producers()

        def constant(tensor: str) -> bool:
            node = made.get(tensor)
            if node is not None and node.op in ("Cast", "DequantizeLinear"):
                return node.inputs[0] in self.constants
            return tensor in self.constants

        return tuple(n for n in self.nodes if n.op in ("Conv", "Gemm") and constant(n.inputs[1]))

    @property
    def constant_bytes(self) -> int:
        """Bytes of all weights and other constants."""
        return sum(int(value.nbytes) for value in self.constants.values())
