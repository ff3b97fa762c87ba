"""From a network and prices to a problem, and from its solution back to a plan."""

import math
from collections import Counter

import pytest
from searched_network import LAYERS, TARGET, WIDTHS, network, space

from millifit.compress.plan import Plan
from millifit.compress.prune.groups import channel_groups
from millifit.search.allocate import Allocation, priced, solve
from millifit.search.problem import (
    BYTES,
    SECONDS,
    build_problem,
    choices_of,
    core_kernels,
    few_widths,
    kernels_of,
    plan_of,
    plan_space,
)
from millifit.targets.lower import lower


def price(kernel):
    """Nanoseconds for what is read, written and computed; int8 computes four times as fast."""
    work = math.prod(kernel.output.shape) * kernel.inputs[0].shape[-1]
    return 1e-9 * (work / (4 if kernel.precision == "int8" else 1) + kernel.output.bytes)


def losses(of):
    """0.01 for each layer in int8, and the share of the channels that a group loses."""
    return {(f"precision:{name}", "int8"): 0.01 for name in of.precisions} | {
        (f"width:{name}", width): 1 - width / options[0]
        for name, options in of.widths.items()
        for width in options[1:]
    }


def test_uniform_plans_cost_what_their_programs_do():
    """The fp32 plan is the sum of the fp32 program, the int8 plan that of the int8 program."""
    of = space()
    problem = build_problem(of, price, losses(of))
    for precision, program in of.programs.items():
        plan = Plan(precisions=dict.fromkeys(LAYERS, precision))
        found = priced(problem, choices_of(problem, plan))
        expected = math.fsum(price(call.kernel) for call in program.calls)
        assert found is not None
        assert found.resources[SECONDS] == pytest.approx(expected, rel=1e-12)
    assert lower(network(), TARGET).kernels == of.programs["fp32"].kernels


def test_solution_becomes_a_plan_and_back():
    """What the solver chooses is a plan with a precision per layer and only the pruned groups."""
    of = space(widths=WIDTHS)
    problem = build_problem(of, price, losses(of))
    whole = priced(problem, choices_of(problem, Plan(precisions=dict.fromkeys(LAYERS, "fp32"))))
    assert whole is not None
    found = solve(problem, {SECONDS: 0.15 * whole.resources[SECONDS]})
    assert isinstance(found, Allocation)
    plan = plan_of(problem, found.choices)
    assert set(plan.precisions) == set(LAYERS)
    assert plan.widths
    assert all(width < WIDTHS[group][0] for group, width in plan.widths.items())
    assert choices_of(problem, plan) == dict(found.choices)


def test_bytes_are_a_budget_of_their_own():
    """The smallest plan in bytes is int8 at the least widths, its bytes counted by hand."""
    of = space(widths=WIDTHS)
    problem = build_problem(of, price, losses(of))
    found = solve(problem, {}, minimize=BYTES)
    assert isinstance(found, Allocation)
    assert plan_of(problem, found.choices) == Plan(
        precisions=dict.fromkeys(LAYERS, "int8"), widths={"stem": 16, "wide": 16}
    )
    weights = 9 * 3 * 16 + 9 * 16 * 16 + 9 * 16 + 16 * 16 + 256 * 5
    assert found.resources[BYTES] == weights + 8 * (4 * 16 + 5)


def test_lists_every_kernel_that_needs_a_price():
    """A problem asks for the price of the listed kernels and of no others, each once."""
    of = space(widths=WIDTHS)
    asked = Counter()

    def counting(kernel):
        asked[kernel] += 1
        return price(kernel)

    build_problem(of, counting, losses(of))
    assert set(asked) == set(kernels_of(of))
    assert set(asked.values()) == {1}


def test_core_kernels_are_those_of_uniform_widths():
    """The core has both whole programs, and no layer whose groups are pruned unalike."""
    of = space(widths=WIDTHS)
    core = set(core_kernels(of))
    assert core < set(kernels_of(of))
    assert core >= {c.kernel for c in (*of.programs["fp32"].calls, *of.programs["int8"].calls)}
    wide = {
        (k.inputs[0].shape[-1], k.output.shape[-1])
        for k in core
        if k.op == "conv2d" and dict(k.attributes)["kernel"] == (1, 1)
    }
    assert wide == {(32, 48), (16, 32), (16, 16)}


def test_rules_out_kernels_that_do_not_run():
    """A kernel of infinite price is in no plan, however attractive the rest of the plan is."""
    of = space()

    def failing(kernel):
        dense = kernel.op == "dense" and kernel.precision == "int8"
        return math.inf if dense else price(kernel)

    found = solve(build_problem(of, failing, losses(of)), {}, minimize=SECONDS)
    assert isinstance(found, Allocation)
    assert found.choices["precision:fc"] == "fp32"
    assert found.choices["precision:wide"] == "int8"


def test_losses_are_interpolated_and_never_fall():
    """Untried widths lie between tried ones, fewer channels never cost less, noise is none."""
    of = space(widths={"wide": (48, 32, 24, 16)})
    measured = {(f"precision:{name}", "int8"): -0.5 for name in LAYERS}
    measured |= {("width:wide", 32): 0.3, ("width:wide", 16): 0.2}
    problem = build_problem(of, price, measured)
    by_name = {v.name: v for v in problem.variables}
    assert by_name["precision:fc"].loss == (0.0, 0.0)
    assert by_name["width:wide"].options == (48, 32, 24, 16)
    assert by_name["width:wide"].loss == pytest.approx((0.0, 0.3, 0.3, 0.3))
    with pytest.raises(ValueError, match=r"width:wide = 16"):
        build_problem(of, price, {k: v for k, v in measured.items() if k[1] != 16})
    with pytest.raises(ValueError, match=r"precision:stem = int8"):
        build_problem(of, price, {})


def test_target_without_int8_leaves_no_choice():
    """Without a quantized network every layer stays fp32."""
    net = network()
    of = plan_space(net, TARGET, groups=channel_groups(net), widths={"wide": (32, 16)})
    assert set(of.precisions.values()) == {("fp32",)}
    assert of.widths == {"wide": (48, 32, 16)}
    assert set(of.programs) == {"fp32"}
    found = solve(build_problem(of, price, losses(of)), {}, minimize=SECONDS)
    assert isinstance(found, Allocation)
    assert found.choices["width:wide"] == 16


@pytest.mark.parametrize("widths", [{"wide": (64,)}, {"wide": (0,)}, {"nothing": (8,)}])
def test_refuses_widths_that_do_not_exist(widths):
    """A width beyond its group, none at all, or a group nobody knows is an error."""
    net = network()
    with pytest.raises(ValueError, match="bad widths"):
        plan_space(net, TARGET, groups=channel_groups(net), widths=widths)


def test_few_widths_keeps_both_ends():
    """Thinned widths are spread evenly; fewer than asked for stay as they are."""
    assert few_widths((16, 32, 48, 64, 80), count=3) == (80, 48, 16)
    assert few_widths((16, 32), count=6) == (32, 16)
    assert few_widths(range(8, 264, 8), count=4) == (256, 176, 88, 8)
