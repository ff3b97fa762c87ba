"""Tensors that no kernel can be written for: without elements, or with too many."""

from __future__ import annotations

from millifit.errors import ModelError
from millifit.targets.network import Network

# Kernels count elements in 32 bits, some of them behind the last one.
_MOST_ELEMENTS = 2**31 - 2**16


def check_sizes(network: Network) -> None:
    """Raise ModelError naming the node that makes, or the input that is, such a tensor."""
    makers = [(f"node '{node.name}' ({node.op})", node.outputs) for node in network.nodes]
    for subject, tensors in (("the model", network.inputs), *makers):
        for name in tensors:
            if not name:
                continue
            kind = network.types[name]
            if kind.elements == 0:
                raise ModelError(
                    f"{subject} has a tensor '{name}' of shape {kind.shape}, which has no elements"
                )
            if kind.elements > _MOST_ELEMENTS:
                raise ModelError(
                    f"{subject} has a tensor '{name}' of shape {kind.shape}: more elements than "
                    "32 bits can index. Make the model's input smaller."
                )
