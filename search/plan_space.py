"""What can be decided about a network: a precision per layer, a width per group of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from millifit.compress.prune.groups import ChannelGroup
from millifit.search.knapsack import Option
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import Precision

PRECISION = "precision:"
WIDTH = "width:"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpace:
    """What can be decided about a network, and the programs it becomes.

    `precisions` has the options of every layer, fp32 first. `widths` has the options of every
    channel group that may be pruned, its whole size first. `int8_program` is that of the network
    with every layer quantized that can be; None where the target has no int8.
    """

    network: Network
    precisions: Mapping[str, tuple[Precision, ...]]
    groups: tuple[ChannelGroup, ...]
    widths: Mapping[str, tuple[int, ...]]
    fp32_program: Program
    int8_program: Program | None

    def options(self, variable: str) -> tuple[Option, ...]:
        """The options of a variable, ``"precision:LAYER"`` or ``"width:GROUP"``."""
        if variable.startswith(PRECISION):
            return self.precisions[variable.removeprefix(PRECISION)]
        return self.widths[variable.removeprefix(WIDTH)]

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables: precisions in order of the layers, then widths in order of the groups."""
        return (*(PRECISION + name for name in self.precisions), *(WIDTH + g for g in self.widths))
