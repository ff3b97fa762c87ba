"""What can be decided about a network: a precision per layer, a width per group of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

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
    channel group that may be pruned, its whole size first. `programs` has, by precision, that of
    the network with every layer in it that can be.
    """

    network: Network
    precisions: Mapping[str, tuple[Precision, ...]]
    groups: tuple[ChannelGroup, ...]
    widths: Mapping[str, tuple[int, ...]]
    programs: Mapping[Precision, Program]

    def options(self, variable: str) -> tuple[Option, ...]:
        """The options of a variable, ``"precision:LAYER"`` or ``"width:GROUP"``."""
        if variable.startswith(PRECISION):
            return self.precisions[variable.removeprefix(PRECISION)]
        return self.widths[variable.removeprefix(WIDTH)]

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables: precisions in order of the layers, then widths in order of the groups."""
        return (*(PRECISION + name for name in self.precisions), *(WIDTH + g for g in self.widths))


def precision_of(option: Option) -> Precision:
    """An option of a layer's variable as what it is. ValueError for anything else."""
    if option not in get_args(Precision):
        raise ValueError(f"{option!r} is no precision")
    return cast("Precision", option)
