"""Which precisions a run chooses from, and the network with every layer in one of them."""

from __future__ import annotations

from collections.abc import Mapping

from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.compress.quantize.ranges import Range
from millifit.errors import UsageError
from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network
from millifit.targets.target import Precision, Target

# Each precision more is a sensitivity per layer and several kernels per layer to measure, so what
# seldom wins beside int8 is for those who ask for it.
_UNASKED: tuple[Precision, ...] = ("fp32", "int8", "w7a8")
_UNASKED_OF_GPUS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def offered(asked: tuple[Precision, ...] | None, target: Target) -> tuple[Precision, ...]:
    """The precisions that layers may have, fp32 first; `asked` is None where nobody asked.

    Raises UsageError for one that the target does not have.
    """
    if asked is None:
        worth = _UNASKED if target.gpu is None else _UNASKED_OF_GPUS
        return tuple(p for p in target.precisions if p in worth)
    missing = [p for p in asked if p not in target.precisions]
    if missing:
        raise UsageError(
            f"target '{target.name}' has no {missing[0]}: choose precisions from "
            f"{', '.join(target.precisions)}."
        )
    return tuple(dict.fromkeys(("fp32", *asked)))


def variant(
    network: Network,
    precision: Precision,
    ranges: Mapping[str, Range],
    *,
    depthwise: bool = False,
) -> Network:
    """The network with every layer in `precision` that can have it, as its ONNX file would be.

    `depthwise` layers are among them in 16 bits, too, where wanted; see `quantizable`.
    """
    made = quantize(network, quantizable(network, precision, depthwise=depthwise), ranges)
    return simplify(from_onnx(to_onnx(made), name=network.name))
