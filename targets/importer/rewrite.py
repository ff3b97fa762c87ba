"""Local rewriting of a network: a rule looks at one node and proposes an edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from millifit.targets.network import Array, Network, Node, TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Nodes to take out, and what takes the place of the last of them.

    `constants` and `types` are added. `alias` is a tensor to be read as another one: ``("y", "x")``
    makes every reader of ``y`` read ``x``.
    """

    remove: tuple[Node, ...]
    insert: tuple[Node, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    types: Mapping[str, TensorType] = field(default_factory=dict)
    alias: tuple[str, str] | None = None


class Graph:
    """A network with the look-ups that rules need."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.producers = network.producers()
        self._consumers = network.consumers()

    def constant(self, tensor: str) -> Array | None:
        """The value of a constant; None for a tensor that is computed, or absent."""
        return self.network.constants.get(tensor)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.network.types[tensor].shape

    def input(self, node: Node, position: int) -> str:
        """The name of an input, empty where it is absent."""
        return node.inputs[position] if position < len(node.inputs) else ""

    def readers(self, tensor: str) -> list[Node]:
        """The nodes that read a tensor."""
        return self._consumers.get(tensor, [])

    def sole_maker(self, tensor: str) -> Node | None:
        """The node that makes `tensor` for one reader alone, so that it may be merged with it."""
        if tensor in self.network.outputs or len(self.readers(tensor)) != 1:
            return None
        return self.producers.get(tensor)

    def fresh_tensor(self, wanted: str) -> str:
        """`wanted`, or a variation of it that no tensor has yet."""
        while wanted in self.network.types:
            wanted += "_"
        return wanted

    def fresh_node(self, wanted: str) -> str:
        """`wanted`, or a variation of it that no node has yet."""
        taken = {node.name for node in self.network.nodes}
        while wanted in taken:
            wanted += "_"
        return wanted


Rule = Callable[[Graph, Node], Edit | None]


def rewrite(network: Network, rules: Sequence[Rule]) -> Network:
    """Apply rules, the first that fits at each node, until none fits anywhere.

    Every rule must bring the network closer to a form it does not match. Returns `network` itself
    where nothing fits.
    """
    edited = True
    while edited:
        edited = False
        position = 0
        graph = Graph(network)
        while position < len(network.nodes):
            edit = _first_edit(graph, network.nodes[position], rules)
            if edit is None:
                position += 1
                continue
            network = _apply(network, edit)
            graph = Graph(network)
            edited = True
    return network


def _first_edit(graph: Graph, node: Node, rules: Sequence[Rule]) -> Edit | None:
    for rule in rules:
        edit = rule(graph, node)
        if edit is not None:
            return edit
    return None


def _apply(network: Network, edit: Edit) -> Network:
    removed = {node.name for node in edit.remove}
    last = max(i for i, node in enumerate(network.nodes) if node.name in removed)
    nodes: list[Node] = []
    for i, node in enumerate(network.nodes):
        if node.name not in removed:
            nodes.append(node)
        if i == last:
            nodes.extend(edit.insert)
    if edit.alias is not None:
        nodes = _rename(nodes, network, *edit.alias)
    constants = {**network.constants, **edit.constants}
    added = {n: TensorType(shape=v.shape, dtype=v.dtype.name) for n, v in edit.constants.items()}
    types = {**network.types, **edit.types, **added}
    return network.replace(nodes=tuple(nodes), constants=constants, types=types)


def _rename(nodes: list[Node], network: Network, old: str, new: str) -> list[Node]:
    """Join two tensors under `new`, or under `old` where that is the network's output."""
    if old in network.outputs:
        old, new = new, old

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    return [
        dataclasses.replace(node, inputs=renamed(node.inputs), outputs=renamed(node.outputs))
        for node in nodes
    ]
