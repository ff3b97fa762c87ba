"""Signals as maps of height 1: what runs along one axis runs on the kernels of two."""

from __future__ import annotations

import dataclasses

import numpy as np

from millifit.targets.importer.rewrite import Graph
from millifit.targets.lowering.rewriting import changed, elementwise
from millifit.targets.network import Array, AttributeValue, Network, Node, TensorType

_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
_WHOLE = ("GlobalAveragePool", "GlobalMaxPool")
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "PRelu")


def widened(network: Network) -> Network:
    """The network with tensors ``(N, C, L)`` of convolutions and pools as maps ``(N, C, 1, L)``.

    The elementwise operators between them follow. Squeeze and Unsqueeze stand where other operators
    read or make a signal. Names of layers stay; a network without signals is returned as it is.
    """
    seeds = (*_WINDOWS, *_WHOLE)
    rank = {name: len(kind.shape) for name, kind in network.types.items()}
    if not any(node.op in seeds and rank[node.inputs[0]] == 3 for node in network.nodes):
        return network
    return _Widening(network).run()


class _Widening:
    """The network so far: `wide` has the map of every signal that has one."""

    def __init__(self, network: Network) -> None:
        self.network, self.graph = network, Graph(network)
        self.constants: dict[str, Array] = dict(network.constants)
        self.types: dict[str, TensorType] = dict(network.types)
        self.nodes: list[Node] = []
        self.wide: dict[str, str] = {}
        self.narrow: set[str] = set(network.inputs)

    def run(self) -> Network:
        for node in self.network.nodes:
            made = self._window(node) or self._alike(node)
            if made is None:
                for name in node.inputs:
                    self._squeeze(name)
                self.nodes.append(node)
                self.narrow.update(node.outputs)
                continue
            self.nodes.append(made)
        for name in self.network.outputs:
            self._squeeze(name)
        return self.network.replace(
            nodes=tuple(self.nodes), constants=self.constants, types=self.types
        )

    def _rank(self, tensor: str) -> int:
        return len(self.network.types[tensor].shape)

    def _map_of(self, tensor: str) -> str:
        """The name that a signal has as a map, declared."""
        name = self.graph.fresh_tensor(f"{tensor}:map")
        kind = self.network.types[tensor]
        self.types[name] = dataclasses.replace(kind, shape=_with_height(kind.shape))
        self.wide[tensor] = name
        return name

    def _read(self, tensor: str) -> str:
        """A signal as a map, unsqueezed here where it has not been."""
        if tensor not in self.wide:
            name = self._map_of(tensor)
            self.nodes.append(_view("Unsqueeze", tensor, name))
        return self.wide[tensor]

    def _squeeze(self, tensor: str) -> None:
        """Make a signal out of its map, for a reader that knows no maps."""
        if tensor in self.wide and tensor not in self.narrow:
            self.nodes.append(_view("Squeeze", self.wide[tensor], tensor))
            self.narrow.add(tensor)

    def _window(self, node: Node) -> Node | None:
        """A convolution or a pool of a signal, as one of a map."""
        if node.op not in (*_WINDOWS, *_WHOLE) or self._rank(node.inputs[0]) != 3:
            return None
        if any(self.graph.readers(name) for name in node.outputs[1:]):
            return None
        inputs = [*node.inputs]
        if node.op in ("Conv", "ConvTranspose"):
            weight = changed(
                self.graph, node.inputs[1], "map", lambda v, _: v[:, :, None], lambda s: s,
                axis=int(node.op == "ConvTranspose"),
            )  # fmt: skip
            if weight is None or (node.op == "ConvTranspose" and weight.nodes):
                return None
            self.nodes += weight.nodes
            self.constants |= weight.constants
            self.types |= weight.types
            inputs[1] = weight.tensor
        inputs[0] = self._read(node.inputs[0])
        attributes = {name: _wide_attribute(name, v) for name, v in node.attributes.items()}
        outputs = (self._map_of(node.outputs[0]), *node.outputs[1:])
        return dataclasses.replace(
            node, inputs=tuple(inputs), outputs=outputs, attributes=attributes
        )

    def _alike(self, node: Node) -> Node | None:
        """An operator that does the same on a map, if what it reads is a map already."""
        read = [n for n in node.inputs if n and self.graph.constant(n) is None]
        if not read or not all(name in self.wide for name in read):
            return None
        if node.op == "Flatten" and node.attributes.get("axis", 1) == 1:
            self.narrow.update(node.outputs)
            return dataclasses.replace(node, inputs=(self.wide[node.inputs[0]],))
        attributes = dict(node.attributes)
        if node.op == "Concat":
            axis = int(str(attributes["axis"])) % 3
            attributes["axis"] = axis + (axis == 2)
        elif node.op not in _BROADCASTING and not elementwise(self.graph, node):
            return None
        inputs = [self.wide.get(name) or self._constant(name) for name in node.inputs]
        if any(name is None for name in inputs):
            return None
        outputs = (self._map_of(node.outputs[0]),)
        return dataclasses.replace(
            node, inputs=tuple(str(n) for n in inputs), outputs=outputs, attributes=attributes
        )

    def _constant(self, name: str) -> str | None:
        """A constant operand with an axis for the height; a scalar as it is."""
        value = self.graph.constant(name)
        if value is None or value.size <= 1:
            return name if value is not None or not name else None
        if value.ndim > 3:
            return None
        made = self.graph.fresh_tensor(f"{name}:map")
        full = value.reshape((1,) * (3 - value.ndim) + value.shape)
        self.constants[made] = np.ascontiguousarray(full[:, :, None])
        self.types[made] = TensorType(shape=_with_height(full.shape), dtype=value.dtype.name)
        return made


def _with_height(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 1, shape[2])


def _view(op: str, source: str, made: str) -> Node:
    return Node(name=f"{made}:{op}", op=op, inputs=(source,), outputs=(made,))


def _wide_attribute(name: str, value: AttributeValue) -> AttributeValue:
    """Attributes of a window along one axis for one along two."""
    if not isinstance(value, tuple):
        return value
    along = tuple(int(item) for item in value)
    match name:
        case "pads":
            return (0, along[0], 0, along[1])
        case "output_padding":
            return (0, *along)
        case "output_shape":
            return (1, *along)
        case "kernel_shape" | "strides" | "dilations":
            return (1, *along)
    return value
