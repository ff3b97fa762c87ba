"""Architectures as rows of numbers: one matrix whose features know which group they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.latency_models.prediction import Flags, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Architectures of one space: features ``[n, features]``, with a name and a group for each.

    A group is a set of features that say the same kind of thing (the operators on the edges; how
    many of each there are); a model gives each group a weight of its own. `known` ``[n]`` is False
    where an architecture has a choice that its space does not have: its features leave that
    choice out, and no model should trust them.
    """

    x: Floats
    names: tuple[str, ...]
    groups: tuple[str, ...]
    known: Flags

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.x.shape[1] != len(self.names):
            raise ValueError(
                f"needs [n, {len(self.names)}] values, one per name, got {self.x.shape}"
            )
        if len(self.groups) != len(self.names) or len(self.known) != len(self.x):
            raise ValueError("needs one group per feature and one flag per architecture")

    @classmethod
    def of(cls, groups: Mapping[str, tuple[tuple[str, ...], Floats]], *, known: Flags) -> Self:
        """From named groups, each the names of its features and their values ``[n, features]``."""
        return cls(
            x=np.column_stack([values for _, values in groups.values()]).astype(np.float64),
            names=tuple(
                f"{group} {name}" for group, (names, _) in groups.items() for name in names
            ),
            groups=tuple(group for group, (names, _) in groups.items() for _ in names),
            known=known,
        )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: npt.NDArray[np.intp] | Flags) -> Encoded:
        """Some of the architectures, by number or by flag."""
        return Encoded(x=self.x[rows], names=self.names, groups=self.groups, known=self.known[rows])

    def group(self, name: str) -> Floats:
        """The features of one group: ``[n, features of the group]``; KeyError if there is none."""
        columns = [number for number, group in enumerate(self.groups) if group == name]
        if not columns:
            raise KeyError(f"no group '{name}'; there are {', '.join(dict.fromkeys(self.groups))}")
        return self.x[:, columns]
