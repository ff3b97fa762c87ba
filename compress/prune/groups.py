"""Channel groups: channels of a network that can only be removed together.

The output channels of a convolution live on in activations, pooling, depthwise convolutions and
additions until a layer mixes them into new ones. An addition ties the channels of both sides::

    conv1 -> Relu -> dwconv2 -> conv3 --+
       group "conv1": conv1, dwconv2    Add -> conv5      group "conv3": conv3 and conv4
    conv4 ------------------------------+
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from millifit.targets.network import Network, Node

_CHANNELWISE = (
    *("AveragePool", "Clip", "Elu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid"),
    *("HardSwish", "LeakyRelu", "MaxPool", "Relu", "Sigmoid", "Tanh"),
)
_BINARY = ("Add", "Div", "Mul", "Sub")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A layer or tensor in which every channel of a group appears as `factor` neighbours.

    The factor is 1 but behind Flatten: ``[1, C, H, W]`` becomes ``[1, C*H*W]``, factor ``H*W``;
    and behind a depthwise convolution with a multiplier.
    """

    name: str
    factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """`size` channels that are removed or kept together in all layers that have them.

    `producers` have them as output channels; `members` are depthwise convolutions on them;
    `consumers` have them as input channels; `tensors` carry them on axis 1. The name is the first
    producer's.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    members: tuple[Use, ...]
    consumers: tuple[Use, ...]
    tensors: tuple[Use, ...]


def channel_groups(network: Network) -> tuple[ChannelGroup, ...]:
    """The groups that can be pruned, in order of the graph.

    Left out are groups that reach the network's inputs or outputs or an operator that is not
    understood (Concat, reshapes other than flattening, Softmax, grouped convolutions), and those
    of layers that share a weight.
    """
    walk = _Walk(network)
    for node in network.nodes:
        walk.visit(node)
    return walk.groups()


class _Walk:
    """Follows channels through the graph; sets of tied channels are merged as they meet."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._layers = {node.name for node in network.layers}
        self._readers = network.consumers()
        self._parent: dict[str, str] = {}
        self._frozen: set[str] = set()
        self._size: dict[str, int] = {}
        self._factor: dict[str, int] = {}
        self._channels: dict[str, str] = {}
        self._producers: list[tuple[str, str]] = []
        self._members: list[tuple[str, Use]] = []
        self._consumers: list[tuple[str, Use]] = []
        for tensor in network.inputs:
            self._freeze(self._new(tensor))

    def visit(self, node: Node) -> None:
        """Tie the channels of the node's output to those of its inputs, or make new ones."""
        if node.name in self._layers:
            self._layer(node)
        elif node.op in _BINARY:
            self._binary(node)
        elif node.op in _CHANNELWISE or self._reduces_places(node) or self._pads_places(node):
            self._carry(node, 1)
        elif self._flattens(node):
            places = self._shape(node.inputs[0])[2:]
            self._carry(node, math.prod(places))
        else:
            self._give_up(node)

    def groups(self) -> tuple[ChannelGroup, ...]:
        """What can be pruned."""
        for tensor in self._network.outputs:
            self._freeze(tensor)
        frozen = {self._root(channels) for channels in self._frozen}
        found = []
        for root in dict.fromkeys(self._root(channels) for channels in self._size):
            producers = tuple(n for channels, n in self._producers if self._root(channels) == root)
            if root in frozen or not producers:
                continue
            found.append(
                ChannelGroup(
                    name=producers[0],
                    size=self._size[root],
                    producers=producers,
                    members=self._uses(self._members, root),
                    consumers=self._uses(self._consumers, root),
                    tensors=tuple(
                        Use(name=tensor, factor=self._factor[tensor])
                        for tensor, channels in self._channels.items()
                        if self._root(channels) == root
                    ),
                )
            )
        return tuple(found)

    def _uses(self, found: list[tuple[str, Use]], root: str) -> tuple[Use, ...]:
        return tuple(use for channels, use in found if self._root(channels) == root)

    def _layer(self, node: Node) -> None:
        x, y = node.inputs[0], node.outputs[0]
        weight = self._network.constants.get(node.inputs[1])
        shared = any(len(self._readers[t]) > 1 for t in node.inputs[1:] if t)
        rows_first = node.op == "Conv" or node.attributes.get("transB", 0) == 1
        if weight is None or shared or not rows_first or x not in self._channels:
            self._give_up(node)
            return
        groups = int(str(node.attributes.get("group", 1))) if node.op == "Conv" else 1
        if groups == 1:
            self._consumers.append((self._channels[x], Use(name=node.name, factor=self._factor[x])))
            self._producers.append((self._new(y), node.name))
        elif groups == self._shape(x)[1]:
            self._carry(node, len(weight) // groups)
            self._members.append((self._channels[y], Use(name=node.name, factor=self._factor[y])))
        else:
            self._give_up(node)

    def _binary(self, node: Node) -> None:
        read = [t for t in node.inputs if t not in self._network.constants]
        constants = [self._network.constants[t] for t in node.inputs if t not in read]
        y, shape = node.outputs[0], self._shape(node.outputs[0])
        fits = all(
            len(self._shape(t)) == len(shape) and self._shape(t)[1] == shape[1] for t in read
        )
        known = all(t in self._channels for t in read)
        same = known and len({self._factor[t] for t in read}) == 1
        if not (fits and same) or any(value.size > 1 for value in constants):
            self._give_up(node)
            return
        self._channels[y], self._factor[y] = self._channels[read[0]], self._factor[read[0]]
        for tensor in read[1:]:
            self._merge(self._channels[read[0]], self._channels[tensor])

    def _carry(self, node: Node, factor: int) -> None:
        x, y = node.inputs[0], node.outputs[0]
        if x not in self._channels:
            self._give_up(node)
            return
        self._channels[y], self._factor[y] = self._channels[x], self._factor[x] * factor

    def _give_up(self, node: Node) -> None:
        """Nothing is known of the channels behind this node; those before it must stay."""
        for tensor in node.inputs:
            self._freeze(tensor)
        for tensor in node.outputs:
            if len(self._shape(tensor)) > 1:
                self._freeze(self._new(tensor))

    def _reduces_places(self, node: Node) -> bool:
        if node.op != "ReduceMean" or not node.attributes.get("keepdims", 1):
            return False
        axes = node.attributes.get("axes", ())
        if len(node.inputs) > 1:
            axes = tuple(int(a) for a in self._network.constants.get(node.inputs[1], ()))
        rank = len(self._shape(node.inputs[0]))
        return isinstance(axes, tuple) and bool(axes) and all(int(a) % rank > 1 for a in axes)

    def _pads_places(self, node: Node) -> bool:
        if node.op != "Pad" or len(node.inputs) < 2:
            return False
        pads = self._network.constants.get(node.inputs[1])
        rank = len(self._shape(node.inputs[0]))
        fixed = len(node.inputs) < 4 and pads is not None and len(pads) == 2 * rank
        return fixed and pads is not None and not (pads[:2].any() or pads[rank : rank + 2].any())

    def _flattens(self, node: Node) -> bool:
        """Whether ``[N, C, *places]`` becomes ``[N, C * places]``."""
        if node.op not in ("Flatten", "Reshape", "Squeeze"):
            return False
        before, after = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        return len(before) > 1 and after == (before[0], math.prod(before[1:]))

    def _shape(self, tensor: str) -> tuple[int, ...]:
        return self._network.types[tensor].shape

    def _new(self, tensor: str) -> str:
        shape = self._shape(tensor)
        self._parent[tensor] = tensor
        self._size[tensor] = shape[1] if len(shape) > 1 else 1
        self._channels[tensor], self._factor[tensor] = tensor, 1
        return tensor

    def _freeze(self, tensor: str) -> None:
        if tensor in self._channels:
            self._frozen.add(self._channels[tensor])

    def _merge(self, a: str, b: str) -> None:
        first, second = self._root(a), self._root(b)
        self._parent[second] = first

    def _root(self, channels: str) -> str:
        while self._parent[channels] != channels:
            channels = self._parent[channels]
        return channels
