"""The closed loop with the allocation strategy, on devices that differ from the model."""

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from millifit.compress.plan import Plan
from millifit.latency_models.prediction import Prediction
from millifit.search.allocate import Factor, Problem, Variable, priced
from millifit.search.budget import Limits
from millifit.search.loop import best_of, judged, search
from millifit.search.problem import BYTES, SECONDS, choices_of
from millifit.search.strategies.allocation import AllocationSettings, AllocationStrategy
from millifit.search.trial import Trial, plan_key
from millifit.targets.timing import Samples

LAYERS = tuple(f"layer{i}" for i in range(12))
BASE_ACCURACY = 0.9


def problem() -> Problem:
    """Twelve layers of about 1 ms in fp32, three to four times as fast in int8."""
    rng = np.random.default_rng(7)
    fp32 = rng.uniform(0.5e-3, 1.5e-3, len(LAYERS))
    int8 = fp32 * rng.uniform(0.25, 0.35, len(LAYERS))
    loss = rng.uniform(0.0005, 0.004, len(LAYERS))
    precisions = ("fp32", "int8")
    return Problem(
        variables=tuple(
            Variable(name=f"precision:{name}", options=precisions, loss=(0.0, float(loss[i])))
            for i, name in enumerate(LAYERS)
        ),
        factors=tuple(
            Factor(
                name=name,
                variables=(f"precision:{name}",),
                costs={
                    ("fp32",): {SECONDS: float(fp32[i]), BYTES: 4000.0},
                    ("int8",): {SECONDS: float(int8[i]), BYTES: 1000.0},
                },
            )
            for i, name in enumerate(LAYERS)
        ),
    )


PROBLEM = problem()
FP32_S = sum(f.costs[("fp32",)][SECONDS] for f in PROBLEM.factors)


class Device:
    """Takes `factor` times what the model says, with 0.3 % noise that depends on the plan alone."""

    def __init__(
        self,
        factor: Callable[[Plan], float] = lambda plan: 1.3,
        accuracy: Callable[[Plan, float], float | None] = lambda plan, loss: BASE_ACCURACY - loss,
        other_bytes: int = 0,
    ) -> None:
        self.factor, self.accuracy, self.other_bytes = factor, accuracy, other_bytes
        self.plans: list[Plan] = []

    def __call__(self, plan: Plan) -> Trial:
        self.plans.append(plan)
        said = priced(PROBLEM, choices_of(PROBLEM, plan))
        assert said is not None
        seconds = said.resources[SECONDS]
        rng = np.random.default_rng(int(plan_key(plan), 16) % 2**32)
        noise = 1 + 0.003 * rng.standard_normal(21)
        return Trial(
            plan=plan,
            predicted=Prediction(
                median_s=seconds, low_s=0.8 * seconds, high_s=1.2 * seconds, origin="predicted"
            ),
            measured=Samples(run_s=tuple(float(seconds * self.factor(plan) * x) for x in noise)),
            accuracy=self.accuracy(plan, said.loss),
            size_bytes=int(said.resources[BYTES]) + self.other_bytes,
        )


def run(device, limits, *, max_trials=20, known: Mapping[str, Trial] | None = None, **settings):
    strategy = AllocationStrategy(
        PROBLEM, limits, target="fake", settings=AllocationSettings(**settings)
    )
    stored: list[Trial] = []
    outcome = search(
        strategy,
        device,
        limits=limits,
        max_trials=max_trials,
        known=known,
        on_trial=stored.append,
    )
    return outcome, strategy, stored


def high_s(trial: Trial) -> float:
    assert trial.measured is not None
    return trial.measured.interval_s[1]


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3, 1.8])
@pytest.mark.parametrize("share", [0.5, 0.65, 0.8])
def test_converges_on_a_device_that_the_model_misjudges(factor, share):
    """Within four trials a plan keeps the budget, and it is close to the best that does."""
    limits = Limits(latency_s=share * FP32_S * factor)
    device = Device(factor=lambda plan: factor)
    outcome, _, _ = run(device, limits)
    feasible = [i for i, trial in enumerate(outcome.trials) if trial.feasible]
    assert feasible
    assert feasible[0] < 4
    assert outcome.best is not None
    assert high_s(outcome.best) <= limits.latency_s
    losses = [
        (plan.loss, plan.resources[SECONDS] * factor)
        for mix in itertools.product(("fp32", "int8"), repeat=len(LAYERS))
        if (
            plan := priced(PROBLEM, {f"precision:{n}": p for n, p in zip(LAYERS, mix, strict=True)})
        )
    ]
    attainable = min(loss for loss, seconds in losses if seconds * 1.02 <= limits.latency_s)
    assert outcome.best.accuracy is not None
    assert BASE_ACCURACY - outcome.best.accuracy <= attainable + 1e-9


