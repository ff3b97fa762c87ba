"""Exact allocation: one option for every variable, least loss within several budgets.

The time of a convolution depends on its input width, its output width and its precision together,
so costs couple variables. Bits, widths and ranks are options of one problem (`knapsack.Problem`),
which `scipy.optimize.milp` (HiGHS) solves to optimality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from millifit.errors import MillifitError
from millifit.search.knapsack import (
    LOSS,
    Allocation,
    Combo,
    Exclusion,
    Factor,
    Infeasible,
    Option,
    Problem,
    Variable,
    priced,
    within,
)
from millifit.search.linear_program import linearize, minimum
from millifit.search.pareto import non_dominated

__all__ = [
    "LOSS",
    "Allocation",
    "Combo",
    "Exclusion",
    "Factor",
    "Infeasible",
    "Option",
    "Problem",
    "Variable",
    "frontier",
    "priced",
    "solve",
    "within",
]

_REPAIRS = 16  # plans that the solver's tolerances let through, cut off before giving up


def solve(
    problem: Problem,
    limits: Mapping[str, float],
    *,
    minimize: str = LOSS,
    excluded: Sequence[Exclusion] = (),
    time_limit_s: float = 60.0,
) -> Allocation | Infeasible:
    """The choices of least `minimize` (the loss, or a resource) that keep all `limits`.

    `limits` maps resources, or `LOSS`, to their largest allowed sum; infinite ones do not limit.
    Ties: among plans whose objective differs by less than 1e-8 of its range, the one that uses the
    least of the limited resources (relative to each one's range; every resource where none is
    limited) and the least loss; then single options are replaced by earlier ones that cost no
    more. So the same problem always gives the same plan, unless `time_limit_s` is reached, when
    the best plan found is returned with its gap.

    Raises `MillifitError` when time is up before any plan was found, ValueError for an unknown
    resource.
    """
    limits = {r: limit for r, limit in limits.items() if limit != math.inf}
    unknown = {minimize, *limits} - {LOSS, *problem.resources}
    if unknown:
        raise ValueError(f"no factor costs {sorted(unknown)}; known: {problem.resources}")
    program = linearize(problem)
    cuts = list(excluded)
    for _ in range(_REPAIRS):
        result = minimum(
            program,
            minimize=minimize,
            limits=limits,
            excluded=cuts,
            time_limit_s=time_limit_s,
        )
        if result.status == 2:
            return Infeasible(limits=limits)
        if result.x is None:
            raise MillifitError(
                f"the solver found no allocation in {time_limit_s:g} s ({result.message}). "
                "Allow it more time, or fewer options."
            )
        choices = program.choices(result.x)
        found = priced(problem, choices)
        if found is not None and within(found, limits):
            gap = float(result.mip_gap) if result.status == 1 else 0.0
            return replace(_earliest_equal(problem, found, excluded), gap=gap)
        # Within the solver's tolerance of a limit, but beyond it: rule it out exactly.
        cuts.append(Exclusion(choices=choices))
    raise MillifitError(
        f"the solver proposed {_REPAIRS} allocations in a row that miss a limit by rounding. "
        "Change the budget slightly."
    )


def frontier(
    problem: Problem,
    resource: str,
    points: int,
    *,
    limits: Mapping[str, float] | None = None,
    time_limit_s: float = 60.0,
) -> tuple[Allocation, ...]:
    """Loss against `resource`: up to `points` non-dominated plans, cheapest first.

    The limit on the resource is swept evenly from the least that any plan needs to what the plan
    of least loss uses; `limits` on other resources hold throughout. Empty where nothing keeps them.
    """
    others = dict(limits or {})
    ends = [
        solve(problem, others, minimize=goal, time_limit_s=time_limit_s)
        for goal in (resource, LOSS)
    ]
    low, high = ends
    if isinstance(low, Infeasible) or isinstance(high, Infeasible):
        return ()
    found = [high]
    sweep = np.linspace(low.resources[resource], high.resources[resource], max(points, 2))[:-1]
    for limit in sweep:
        tighter = {**others, resource: min(float(limit), others.get(resource, math.inf))}
        plan = solve(problem, tighter, time_limit_s=time_limit_s)
        found.append(low if isinstance(plan, Infeasible) else plan)
    kept = non_dominated([(plan.resources[resource], plan.loss) for plan in found])
    return tuple(sorted((found[i] for i in kept), key=lambda plan: plan.resources[resource]))


def _earliest_equal(
    problem: Problem, found: Allocation, excluded: Sequence[Exclusion]
) -> Allocation:
    """Replace single options by earlier ones that cost no more in anything."""
    choices = dict(found.choices)
    touching: dict[str, list[Factor]] = {v.name: [] for v in problem.variables}
    for factor in problem.factors:
        for name in factor.variables:
            touching[name].append(factor)
    for variable in problem.variables:
        now = _local_cost(variable, touching[variable.name], choices) or {}
        for option in variable.options[: variable.options.index(choices[variable.name])]:
            swapped = {**choices, variable.name: option}
            then = _local_cost(variable, touching[variable.name], swapped)
            allowed = not any(rule.covers(swapped) for rule in excluded)
            if allowed and then is not None and _no_dearer(then, now):
                choices = swapped
                break
    return priced(problem, choices) or found


def _local_cost(
    variable: Variable, factors: Sequence[Factor], choices: Mapping[str, Option]
) -> dict[str, float] | None:
    """What one variable and the factors on it cost per resource; None where forbidden."""
    option = choices[variable.name]
    if option in variable.forbidden:
        return None
    parts: dict[str, list[float]] = {LOSS: [variable.loss[variable.options.index(option)]]}
    for factor in factors:
        cost = factor.costs.get(tuple(choices[name] for name in factor.variables))
        if cost is None:
            return None
        for resource, amount in cost.items():
            parts.setdefault(resource, []).append(amount)
    return {resource: math.fsum(amounts) for resource, amounts in parts.items()}


def _no_dearer(then: Mapping[str, float], now: Mapping[str, float]) -> bool:
    return all(then.get(r, 0.0) <= now.get(r, 0.0) for r in {**then, **now})
