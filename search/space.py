"""A search space: what can be chosen of a network, and the network that a choice becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from millifit.search.knapsack import Option
from millifit.targets.network import Network

Candidate = Mapping[str, Option]
"""An option for every variable of a space, e.g. ``{"resolution": 160, "stage1.depth": 2, ...}``."""


class SearchSpace(Protocol):
    """Networks that differ in a few decisions."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in profiles."""
        ...

    @property
    def variables(self) -> Mapping[str, tuple[Option, ...]]:
        """The options of every variable, in order."""
        ...

    def network(self, candidate: Candidate) -> Network:
        """The network of a candidate, in normal form, batch 1, with weights that mean nothing.

        What is only decided for blocks that the candidate leaves out changes nothing. ValueError
        for a variable that is missing or unknown, or an option that it does not have.
        """
        ...


def random_candidate(space: SearchSpace, rng: np.random.Generator) -> Candidate:
    """Every variable's option drawn by itself, all alike in probability."""
    return {
        variable: options[int(rng.integers(len(options)))]
        for variable, options in space.variables.items()
    }


def check_candidate(space: SearchSpace, candidate: Candidate) -> None:
    """Raises ValueError where `candidate` is not one of `space`, naming the variable."""
    if odd := sorted(set(candidate) ^ set(space.variables)):
        raise ValueError(f"space '{space.name}': variables missing or unknown: {', '.join(odd)}")
    for variable, options in space.variables.items():
        if candidate[variable] not in options:
            raise ValueError(
                f"space '{space.name}': '{variable}' cannot be {candidate[variable]!r}; it is one "
                f"of {', '.join(map(str, options))}"
            )


def code_of(candidate: Candidate) -> str:
    """A candidate as one line, e.g. ``"resolution=160;stage1.depth=2"``, equal for equal ones."""
    return ";".join(f"{variable}={option}" for variable, option in sorted(candidate.items()))
