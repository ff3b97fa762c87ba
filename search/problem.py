"""A network under a budget as an allocation problem: precisions, widths, and their prices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from millifit.compress.plan import Plan
from millifit.compress.prune.groups import ChannelGroup
from millifit.search.knapsack import Combo, Factor, Option, Problem, Variable
from millifit.search.plan_costs import CostTable, cost_tables
from millifit.search.plan_space import PRECISION, WIDTH, PlanSpace, precision_of
from millifit.targets.kernel import Kernel
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import Precision, Target

SECONDS = "seconds"
BYTES = "bytes"


def plan_space(
    network: Network,
    target: Target,
    *,
    variants: Mapping[Precision, Network] | None = None,
    groups: tuple[ChannelGroup, ...] = (),
    widths: Mapping[str, tuple[int, ...]] | None = None,
) -> PlanSpace:
    """What can be decided about `network` on `target`.

    `variants` has, by precision, the network with every layer in it that can be; a layer that they
    leave in fp32, or whose kernel is no other than in another precision, has no such choice.
    `widths` are the channels to choose from per group name;
    groups without an entry stay whole. With half a dozen widths a group (`few_widths`), a network
    of fifty layers is solved in seconds.
    """
    from millifit.targets.lower import lower

    programs: dict[Precision, Program] = {"fp32": lower(network, target)}
    for precision, variant in (variants or {}).items():
        if precision in target.precisions:
            programs[precision] = lower(variant, target)
    having = {
        precision: {n for c in program.calls if c.kernel.precision == precision for n in c.nodes}
        for precision, program in programs.items()
        if precision != "fp32"
    }
    sizes = {group.name: group.size for group in groups}
    for name, options in (widths or {}).items():
        if name not in sizes or not all(0 < option <= sizes[name] for option in options):
            raise ValueError(f"group '{name}' of {sizes.get(name)} channels: bad widths {options}")
    return PlanSpace(
        network=network,
        precisions={
            layer.name: ("fp32", *(p for p, names in having.items() if layer.name in names))
            for layer in network.layers
        },
        groups=groups,
        widths={
            name: tuple(sorted({sizes[name], *options}, reverse=True))
            for name, options in (widths or {}).items()
        },
        programs=programs,
    )


def few_widths(widths: Sequence[int], *, count: int) -> tuple[int, ...]:
    """At most `count` of `widths`, spread evenly and with both ends, widest first.

    ``few_widths((16, 32, 48, 64, 80), count=3)`` is ``(80, 48, 16)``.
    """
    ordered = sorted(set(widths), reverse=True)
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round()
    return tuple(ordered[int(place)] for place in places)


def build_problem(
    space: PlanSpace,
    price: Callable[[Kernel], float],
    losses: Mapping[tuple[str, Option], float],
    *,
    forbidden: Mapping[str, tuple[Option, ...]] | None = None,
) -> Problem:
    """The problem of choosing a plan, in `SECONDS` and `BYTES` (of weights).

    `price` gives a kernel's seconds; infinity rules out the plans that need it. `losses` are
    `sensitivity.Sensitivities.increase`; one below zero counts as none, since it is noise that a
    search would otherwise chase. Widths that were not tried are interpolated, and fewer channels
    never count as a smaller loss.

    Raises ValueError naming a decision without a loss, or a kernel that every plan needs and that
    cannot run.
    """
    variables = tuple(
        Variable(
            name=name,
            options=space.options(name),
            loss=_losses(name, space.options(name), losses),
            forbidden=tuple((forbidden or {}).get(name, ())),
        )
        for name in space.variables
    )
    prices: dict[Kernel, float] = {}

    def seconds(kernels: tuple[Kernel, ...]) -> float:
        for kernel in kernels:
            if kernel not in prices:
                prices[kernel] = price(kernel)
        return math.fsum(prices[kernel] for kernel in kernels)

    factors: list[Factor] = []
    fixed = {SECONDS: 0.0, BYTES: 0.0}
    for table in cost_tables(space):
        costs = {
            combo: {SECONDS: amount, BYTES: float(table.weight_bytes[combo])}
            for combo, kernels in table.kernels.items()
            if (amount := seconds(kernels)) < math.inf
        }
        if table.variables:
            factors.append(Factor(name=table.name, variables=table.variables, costs=costs))
        elif costs:
            fixed = {resource: fixed[resource] + costs[()][resource] for resource in fixed}
        else:
            raise ValueError(f"kernels that every plan needs have no time: {table.kernels[()]}")
    return Problem(variables=variables, factors=tuple(factors), fixed=fixed)


def kernels_of(space: PlanSpace) -> tuple[Kernel, ...]:
    """Every kernel that some plan runs, in order of first use: all that need a price."""
    tables = cost_tables(space)
    return tuple(
        dict.fromkeys(k for t in tables for kernels in t.kernels.values() for k in kernels)
    )


def core_kernels(space: PlanSpace) -> tuple[Kernel, ...]:
    """The kernels of plans that prune every group alike: few enough to measure them all.

    Alike means the same place among the group's options, the narrowest where it has fewer.
    """
    return tuple(
        dict.fromkeys(
            kernel
            for table in cost_tables(space)
            for combo, kernels in table.kernels.items()
            if _uniform(space, table, combo)
            for kernel in kernels
        )
    )


def plan_of(problem: Problem, choices: Mapping[str, Option]) -> Plan:
    """The plan that `choices` of a problem from `build_problem` stand for.

    Groups left whole are absent from its widths.
    """
    precisions: dict[str, Precision] = {}
    widths: dict[str, int] = {}
    for variable in problem.variables:
        choice = choices[variable.name]
        if variable.name.startswith(PRECISION):
            layer = variable.name.removeprefix(PRECISION)
            precisions[layer] = precision_of(choice)
        elif choice != variable.options[0]:
            widths[variable.name.removeprefix(WIDTH)] = int(choice)
    return Plan(precisions=precisions, widths=widths)


def choices_of(problem: Problem, plan: Plan) -> dict[str, Option]:
    """The choices that make `plan`: the inverse of `plan_of`."""
    return {
        v.name: plan.precisions[v.name.removeprefix(PRECISION)]
        if v.name.startswith(PRECISION)
        else plan.widths.get(v.name.removeprefix(WIDTH), v.options[0])
        for v in problem.variables
    }


def _losses(
    name: str, options: tuple[Option, ...], losses: Mapping[tuple[str, Option], float]
) -> tuple[float, ...]:
    if name.startswith(PRECISION):
        missing = [o for o in options[1:] if (name, o) not in losses]
        if missing:
            raise ValueError(f"no loss is known for {name} = {missing[0]}: measure it first")
        return tuple(max(0.0, losses[name, o]) if o != options[0] else 0.0 for o in options)
    tried = {int(o): max(0.0, x) for (variable, o), x in losses.items() if variable == name}
    tried[int(options[0])] = 0.0
    if min(tried) > int(options[-1]):
        raise ValueError(f"no loss is known for {name} = {options[-1]}: measure it first")
    widths = sorted(tried)
    found = np.interp([int(o) for o in options], widths, [tried[w] for w in widths])
    return tuple(float(x) for x in np.maximum.accumulate(found))


def _uniform(space: PlanSpace, table: CostTable, combo: Combo) -> bool:
    """Whether all widths of a combination stand at one place among their options."""
    chosen = [
        (space.options(name).index(option), len(space.options(name)))
        for name, option in zip(table.variables, combo, strict=True)
        if name.startswith(WIDTH)
    ]
    deepest = max((place for place, _ in chosen), default=0)
    return all(place == min(deepest, count - 1) for place, count in chosen)
