"""Allocation against exhaustive enumeration, ties, exclusions and frontiers."""

import itertools
import math

import numpy as np
import pytest

from millifit.search.allocate import (
    LOSS,
    Allocation,
    Exclusion,
    Factor,
    Infeasible,
    Problem,
    Variable,
    frontier,
    priced,
    solve,
    within,
)


def random_problem(rng: np.random.Generator) -> Problem:
    """Up to five variables, coupled in twos and threes, with holes and negative costs."""
    variables = tuple(
        Variable(
            name=f"v{i}",
            options=tuple(range(count)),
            loss=tuple(float(x) for x in rng.integers(0, 50, count)),
            forbidden=(0,) if count > 2 and rng.random() < 0.2 else (),
        )
        for i, count in enumerate(rng.integers(2, 5, size=int(rng.integers(2, 6))))
    )
    factors = []
    for i in range(int(rng.integers(2, 7))):
        arity = int(rng.integers(1, min(3, len(variables)) + 1))
        chosen = [variables[k] for k in rng.permutation(len(variables))[:arity]]
        costs = {
            combo: {
                "seconds": float(rng.integers(-5, 100)) * 1e-6,
                "bytes": float(rng.integers(0, 1000)),
            }
            for combo in itertools.product(*(v.options for v in chosen))
            if rng.random() > 0.1
        }
        factors.append(Factor(name=f"f{i}", variables=tuple(v.name for v in chosen), costs=costs))
    return Problem(variables=variables, factors=tuple(factors), fixed={"seconds": 3e-6})


def enumerated(problem: Problem) -> list[Allocation]:
    """Every allowed plan of a small problem."""
    names = [v.name for v in problem.variables]
    plans = [
        priced(problem, dict(zip(names, combo, strict=True)))
        for combo in itertools.product(*(v.options for v in problem.variables))
    ]
    return [plan for plan in plans if plan is not None]


