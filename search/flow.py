"""How values flow through a program: from which layers, to which readers, with whose channels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from millifit.search.plan_space import PlanSpace
from millifit.targets.kernel import Kernel
from millifit.targets.program import Call, Program

# These implement no node of the network: what they name are tensors.
MOVES = (
    *("quantize", "dequantize", "requantize", "cast"),
    *("reshape", "to_channels_first", "to_channels_last"),
)
_MOST_SOURCES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Channels of a tensor: `factor` for every channel kept of the `size` of `group`."""

    group: str
    size: int
    factor: int


class Flow:
    """Where each tensor of a program comes from, who reads it, and whose channels it has.

    By the tensor that a call writes: `layer` is its own layer if it is one, `sources` the layers
    that decide as what it exists (see `plan_costs`), `read` and `channels` the channels
    of its first input and of its output. `wanted` has, for every reader of a tensor, the layers
    that decide as what it reads it; `reshaped` are tensors that some reader sees in
    another shape.
    """

    def __init__(self, space: PlanSpace, program: Program) -> None:
        self.program = program
        self.layer: dict[str, str | None] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        self.wanted: dict[str, list[tuple[str, ...]]] = {}
        self.reshaped: set[str] = set()
        self.read: dict[str, Channels | None] = {}
        self.channels: dict[str, Channels | None] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        carried = {
            use.name: Channels(group=group.name, size=group.size, factor=use.factor)
            for group in space.groups
            if group.name in space.widths
            for use in group.tensors
        }
        nodes = {node.name: node for node in space.network.nodes}
        for call in program.calls:
            named = () if call.kernel.op in MOVES else call.nodes
            own = [nodes[name] for name in named if name in nodes]
            self._visit(call, next((n.name for n in own if n.name in space.precisions), None))
            # Flattening runs nothing, so a call may see its input with other channels than the
            # call that wrote it: the network's tensors know, and for moves their own shapes.
            if own:
                self.read[call.output] = carried.get(own[0].inputs[0])
                self.channels[call.output] = carried.get(own[-1].outputs[0])
            else:
                passed = self.channels.get(call.inputs[0])
                self.read[call.output] = self.channels[call.output] = _moved(call.kernel, passed)

    def _visit(self, call: Call, layer: str | None) -> None:
        before = [self.sources.get(tensor, ()) for tensor in call.inputs]
        if layer is None and len(before) == 1:
            sources = before[0]
        else:
            operands = before if layer is None else before[1:]  # a layer decides for its first
            nearest = (name for rank in itertools.zip_longest(*operands) for name in rank if name)
            own = () if layer is None else (layer,)
            sources = tuple(dict.fromkeys((*own, *nearest)))[:_MOST_SOURCES]
        self.layer[call.output] = layer
        self.sources[call.output] = sources
        for port, tensor in enumerate(call.inputs):
            decides = sources if layer is None or port > 0 else (layer,)
            self.wanted.setdefault(tensor, []).append(decides)
            if tensor in self._shapes and self._shapes[tensor] != call.kernel.inputs[port].shape:
                self.reshaped.add(tensor)
        self._shapes[call.output] = call.kernel.output.shape


def _moved(kernel: Kernel, channels: Channels | None) -> Channels | None:
    """The channels as a conversion or a change of layout sees them; None where it mixes them."""
    if channels is None:
        return None
    count = kernel.output.shape[1 if kernel.op == "to_channels_first" else -1]
    factor, mixed = divmod(count, channels.size)
    return None if mixed else replace(channels, factor=factor)
