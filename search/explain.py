"""Why no plan keeps a budget: the floor, the layers that set it, and the cheapest way out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from millifit.errors import BudgetInfeasible, UsageError
from millifit.search.allocate import solve
from millifit.search.knapsack import LOSS, Allocation, Factor, Infeasible, Option, Problem
from millifit.search.problem import BYTES, SECONDS

# What a relaxation costs is its share of the limit it relaxes; a choice that somebody ruled out
# has no such share, and counts as a tenth of a budget.
_COST_OF_CHOICE = 0.1
_MOST_BINDING = 3  # layers named
_BINDING_SHARE = 0.1  # of the floor, the least that a layer must take to be named
_MARGIN = 1.02  # proposed budgets leave room for the measurement to differ from the prediction
_RELAXED = "relaxed choices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """One change that makes the budget feasible on the model.

    `value` is the new limit: seconds, a fraction, or bytes; for "choice" it is the option that
    `variable` would have to be allowed. `cost` ranks relaxations, the cheapest first.
    """

    kind: Literal["latency", "accuracy", "size", "choice"]
    value: float | Option
    cost: float
    variable: str = ""

    @property
    def text(self) -> str:
        """What to type or to change."""
        match self.kind:
            case "latency":
                return f"--budget {_readable_ms(float(self.value))}ms"
            case "accuracy":
                return f"--max-drop {_up(float(self.value) * 100, digits=2):g}"
            case "size":
                return f"a size budget of {_up(float(self.value) / 1e6, digits=3):g} MB"
            case "choice":
                return f"allow {self.variable} = {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An infeasible budget. Times are in seconds, as predicted.

    `floor_s` is the least time of any plan that keeps the other limits, or of any plan at all
    where none keeps them (`others_reachable` is False). `binding` are the layers that take most of
    it. `relaxations` are single changes that help, cheapest first.
    """

    target: str
    limits: Mapping[str, float]
    floor_s: float
    others_reachable: bool
    binding: tuple[tuple[str, float], ...]
    relaxations: tuple[Relaxation, ...]

    @property
    def text(self) -> str:
        """The explanation in one sentence."""
        wanted = _wanted(self.limits)
        fastest = f"takes {_ms(self.floor_s)} predicted"
        if self.others_reachable:
            such = " such" if set(self.limits) - {SECONDS} else ""
            floor = f"the fastest{such} plan {fastest}"
        else:
            floor = f"no plan is within it at any latency, and the fastest of all {fastest}"
        layers = [f"{name} ({_ms(seconds)})" for name, seconds in self.binding]
        named = " and ".join(filter(None, [", ".join(layers[:-1]), layers[-1]]))
        plural = "layers" if len(layers) > 1 else "layer"
        sets = "set" if len(layers) > 1 else "sets"
        way_out = (
            f"cheapest relaxation: {self.relaxations[0].text}"
            if self.relaxations
            else "no single relaxation helps: relax several limits together"
        )
        return (
            f"{wanted} is infeasible on '{self.target}': {floor}; "
            f"{plural} {named} {sets} the floor; {way_out}"
        )


