"""How many bytes a network takes, as a file and layer by layer."""

from __future__ import annotations

import math

from millifit.targets.importer.onnx_file import to_onnx
from millifit.targets.network import Network


def file_bytes(network: Network) -> int:
    """Size of the network's ONNX file."""
    return int(to_onnx(network).ByteSize())


def layer_bytes(network: Network) -> dict[str, int]:
    """Bytes of the weight and the bias of every layer, in the precision they are stored in.

    Scales and zero points are left out: 4 + 1 bytes per int8 channel.
    """
    producers = network.producers()

    def stored(tensor: str) -> int:
        maker = producers.get(tensor)
        constant = network.constants.get(maker.inputs[0] if maker is not None else tensor)
        if constant is None:
            return 0
        return math.ceil(constant.size / 2) if constant.dtype.name == "int4" else constant.nbytes

    return {n.name: sum(stored(t) for t in n.inputs[1:] if t) for n in network.layers}
