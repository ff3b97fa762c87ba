"""Sensitivity: what every single decision costs in loss, on held-out data.

Each change is made alone to the uncompressed plan. The sum of such losses predicts the loss of a
whole plan well enough to rank plans; how well is for the closed loop to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from millifit.compress.plan import Plan
from millifit.progress import SILENT, Progress
from millifit.search.knapsack import Option
from millifit.search.plan_space import PRECISION, WIDTH, PlanSpace, precision_of

UNCHANGED = "unchanged"
"""The key under which the loss of the uncompressed plan is cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivities:
    """The loss of the uncompressed plan, and what each change adds to it.

    `increase` is by variable and option, e.g. ``("precision:conv1", "int8")``; it may be below
    zero by chance.
    """

    base: float
    increase: Mapping[tuple[str, Option], float] = field(default_factory=dict)


def changes(
    space: PlanSpace, *, widths: Mapping[str, Sequence[int]] | None = None
) -> tuple[tuple[str, Option], ...]:
    """Every single change that `space` allows, in order of its variables.

    `widths` tries only some widths of a group; `problem.build_problem` interpolates the others
    where the narrowest is among them.
    """
    found: list[tuple[str, Option]] = []
    for variable in space.variables:
        options = space.options(variable)[1:]
        group = variable.removeprefix(WIDTH)
        if variable.startswith(WIDTH) and widths is not None and group in widths:
            options = tuple(option for option in options if option in widths[group])
        found += [(variable, option) for option in options]
    return tuple(found)


def sensitivities(
    space: PlanSpace,
    tried: Sequence[tuple[str, Option]],
    evaluate: Callable[[Plan], float],
    *,
    known: Mapping[str, float] | None = None,
    on_result: Callable[[str, float], None] | None = None,
    progress: Progress = SILENT,
) -> Sensitivities:
    """Evaluate the uncompressed plan and every change of `tried`, one at a time.

    `evaluate` gives a plan's loss on held-out data: lower is better, and its unit is that of any
    cap on the loss. Results in `known` (by `change_key`, or `UNCHANGED`) are not evaluated again;
    each new one goes to `on_result` at once, so that nothing is lost when the run is stopped.
    """
    results = dict(known or {})
    unchanged = Plan(precisions=dict.fromkeys(space.precisions, "fp32"))
    with progress.stage("sensitivity", len(tried) + 1) as advance:

        def loss(key: str, plan: Plan) -> float:
            if key not in results:
                results[key] = evaluate(plan)
                if on_result is not None:
                    on_result(key, results[key])
            advance(1)
            return results[key]

        base = loss(UNCHANGED, unchanged)
        increase = {
            (variable, option): loss(
                change_key(variable, option), _changed(unchanged, variable, option)
            )
            - base
            for variable, option in tried
        }
    return Sensitivities(base=base, increase=increase)


def change_key(variable: str, option: Option) -> str:
    """The name of a change, e.g. ``"precision:conv1=int8"``."""
    return f"{variable}={option}"


def _changed(plan: Plan, variable: str, option: Option) -> Plan:
    if variable.startswith(WIDTH):
        return Plan(precisions=plan.precisions, widths={variable.removeprefix(WIDTH): int(option)})
    layer = variable.removeprefix(PRECISION)
    return Plan(precisions={**plan.precisions, layer: precision_of(option)})
