"""Constants that quantization adds to a network, and those it leaves without a reader."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from millifit.targets.network import Array, Network, Node, TensorType


def add_constant(
    constants: dict[str, Array], types: dict[str, TensorType], name: str, value: Array
) -> None:
    """Add a constant and its type."""
    constants[name] = value
    types[name] = TensorType(shape=value.shape, dtype=value.dtype.name)


def add_dequantized(
    layer: str,
    role: str,
    integers: Array,
    scale: npt.NDArray[np.float32],
    constants: dict[str, Array],
    types: dict[str, TensorType],
    *,
    block: int = 0,
) -> Node:
    """The DequantizeLinear of the new constants ``LAYER/ROLE_quantized``, ``.._scale`` and so on.

    `scale` is a scalar, one per output channel ``[O]``, or, with a `block` of so many inputs,
    ``[O, blocks]``.
    """
    stem = f"{layer}/{role}"
    add_constant(constants, types, f"{stem}_quantized", integers)
    add_constant(constants, types, f"{stem}_scale", scale)
    add_constant(constants, types, f"{stem}_zero_point", np.zeros(scale.shape, integers.dtype))
    types[f"{stem}_dequantized"] = TensorType(shape=integers.shape, dtype="float32")
    attributes = {"axis": 1, "block_size": block} if block else {"axis": 0} if scale.ndim else {}
    return Node(
        name=f"{stem}_dequantize",
        op="DequantizeLinear",
        inputs=(f"{stem}_quantized", f"{stem}_scale", f"{stem}_zero_point"),
        outputs=(f"{stem}_dequantized",),
        attributes=attributes,
    )


def without_unread(network: Network) -> Network:
    """The network without the constants that no node reads."""
    read = {t for node in network.nodes for t in node.inputs}
    gone = set(network.constants) - read
    return network.replace(
        constants={n: v for n, v in network.constants.items() if n not in gone},
        types={n: t for n, t in network.types.items() if n not in gone},
    )