def test_learns_that_only_int8_is_slower_than_predicted():
    """A residual that differs between precisions, unknown to the model, is closed in, too."""

    def factor(plan):
        int8 = sum(p == "int8" for p in plan.precisions.values()) / len(LAYERS)
        return 1.05 + 0.5 * int8

    limits = Limits(latency_s=0.75 * FP32_S)
    outcome, _, _ = run(Device(factor=factor), limits)
    assert outcome.best is not None
    assert high_s(outcome.best) <= limits.latency_s
    assert high_s(outcome.best) >= 0.85 * limits.latency_s


# The plan of least predicted loss within 80 % quantizes layers 0, 7 and 8.
CULPRIT = "layer0"
STRICT = Limits(latency_s=0.8 * 1.3 * FP32_S, min_accuracy=0.85)


def spoilt() -> Device:
    """A device on which one layer in int8 ruins the accuracy, against its sensitivity."""

    def accuracy(plan: Plan, loss: float) -> float:
        return BASE_ACCURACY - loss - (0.2 if plan.precisions[CULPRIT] == "int8" else 0.0)

    return Device(accuracy=accuracy)


def test_accuracy_failure_leads_to_another_plan():
    """A layer that ruins the accuracy is left alone in the end."""
    outcome, _, _ = run(spoilt(), STRICT, rounds=20)
    assert "accuracy" in outcome.trials[1].note
    assert outcome.best is not None
    assert outcome.best.plan.precisions[CULPRIT] == "fp32"
    assert outcome.best.accuracy is not None
    assert outcome.best.accuracy >= 0.85


def test_hopeless_accuracy_ends_after_a_few_plans():
    """Where no plan is accurate enough the search ends with the numbers, and tries none twice."""
    device = Device(accuracy=lambda plan, loss: 0.5 - loss)
    outcome, _, _ = run(device, STRICT, inaccurate=4)
    assert outcome.best is None
    assert outcome.reason == (
        "the 4 plans of least predicted loss lost too much accuracy: 49.75% at best, 85.00% wanted"
    )
    # The first was too slow, and says nothing of what fits.
    assert len({plan_key(trial.plan) for trial in outcome.trials}) == len(outcome.trials) == 5


def test_rounds_are_bounded():
    """A device on which every plan is too slow by more than the last ends at the limit."""
    counter = itertools.count(2)
    limits = Limits(latency_s=0.8 * FP32_S)
    outcome, _, _ = run(Device(factor=lambda plan: 1 + 0.01 * next(counter)), limits, rounds=2)
    assert outcome.best is None
    assert outcome.reason == "the limit of 2 rounds is reached"


def test_infeasible_from_the_start_is_explained_without_a_trial():
    """A budget below the floor of the model is explained before anything is compiled."""
    device = Device()
    outcome, strategy, _ = run(device, Limits(latency_s=1e-3))
    assert device.plans == []
    assert outcome.best is None
    assert strategy.explanation is not None
    assert outcome.reason == strategy.explanation.text
    assert "budget of 1.00 ms is infeasible on 'fake': the fastest plan takes" in outcome.reason


def test_infeasible_on_the_device_alone_is_explained_with_its_residual():
    """A budget that only the model reaches ends with the floor as the device has it."""
    all_int8_s = sum(f.costs[("int8",)][SECONDS] for f in PROBLEM.factors)
    outcome, strategy, _ = run(Device(), Limits(latency_s=1.1 * all_int8_s))
    assert outcome.best is None
    assert len(outcome.trials) >= 1
    assert strategy.explanation is not None
    assert strategy.explanation.floor_s == pytest.approx(1.3 * all_int8_s, rel=0.02)


def test_cap_on_the_predicted_loss_is_kept():
    """No plan is tried whose predicted loss is beyond the cap; where none is left, it is said."""
    limits = Limits(latency_s=0.5 * FP32_S)
    strategy = AllocationStrategy(PROBLEM, limits, target="fake", max_loss=0.001)
    device = Device()
    outcome = search(strategy, device, limits=limits, max_trials=9)
    assert device.plans == []
    assert "with an accuracy drop of at most 0.1% is infeasible on 'fake'" in outcome.reason


