"""Whether something resembles what a model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.prediction import Floats

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Familiarity:
    """The range of every feature among the subjects that a model was fitted to: ``[features]``.

    With one-hot features a choice that was never seen is outside of its range, too.
    """

    lowest: Floats
    highest: Floats

    @classmethod
    def of(cls, x: Floats) -> Self:
        """The ranges of features ``[n, features]``; ValueError for no rows."""
        if not len(x):
            raise ValueError("no subjects to know the features of")
        return cls(lowest=x.min(axis=0), highest=x.max(axis=0))

    def outside(self, x: Floats) -> Floats:
        """How far each row of ``[n, features]`` leaves the ranges, in the unit of the feature that
        leaves farthest: ``[n]``, 0 for what lies within.
        """
        beyond = np.maximum(self.lowest - x, x - self.highest).max(axis=1, initial=0.0)
        distance: Floats = np.where(beyond > _ROUNDING, beyond, 0.0)
        return distance

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(kind="familiarity", arrays={"lowest": self.lowest, "highest": self.highest})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The ranges that `to_state` described."""
        return cls(lowest=state.array("lowest"), highest=state.array("highest"))
