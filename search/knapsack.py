"""A multiple-choice knapsack with coupled costs, as values.

Every variable takes one option; options add loss; factors over one or more variables add costs in
any number of resources (seconds, bytes). `millifit.search.allocate` solves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Option = str | int
Combo = tuple[Option, ...]

LOSS = "loss"
"""The name under which `solve` takes a cap on the loss, or the loss as its objective."""

_SLACK = 1e-9  # relative rounding forgiven when a limit is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A decision: its options and the loss that each adds. `forbidden` ones are not chosen."""

    name: str
    options: tuple[Option, ...]
    loss: tuple[float, ...]
    forbidden: tuple[Option, ...] = ()

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(f"variable '{self.name}' needs distinct options, got {self.options}")
        if len(self.loss) != len(self.options) or not all(math.isfinite(x) for x in self.loss):
            raise ValueError(f"variable '{self.name}' needs one finite loss per option")
        if not set(self.forbidden) <= set(self.options):
            raise ValueError(f"variable '{self.name}' forbids what is no option: {self.forbidden}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What a combination of options of some variables costs, per resource.

    ``Factor(name="conv1", variables=("width", "precision"), costs={(16, "int8"): {"seconds":
    2e-4, "bytes": 864.0}})`` allows that one combination; what is missing is forbidden. Several
    factors may share a name; costs may be negative.
    """

    name: str
    variables: tuple[str, ...]
    costs: Mapping[Combo, Mapping[str, float]]

    def __post_init__(self) -> None:
        if not self.variables or len(set(self.variables)) != len(self.variables):
            raise ValueError(f"factor '{self.name}' needs distinct variables: {self.variables}")
        for combo, cost in self.costs.items():
            if len(combo) != len(self.variables) or not all(map(math.isfinite, cost.values())):
                raise ValueError(f"factor '{self.name}': bad combination {combo}: {dict(cost)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Variables and the factors over them. `fixed` is what every plan costs."""

    variables: tuple[Variable, ...]
    factors: tuple[Factor, ...]
    fixed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = {v.name: set(v.options) for v in self.variables}
        if len(options) != len(self.variables):
            raise ValueError("two variables of one name")
        for factor in self.factors:
            if not set(options).issuperset(factor.variables):
                missing = sorted(set(factor.variables) - set(options))
                raise ValueError(f"factor '{factor.name}' is over unknown variables {missing}")
            for position, name in enumerate(factor.variables):
                strange = {combo[position] for combo in factor.costs} - options[name]
                if strange:
                    raise ValueError(f"factor '{factor.name}': '{name}' has no options {strange}")

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources that something costs, sorted."""
        used = {r for f in self.factors for cost in f.costs.values() for r in cost}
        return tuple(sorted(used | set(self.fixed)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A choice for every variable and what it costs. `gap` is 0 where it is proven optimal, else
    the relative distance to the best bound when time was up."""

    choices: Mapping[str, Option]
    loss: float
    resources: Mapping[str, float]
    gap: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """No combination of choices keeps these limits."""

    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Rules out every plan that differs from `choices` in fewer than `distance` of its variables.

    A distance of 1 rules out these choices alone.
    """

    choices: Mapping[str, Option]
    distance: int = 1

    def covers(self, choices: Mapping[str, Option]) -> bool:
        """Whether `choices` are ruled out."""
        differing = sum(choices[name] != option for name, option in self.choices.items())
        return differing < self.distance


def priced(problem: Problem, choices: Mapping[str, Option]) -> Allocation | None:
    """What `choices` cost, or None where they are forbidden."""
    losses: list[float] = []
    for variable in problem.variables:
        option = choices[variable.name]
        if option not in variable.options or option in variable.forbidden:
            return None
        losses.append(variable.loss[variable.options.index(option)])
    parts: dict[str, list[float]] = {r: [problem.fixed.get(r, 0.0)] for r in problem.resources}
    for factor in problem.factors:
        cost = factor.costs.get(tuple(choices[v] for v in factor.variables))
        if cost is None:
            return None
        for resource, amount in cost.items():
            parts[resource].append(amount)
    return Allocation(
        choices={v.name: choices[v.name] for v in problem.variables},
        loss=math.fsum(losses),
        resources={resource: math.fsum(amounts) for resource, amounts in parts.items()},
    )


def within(allocation: Allocation, limits: Mapping[str, float]) -> bool:
    """Whether every limit is kept, forgiving rounding of one part in 1e9."""
    for resource, limit in limits.items():
        used = allocation.loss if resource == LOSS else allocation.resources.get(resource, 0.0)
        if used > limit + _SLACK * max(abs(limit), abs(used)):
            return False
    return True
