"""Infeasible budgets: the floor, the layers that set it, and the cheapest way out, word by word."""

import pytest

from millifit.errors import BudgetInfeasible, UsageError
from millifit.search.explain import ExplainedInfeasible, Relaxation, explain
from millifit.search.knapsack import LOSS, Factor, Problem, Variable
from millifit.search.problem import BYTES, SECONDS

# ms in fp32, ms in int8, loss of int8
LAYERS = {
    "conv1": (2.00, 0.80, 0.010),
    "conv2": (0.60, 0.20, 0.004),
    "head": (1.00, 0.40, 0.020),
}


def problem(*, forbidden=(), fixed_ms=1.10) -> Problem:
    """Three layers in two precisions: 4.70 ms in fp32, 2.50 ms in int8, 1.10 ms of it fixed."""
    precisions = ("fp32", "int8")
    return Problem(
        variables=tuple(
            Variable(
                name=f"precision:{name}",
                options=precisions,
                loss=(0.0, loss),
                forbidden=("int8",) if name in forbidden else (),
            )
            for name, (_, _, loss) in LAYERS.items()
        ),
        factors=tuple(
            Factor(
                name=name,
                variables=(f"precision:{name}",),
                costs={
                    ("fp32",): {SECONDS: fp32 / 1e3, BYTES: 4e6},
                    ("int8",): {SECONDS: int8 / 1e3, BYTES: 1e6},
                },
            )
            for name, (fp32, int8, _) in LAYERS.items()
        ),
        fixed={SECONDS: fixed_ms / 1e3, BYTES: 0.0},
    )


def test_says_what_sets_the_floor():
    """The fastest plan, its largest layers and the budget that would do, in one sentence."""
    explanation = explain(problem(), {SECONDS: 1e-3}, target="local")
    assert explanation.text == (
        "budget of 1.00 ms is infeasible on 'local': the fastest plan takes 2.50 ms predicted; "
        "layers conv1 (0.80 ms) and head (0.40 ms) set the floor; "
        "cheapest relaxation: --budget 2.6ms"
    )
    assert explanation.floor_s == pytest.approx(2.5e-3)
    assert explanation.binding == (("conv1", 0.8e-3), ("head", 0.4e-3))


def test_accuracy_cap_moves_the_floor():
    """With a cap on the drop the floor is of plans within it, and the cap may be the way out."""
    # Within 2 % head must stay fp32: 3.10 ms. All int8 takes 2.50 ms and loses 3.4 %.
    explanation = explain(problem(), {SECONDS: 2.9e-3, LOSS: 0.02}, target="local")
    assert explanation.text == (
        "budget of 2.90 ms with an accuracy drop of at most 2% is infeasible on 'local': "
        "the fastest such plan takes 3.10 ms predicted; "
        "layers head (1.00 ms) and conv1 (0.80 ms) set the floor; "
        "cheapest relaxation: --budget 3.2ms"
    )
    latency, accuracy = explanation.relaxations
    assert latency == Relaxation(kind="latency", value=pytest.approx(3.1e-3), cost=latency.cost)
    assert latency.cost == pytest.approx(3.1 / 2.9 - 1)
    # conv1 and head in int8 take 2.90 ms and lose 3.0 %
    assert accuracy == Relaxation(kind="accuracy", value=pytest.approx(0.03), cost=accuracy.cost)
    assert accuracy.cost == pytest.approx(0.5)
    assert accuracy.text == "--max-drop 3"


def test_forbidden_choice_is_the_cheapest_way_out():
    """Where one forbidden choice decides, it is named rather than a budget twice as large."""
    explanation = explain(problem(forbidden=("conv1",)), {SECONDS: 2.6e-3}, target="pi4")
    assert explanation.text == (
        "budget of 2.60 ms is infeasible on 'pi4': the fastest plan takes 3.70 ms predicted; "
        "layers conv1 (2.00 ms) and head (0.40 ms) set the floor; "
        "cheapest relaxation: allow precision:conv1 = int8"
    )
    assert [r.kind for r in explanation.relaxations] == ["choice", "latency"]


def test_two_forbidden_choices_are_no_single_relaxation():
    """Where two choices would have to be allowed at once, only the budget helps alone."""
    explanation = explain(problem(forbidden=("conv1", "head")), {SECONDS: 2.6e-3}, target="pi4")
    assert [r.text for r in explanation.relaxations] == ["--budget 4.4ms"]


def test_contradicting_limits_need_more_than_one_relaxation():
    """Where the other limits exclude each other no single relaxation is claimed to help."""
    limits = {SECONDS: 1e-3, LOSS: 0.001, BYTES: 1e6}
    explanation = explain(problem(), limits, target="local")
    assert explanation.text == (
        "budget of 1.00 ms with an accuracy drop of at most 0.1% and at most 1.00 MB is "
        "infeasible on 'local': no plan is within it at any latency, and the fastest of all takes "
        "2.50 ms predicted; layers conv1 (0.80 ms) and head (0.40 ms) set the floor; "
        "no single relaxation helps: relax several limits together"
    )
    assert not explanation.others_reachable


def test_size_can_be_the_way_out():
    """A size that no plan reaches within the drop is what has to give."""
    explanation = explain(problem(), {BYTES: 8e6, LOSS: 0.005}, target="local")
    assert explanation.relaxations[0].text == "a size budget of 9 MB"


def test_scale_shows_the_device_s_time():
    """What the device takes longer than the model is in every number."""
    explanation = explain(problem(), {SECONDS: 3e-3}, target="local", scale=1.3)
    assert explanation.floor_s == pytest.approx(3.25e-3)
    assert explanation.relaxations[0].text == "--budget 3.4ms"
    assert "conv1 (1.04 ms) and head (0.52 ms)" in explanation.text


def test_relaxed_budgets_are_feasible():
    """Explaining the budget that was proposed finds a plan there: the advice holds."""
    first = explain(problem(), {SECONDS: 1e-3}, target="local")
    proposed_s = float(first.relaxations[0].text.removeprefix("--budget ").removesuffix("ms")) / 1e3
    assert proposed_s >= first.floor_s
    assert proposed_s <= 1.1 * first.floor_s


def test_error_carries_the_explanation():
    """The command line exits with 3 and prints the text; programs read the value."""
    explanation = explain(problem(), {SECONDS: 1e-3}, target="local")
    error = ExplainedInfeasible(explanation)
    assert isinstance(error, BudgetInfeasible)
    assert error.exit_code == 3
    assert str(error) == explanation.text
    assert error.explanation is explanation


def test_no_plan_at_all_is_a_mistake_of_its_own():
    """Rules that contradict each other are wrong use, not an infeasible budget."""
    variable = Variable(name="a", options=("x", "y"), loss=(0.0, 0.0), forbidden=("x",))
    factor = Factor(name="f", variables=("a",), costs={("x",): {SECONDS: 1.0, BYTES: 1.0}})
    with pytest.raises(UsageError, match="no plan is allowed at any budget"):
        explain(Problem(variables=(variable,), factors=(factor,)), {SECONDS: 2.0}, target="local")