class ExplainedInfeasible(BudgetInfeasible):
    """An infeasible budget together with its explanation."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation
        super().__init__(explanation.text)


def explain(
    problem: Problem,
    limits: Mapping[str, float],
    *,
    target: str,
    scale: float = 1.0,
    time_limit_s: float = 60.0,
) -> Explanation:
    """Why no plan of `problem` keeps `limits` on `target`.

    `limits` are those of `allocate.solve`: `SECONDS`, `BYTES`, and `LOSS` for the largest accuracy
    drop where losses are fractions of accuracy. `scale` is how much longer the device takes than
    the problem says; every time is multiplied by it.

    Raises `UsageError` where the problem has no plan even without limits.
    """
    scaled = _scaled(problem, scale)
    limits = {r: limit for r, limit in limits.items() if limit != math.inf}
    others = {r: limit for r, limit in limits.items() if r != SECONDS}
    reachable = solve(scaled, others, minimize=SECONDS, time_limit_s=time_limit_s)
    fastest = reachable
    if isinstance(fastest, Infeasible):
        fastest = solve(scaled, {}, minimize=SECONDS, time_limit_s=time_limit_s)
    if isinstance(fastest, Infeasible):
        raise UsageError(
            "no plan is allowed at any budget: the choices that are ruled out contradict each "
            "other. Allow some of them."
        )
    return Explanation(
        target=target,
        limits=limits,
        floor_s=fastest.resources[SECONDS],
        others_reachable=isinstance(reachable, Allocation),
        binding=_binding(scaled, fastest),
        relaxations=_relaxations(scaled, limits, time_limit_s),
    )


def _relaxations(
    problem: Problem, limits: Mapping[str, float], time_limit_s: float
) -> tuple[Relaxation, ...]:
    found: list[Relaxation] = []
    kinds: dict[str, Literal["latency", "accuracy", "size"]] = {
        SECONDS: "latency",
        LOSS: "accuracy",
        BYTES: "size",
    }
    for resource, kind in kinds.items():
        if resource not in limits:
            continue
        rest = {r: limit for r, limit in limits.items() if r != resource}
        plan = solve(problem, rest, minimize=resource, time_limit_s=time_limit_s)
        if isinstance(plan, Allocation):
            value = plan.loss if resource == LOSS else plan.resources[resource]
            limit = limits[resource]
            cost = value / limit - 1 if limit > 0 else math.inf
            found.append(Relaxation(kind=kind, value=value, cost=cost))
    choice = _one_choice(problem, limits, time_limit_s)
    return tuple(sorted([*found, *choice], key=lambda relaxation: relaxation.cost))


def _one_choice(
    problem: Problem, limits: Mapping[str, float], time_limit_s: float
) -> list[Relaxation]:
    """The forbidden option whose permission alone helps, at the least loss.

    Using a forbidden option is made a resource of which one unit may be spent.
    """
    forbidden = [v for v in problem.variables if v.forbidden]
    if not forbidden:
        return []
    open_problem = Problem(
        variables=tuple(replace(v, forbidden=()) for v in problem.variables),
        factors=(
            *problem.factors,
            *(
                Factor(
                    name=v.name,
                    variables=(v.name,),
                    costs={(o,): {_RELAXED: float(o in v.forbidden)} for o in v.options},
                )
                for v in forbidden
            ),
        ),
        fixed=problem.fixed,
    )
    plan = solve(open_problem, {**limits, _RELAXED: 1.0}, time_limit_s=time_limit_s)
    if isinstance(plan, Infeasible):
        return []
    return [
        Relaxation(kind="choice", variable=v.name, value=plan.choices[v.name], cost=_COST_OF_CHOICE)
        for v in forbidden
        if plan.choices[v.name] in v.forbidden
    ]


def _binding(problem: Problem, plan: Allocation) -> tuple[tuple[str, float], ...]:
    """The layers that take most of a plan's time, largest first."""
    seconds: dict[str, float] = {}
    for factor in problem.factors:
        combo = tuple(plan.choices[v] for v in factor.variables)
        amount = factor.costs[combo].get(SECONDS, 0.0)
        seconds[factor.name] = seconds.get(factor.name, 0.0) + amount
    ordered = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BINDING]
    least = _BINDING_SHARE * plan.resources[SECONDS]
    return tuple(item for i, item in enumerate(ordered) if i == 0 or item[1] >= least)


def _scaled(problem: Problem, scale: float) -> Problem:
    """The problem with all seconds multiplied."""
    if scale == 1.0:
        return problem

    def times(cost: Mapping[str, float]) -> dict[str, float]:
        return {r: x * scale if r == SECONDS else x for r, x in cost.items()}

    return Problem(
        variables=problem.variables,
        factors=tuple(
            replace(f, costs={combo: times(cost) for combo, cost in f.costs.items()})
            for f in problem.factors
        ),
        fixed=times(problem.fixed),
    )


def _wanted(limits: Mapping[str, float]) -> str:
    """The limits in words: ``budget of 1.00 ms with an accuracy drop of at most 1%``."""
    extra = []
    if LOSS in limits:
        extra.append(f"an accuracy drop of at most {limits[LOSS] * 100:g}%")
    if BYTES in limits:
        extra.append(f"at most {limits[BYTES] / 1e6:.2f} MB")
    time = f"budget of {_ms(limits[SECONDS])}" if SECONDS in limits else "budget"
    return time + (f" with {' and '.join(extra)}" if extra else "")


def _ms(seconds: float) -> str:
    """``2.50 ms``; below a tenth of a millisecond three digits, ``0.0371 ms``."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e3:.3g} ms"


def _readable_ms(seconds: float) -> str:
    return f"{_up(seconds * _MARGIN * 1e3, digits=2):g}"


def _up(value: float, *, digits: int) -> float:
    """The least number of that many significant digits that is not below `value`."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return round(math.ceil(value / step - 1e-9) * step, 12)