def test_size_is_learnt_too():
    """Bytes that the problem does not count, such as code, come off the size budget."""
    limits = Limits(latency_s=math.inf, size_bytes=40_000)
    outcome, _, _ = run(Device(other_bytes=5_000), limits)
    assert [trial.feasible for trial in outcome.trials[:2]] == [False, True]
    assert outcome.best is not None
    assert outcome.best.size_bytes == 38_000


@pytest.mark.parametrize("stored_trials", [1, 2, 3])
def test_killed_run_resumes_to_the_identical_outcome(stored_trials):
    """With the stored trials of a run that was killed, the outcome is the same, field by field."""
    whole, _, stored = run(spoilt(), STRICT, rounds=20)
    assert whole.best is not None
    assert len(whole.trials) == 3
    assert tuple(stored) == whole.trials
    known = {plan_key(t.plan): Trial.from_dict(t.to_dict()) for t in whole.trials[:stored_trials]}
    device = spoilt()
    again, _, fresh = run(device, STRICT, known=known, rounds=20)
    assert again == whole
    assert len(device.plans) == len(fresh) == len(whole.trials) - stored_trials


def test_trial_that_could_not_run_is_recorded_and_passed_over():
    """A plan that does not compile is a trial with its reason; the next best plan is tried."""
    good = Device()

    def evaluate(plan):
        trial = good(plan)
        if len(good.plans) == 1:
            return Trial(
                plan=plan,
                predicted=trial.predicted,
                measured=None,
                accuracy=None,
                size_bytes=0,
                note="layer3 does not compile",
            )
        return trial

    outcome, _, _ = run(evaluate, Limits(latency_s=1.3 * 0.8 * FP32_S))
    assert outcome.trials[0].note == "layer3 does not compile"
    assert not outcome.trials[0].feasible
    assert outcome.best is not None
    assert plan_key(outcome.trials[0].plan) not in {plan_key(t.plan) for t in outcome.trials[1:]}


class Endless:
    """A strategy that asks for the same two plans forever."""

    reason = ""

    def __init__(self) -> None:
        self.told: list[int] = []

    def ask(self):
        both = [dict.fromkeys(LAYERS, "int8"), dict.fromkeys(LAYERS, "fp32")]
        return [Plan(precisions=precisions) for precisions in both]

    def tell(self, trials) -> None:
        self.told.append(len(trials))


def test_loop_is_bounded_whatever_the_strategy_does():
    """An endless strategy is stopped at the limit, mid-batch, and no plan is evaluated twice."""
    device, strategy = Device(), Endless()
    outcome = search(strategy, device, limits=Limits(), max_trials=5)
    assert len(outcome.trials) == 5
    assert strategy.told == [2, 2, 1]
    assert len(device.plans) == 2
    assert outcome.reason == "the limit of 5 trials is reached"


def test_budget_without_loss_ends_at_once():
    """Where the uncompressed plan is within the budget nothing else is tried."""
    outcome, _, _ = run(Device(), Limits(latency_s=2 * FP32_S))
    assert [set(t.plan.precisions.values()) for t in outcome.trials] == [{"fp32"}]
    assert outcome.reason == "a plan without predicted loss is within the budget"


def made(seconds, accuracy, *, feasible=True) -> Trial:
    return Trial(
        plan=Plan(precisions={}),
        predicted=Prediction(median_s=1.0, low_s=1.0, high_s=1.0, origin="measured"),
        measured=Samples(run_s=(seconds,)),
        accuracy=accuracy,
        size_bytes=0,
        feasible=feasible,
    )


def test_best_is_accurate_then_fast():
    """Accuracy decides among feasible trials, then latency; without labels the mildest plan."""
    slow, fast, worse = made(2.0, 0.8), made(1.0, 0.8), made(0.5, 0.7)
    assert best_of([slow, worse, fast, made(0.1, 0.9, feasible=False)]) is fast
    unlabelled = [made(2.0, None), made(1.0, None)]
    assert best_of(unlabelled) is unlabelled[0]
    assert best_of([made(1.0, 0.9, feasible=False)]) is None


def test_judged_by_the_upper_end_of_the_interval():
    """A median within the budget is not enough; judging twice changes nothing."""
    trial = made(1.0, 0.9)
    trial = Trial.from_dict({**trial.to_dict(), "run_s": [0.9, 1.0, 1.1], "note": "warm"})
    once = judged(trial, Limits(latency_s=1.05))
    assert not once.feasible
    assert once.note == "warm; latency 1100.000 ms above 1050.000 ms"
    assert judged(once, Limits(latency_s=1.05)) == once
    assert judged(trial, Limits(latency_s=1.1)).feasible
