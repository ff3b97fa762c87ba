"""Multiply-adds of a network, counted from its graph."""

from __future__ import annotations

import numpy as np

from millifit.targets.network import Network


def macs_by_node(network: Network) -> dict[str, int]:
    """Multiply-adds of every convolution and matrix product, by the node's name.

    Nothing else is counted: that is how papers count, and why a fraction of the peak is low where
    a network does much else.
    """
    found = {}
    for node in network.nodes:
        made = network.types[node.outputs[0]]
        match node.op:
            case "Conv":
                weight = network.types[node.inputs[1]].shape
                found[node.name] = made.elements * int(np.prod(weight[1:]))
            case "ConvTranspose":
                weight = network.types[node.inputs[1]].shape
                found[node.name] = network.types[node.inputs[0]].elements * int(np.prod(weight[1:]))
            case "Gemm" | "MatMul":
                axis = 0 if node.attributes.get("transA", 0) else -1
                found[node.name] = made.elements * network.types[node.inputs[0]].shape[axis]
    return found
