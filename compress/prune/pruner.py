"""Remove channels: smaller layers that compute what the large ones did with those channels zero."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from millifit.compress.evaluate import Floats
from millifit.compress.prune.groups import ChannelGroup, Use, channel_groups
from millifit.compress.prune.importance import Scores, magnitude_importance
from millifit.compress.prune.restore import restore_statistics
from millifit.errors import ModelError
from millifit.targets.network import Array, Network, TensorType

Kept = npt.NDArray[np.int64]


def widths_for(
    group: ChannelGroup, *, step: int, minimum_fraction: float = 0.25
) -> tuple[int, ...]:
    """Widths worth trying, ascending: multiples of `step`, and the full size.

    >>> group = ChannelGroup(
    ...     name="conv", size=60, producers=("conv",), members=(), consumers=(), tensors=()
    ... )
    >>> widths_for(group, step=16, minimum_fraction=0.5)
    (32, 48, 60)
    """
    if step < 1 or not 0 < minimum_fraction <= 1:
        raise ValueError(f"step {step} must be >= 1, fraction {minimum_fraction} in (0, 1]")
    least = math.ceil(math.ceil(group.size * minimum_fraction) / step) * step
    return (*range(least, group.size, step), group.size)


def prune(
    network: Network,
    widths: Mapping[str, int],
    *,
    importances: Mapping[str, Scores] | None = None,
    samples: Floats | None = None,
) -> Network:
    """The network with `widths` channels kept of each group named, the others whole.

    `importances` ``[size]`` say which channels stay (the largest, in their original order); groups
    without use `magnitude_importance`. With `samples` ``[N, *sample]`` the activations' statistics
    are restored (`restore_statistics`). ModelError for an unknown group or an impossible width.
    """
    groups = {group.name: group for group in channel_groups(network)}
    for name, width in widths.items():
        if name not in groups:
            raise ModelError(f"'{network.name}' has no channel group '{name}' that can be pruned")
        if not 1 <= width <= groups[name].size:
            raise ModelError(f"group '{name}' has {groups[name].size} channels, not {width}")
    constants, types = dict(network.constants), dict(network.types)
    kept_of_layers: dict[str, Kept] = {}
    for name, width in widths.items():
        group = groups[name]
        if width < group.size:
            given = (importances or {}).get(name)
            scores = magnitude_importance(network, group) if given is None else given
            kept = keep_largest(scores, width)
            _slice_group(network, group, kept, constants, types)
            kept_of_layers |= dict.fromkeys(group.producers, kept)
            kept_of_layers |= {m.name: neighbours(kept, m.factor) for m in group.members}
    pruned = _with_shapes(network.replace(constants=constants, types=types))
    if samples is None or not kept_of_layers:
        return pruned
    return restore_statistics(network, pruned, kept_of_layers, samples)


def keep_largest(scores: Scores, width: int) -> Kept:
    """Places of the `width` largest scores, ascending; the earlier channel wins a draw."""
    return np.sort(np.argsort(-scores, kind="stable")[:width])


def _slice_group(
    network: Network,
    group: ChannelGroup,
    kept: Kept,
    constants: dict[str, Array],
    types: dict[str, TensorType],
) -> None:
    def take(constant: str, axis: int, factor: int) -> None:
        constants[constant] = np.take(constants[constant], neighbours(kept, factor), axis=axis)
        types[constant] = dataclasses.replace(types[constant], shape=constants[constant].shape)

    made = [Use(name=name, factor=1) for name in group.producers]
    for use in (*made, *group.members):
        for constant in network.node(use.name).inputs[1:]:
            if constant:
                take(constant, 0, use.factor)
    for use in group.consumers:
        take(network.node(use.name).inputs[1], 1, use.factor)
    for use in group.tensors:
        shape = types[use.name].shape
        sliced = (shape[0], len(kept) * use.factor, *shape[2:])
        types[use.name] = dataclasses.replace(types[use.name], shape=sliced)


def neighbours(kept: Kept, factor: int) -> Kept:
    """Places of channels that appear as `factor` neighbours: ``[0, 2], 3 -> [0,1,2, 6,7,8]``."""
    return np.asarray((kept[:, None] * factor + np.arange(factor)).reshape(-1))


def _with_shapes(network: Network) -> Network:
    """Depthwise group counts and the shapes that flatten, as the types have them now."""
    constants, types = dict(network.constants), dict(network.types)
    nodes = []
    for node in network.nodes:
        changed = node
        if node.op == "Conv" and node.attributes.get("group", 1) != 1:
            weight, x = types[node.inputs[1]].shape, types[node.inputs[0]].shape
            if weight[1] == 1:
                changed = dataclasses.replace(node, attributes={**node.attributes, "group": x[1]})
        elif node.op == "Reshape" and node.inputs[1] in constants:
            shape = np.array(types[node.outputs[0]].shape, dtype=np.int64)
            name = f"{node.outputs[0]}/shape"
            constants[name] = shape
            types[name] = TensorType(shape=shape.shape, dtype="int64")
            changed = dataclasses.replace(node, inputs=(node.inputs[0], name))
        nodes.append(changed)
    read = {t for node in nodes for t in node.inputs}
    unread = set(constants) - read
    return network.replace(
        nodes=tuple(nodes),
        constants={n: v for n, v in constants.items() if n not in unread},
        types={n: t for n, t in types.items() if n not in unread},
    )
