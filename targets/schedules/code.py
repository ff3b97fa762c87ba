"""What a schedule returns: a kernel's code and the operands it expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from millifit.targets.network import Array, TensorType
from millifit.targets.schedules.tir import PrimFunc

Constants = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCode:
    """A compiled-to-be kernel.

    `function` takes the kernel's activations, then `operands` (packed constants), then the output.
    `pack` turns the constants of a call, in the network's layout, into arrays of those types.
    """

    function: PrimFunc
    operands: tuple[TensorType, ...]
    pack: Callable[[Constants], tuple[Array, ...]]