@pytest.mark.parametrize("seed", range(40))
def test_equals_enumeration_under_two_budgets(seed):
    """On random problems the solver finds the enumerated optimum, or that there is none."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng)
    plans = enumerated(problem)
    for share in (0.0, 0.3, 0.7):
        limits = {"seconds": 1e-4, "bytes": 900.0}
        if plans:
            for resource in limits:
                used = [plan.resources[resource] for plan in plans]
                limits[resource] = min(used) + share * (max(used) - min(used))
        reachable = [plan for plan in plans if within(plan, limits)]
        for goal in (LOSS, "seconds"):
            found = solve(problem, limits, minimize=goal)
            if not reachable:
                assert isinstance(found, Infeasible)
                continue
            values = [p.loss if goal == LOSS else p.resources[goal] for p in reachable]
            assert isinstance(found, Allocation)
            assert within(found, limits)
            assert found.gap == 0.0
            got = found.loss if goal == LOSS else found.resources[goal]
            assert got == pytest.approx(min(values), rel=1e-9, abs=1e-15)


def test_random_problems_are_not_trivial():
    """The random problems contain ones without any plan, and ones with hundreds."""
    counts = [len(enumerated(random_problem(np.random.default_rng(seed)))) for seed in range(40)]
    assert min(counts) == 0
    assert max(counts) > 200


def coupled() -> Problem:
    """Two precisions with a conversion cost where they differ, and a width that couples three."""
    precisions = ("fp32", "int8")
    seconds = {"fp32": 4e-3, "int8": 1e-3}
    return Problem(
        variables=(
            Variable(name="a", options=precisions, loss=(0.0, 0.01)),
            Variable(name="b", options=precisions, loss=(0.0, 0.05)),
            Variable(name="w", options=(32, 16), loss=(0.0, 0.1)),
        ),
        factors=(
            Factor(
                name="a",
                variables=("a",),
                costs={(p,): {"seconds": seconds[p]} for p in precisions},
            ),
            Factor(
                name="b",
                variables=("b", "w", "a"),
                costs={
                    (p, w, q): {"seconds": seconds[p] * w / 32 + (5e-4 if p != q else 0.0)}
                    for p in precisions
                    for w in (32, 16)
                    for q in precisions
                },
            ),
        ),
    )


@pytest.mark.parametrize(
    ("limit_s", "choices"),
    [
        (8e-3, {"a": "fp32", "b": "fp32", "w": 32}),
        (5.5e-3, {"a": "int8", "b": "fp32", "w": 32}),
        (5.4e-3, {"a": "int8", "b": "int8", "w": 32}),  # 5.5 ms with one conversion is too slow
        (2e-3, {"a": "int8", "b": "int8", "w": 32}),
        (1.5e-3, {"a": "int8", "b": "int8", "w": 16}),
    ],
)
def test_pays_for_conversions(limit_s, choices):
    """Each budget gets the plan worked out by hand, conversions between precisions included."""
    found = solve(coupled(), {"seconds": limit_s})
    assert isinstance(found, Allocation)
    assert dict(found.choices) == choices


def test_below_the_floor_is_infeasible():
    """One part in a million below the least possible time there is no plan."""
    assert isinstance(solve(coupled(), {"seconds": 1.5e-3 * (1 - 1e-6)}), Infeasible)


def test_loss_cap_is_a_limit():
    """The least time under a cap on the loss is that of the plan within the cap."""
    found = solve(coupled(), {LOSS: 0.06}, minimize="seconds")
    assert isinstance(found, Allocation)
    assert found.resources["seconds"] == pytest.approx(2e-3)
    assert found.loss == pytest.approx(0.06)


def test_forbidden_options_and_missing_combinations_are_never_chosen():
    """A forbidden option and a combination missing from a table are ruled out, however cheap."""
    problem = Problem(
        variables=(
            Variable(name="a", options=("x", "y", "z"), loss=(0.0, 1.0, 2.0), forbidden=("x",)),
            Variable(name="b", options=("x", "y"), loss=(0.0, 5.0)),
        ),
        factors=(
            Factor(
                name="ab",
                variables=("a", "b"),
                costs={("x", "x"): {}, ("y", "y"): {}, ("z", "y"): {}, ("x", "y"): {}},
            ),
        ),
    )
    found = solve(problem, {})
    assert isinstance(found, Allocation)
    assert dict(found.choices) == {"a": "y", "b": "y"}
    assert priced(problem, {"a": "y", "b": "x"}) is None
    assert priced(problem, {"a": "x", "b": "x"}) is None


def test_ties_go_to_the_faster_plan_then_to_the_earlier_option():
    """Of plans of equal loss the fastest is taken, of equally fast ones the earliest options."""
    problem = Problem(
        variables=(
            Variable(name="a", options=("slow", "fast"), loss=(1.0, 1.0)),
            Variable(name="b", options=("p", "q", "r"), loss=(0.0, 0.0, 0.0)),
        ),
        factors=(
            Factor(
                name="a",
                variables=("a",),
                costs={("slow",): {"seconds": 2e-3}, ("fast",): {"seconds": 1e-3}},
            ),
        ),
    )
    found = solve(problem, {"seconds": 1.0})
    assert isinstance(found, Allocation)
    assert dict(found.choices) == {"a": "fast", "b": "p"}


def test_exclusion_gives_the_next_best_plan():
    """Excluding plans one by one enumerates them by loss; a distance excludes neighbours too."""
    problem = coupled()
    losses = []
    excluded: list[Exclusion] = []
    for _ in range(8):
        found = solve(problem, {}, excluded=excluded)
        assert isinstance(found, Allocation)
        losses.append(found.loss)
        excluded.append(Exclusion(choices=found.choices))
    assert losses == pytest.approx(sorted(plan.loss for plan in enumerated(problem)))
    assert isinstance(solve(problem, {}, excluded=excluded), Infeasible)
    best = solve(problem, {})
    assert isinstance(best, Allocation)
    far = solve(problem, {}, excluded=[Exclusion(choices=best.choices, distance=2)])
    assert isinstance(far, Allocation)
    assert far.loss == pytest.approx(0.06)


def test_frontier_is_non_dominated_and_reaches_both_ends():
    """The frontier runs from the fastest plan to the one without loss, each step a trade."""
    plans = frontier(coupled(), "seconds", 20)
    seconds = [plan.resources["seconds"] for plan in plans]
    losses = [plan.loss for plan in plans]
    assert seconds == pytest.approx([1.5e-3, 2e-3, 5.5e-3, 8e-3])
    assert losses == pytest.approx([0.16, 0.06, 0.01, 0.0])
    assert frontier(coupled(), "seconds", 5, limits={LOSS: -1.0}) == ()


def test_refuses_a_resource_that_nothing_costs():
    """A limit on an unknown resource is an error, not a limit silently ignored."""
    with pytest.raises(ValueError, match="energy"):
        solve(coupled(), {"energy": 1.0})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Variable(name="a", options=(), loss=()), "distinct options"),
        (lambda: Variable(name="a", options=(1, 1), loss=(0.0, 0.0)), "distinct options"),
        (lambda: Variable(name="a", options=(1,), loss=(math.nan,)), "finite loss"),
        (lambda: Variable(name="a", options=(1,), loss=(0.0,), forbidden=(2,)), "no option"),
        (lambda: Factor(name="f", variables=("a", "a"), costs={}), "distinct variables"),
        (lambda: Factor(name="f", variables=("a",), costs={(1, 2): {}}), "bad combination"),
        (
            lambda: Problem(
                variables=(Variable(name="a", options=(1,), loss=(0.0,)),),
                factors=(Factor(name="f", variables=("b",), costs={}),),
            ),
            "unknown variables",
        ),
        (
            lambda: Problem(
                variables=(Variable(name="a", options=(1,), loss=(0.0,)),),
                factors=(Factor(name="f", variables=("a",), costs={(2,): {}}),),
            ),
            "no options",
        ),
    ],
)
def test_rejects_malformed_problems(build, message):
    """A malformed variable, factor or problem says what is wrong with it."""
    with pytest.raises(ValueError, match=message):
        build()
