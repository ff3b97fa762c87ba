"""The closed loop of one run: prices and losses, then trials until one keeps the budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from millifit.compress.plan import Plan
from millifit.errors import BudgetInfeasible
from millifit.pipeline.baseline import Baseline, measure_baseline
from millifit.pipeline.device import programs_of
from millifit.pipeline.final import Final, measure_final
from millifit.pipeline.losses import find_choices, find_losses
from millifit.pipeline.pricing import Prices, working_bytes
from millifit.pipeline.trials import Evaluator, new_evaluator
from millifit.pipeline.tuning import settled
from millifit.pipeline.workbench import Workbench
from millifit.search.budget import Budget, Limits, parse_budget
from millifit.search.explain import ExplainedInfeasible
from millifit.search.knapsack import Problem, priced
from millifit.search.loop import SearchOutcome
from millifit.search.loop import search as run_search
from millifit.search.problem import SECONDS, build_problem, core_kernels, kernels_of
from millifit.search.strategies.allocation import AllocationSettings, AllocationStrategy
from millifit.search.trial import Trial, plan_key

# Up to this many kernels are all measured; beyond it only those of evenly pruned networks are, the
# others are predicted and measured when a plan needs them.
_MEASURE_ALL = 300
# How often the chosen network may fail its last measurement before the run gives up.
_FINAL_ATTEMPTS = 3
_FINALS = "finals.jsonl"


@dataclass(slots=True, kw_only=True)
class ClosedLoop:
    """What a run knows once everything is priced; `search` and `best_and_final` try plans."""

    bench: Workbench
    budget: Budget
    limits: Limits
    prices: Prices
    baseline: Baseline
    problem: Problem
    evaluator: Evaluator
    known: dict[str, Trial]
    strategy: AllocationStrategy | None = field(default=None)

    def search(self, limits: Limits) -> SearchOutcome:
        """Try plans under `limits` until the strategy has nothing left to ask."""
        trials = self.bench.recipe.trials
        self.strategy = AllocationStrategy(
            self.problem,
            limits,
            target=self.bench.target.name,
            residual=_residual(self.problem, self.baseline),
            settings=AllocationSettings(rounds=trials),
        )
        with self.bench.stage("search"):
            return run_search(
                self.strategy,
                self._evaluate,
                limits=limits,
                max_trials=trials,
                known=self.known,
                progress=self.bench.progress,
            )

    def best_and_final(self) -> tuple[Trial, Final, tuple[Trial, ...]]:
        """The trial that also passes the last measurement, that measurement, and all trials.

        A trial that does not pass tightens the limits and the search goes on; if none passes, the
        last one is returned with its problems. Raises BudgetInfeasible where there is none at all.
        """
        limits = self.limits
        trials: dict[str, Trial] = {}
        last: tuple[Trial, Final] | None = None
        for attempt in range(_FINAL_ATTEMPTS):
            outcome = self.search(limits)
            trials |= {plan_key(trial.plan): trial for trial in outcome.trials}
            if outcome.best is None:
                if last is None:
                    raise self.infeasible(outcome)
                break
            final = self._final(attempt, outcome.best)
            last = outcome.best, final
            if not final.problems:
                break
            self.bench.progress.note(
                f"the last measurement found: {'; '.join(final.problems)}. Searching on."
            )
            limits = _tightened(limits, outcome.best, final)
        assert last is not None
        return (*last, tuple(trials.values()))

    def infeasible(self, outcome: SearchOutcome) -> BudgetInfeasible:
        """Why no plan keeps the budget: the model's explanation, or what the trials showed."""
        explanation = None if self.strategy is None else self.strategy.explanation
        if explanation is not None:
            return ExplainedInfeasible(explanation)
        return BudgetInfeasible(_explained_by_trials(self, outcome))

    def _evaluate(self, plan: Plan) -> Trial:
        trial = self.evaluator(plan)
        self.known[plan_key(plan)] = trial
        return trial

    def _final(self, attempt: int, trial: Trial) -> Final:
        """The last measurement of a trial, taken once: a resumed run decides by the same one."""
        records = self.bench.folder.lines(_FINALS)
        if attempt < len(records) and records[attempt]["plan"] == plan_key(trial.plan):
            return Final.from_dict(records[attempt])
        with self.bench.stage("verify"):
            final = measure_final(self.bench, self.baseline, trial, self.budget)
        self.bench.folder.append(_FINALS, {"plan": plan_key(trial.plan), **final.to_dict()})
        return final


def prepare(bench: Workbench) -> ClosedLoop:
    """Tune if asked to, measure the baseline, price every choice and find its loss.

    Stages done before are kept.
    """
    bench = settled(bench, lambda: programs_of(bench.network, bench.target, bench.recipe.seed))
    recipe = bench.recipe
    drop = None if recipe.max_drop is None else recipe.max_drop / 100
    budget = parse_budget(recipe.budget, max_accuracy_drop=drop)
    prices = Prices(
        target=bench.target,
        network_bytes=working_bytes(bench.network),
        store=bench.store,
        timer=bench.timer,
        progress=bench.progress,
        seed=recipe.seed,
        choices=bench.choices,
    )
    with bench.stage("baseline"):
        baseline = measure_baseline(bench, prices)
    problem = _priced_problem(bench, prices)
    evaluator = new_evaluator(bench, prices, baseline, budget)
    return ClosedLoop(
        bench=bench,
        budget=budget,
        limits=budget.resolve(
            baseline_s=baseline.latency.median_s, baseline_accuracy=baseline.accuracy
        ),
        prices=prices,
        baseline=baseline,
        problem=problem,
        evaluator=evaluator,
        known=evaluator.known(),
    )


def _priced_problem(bench: Workbench, prices: Prices) -> Problem:
    with bench.stage("quantize"):
        space = find_choices(bench)
    with bench.stage("profile"):
        kernels = kernels_of(space)
        if len(kernels) > _MEASURE_ALL:
            kernels = core_kernels(space)
        prices.measure(kernels)
    with bench.stage("sensitivity"):
        losses = find_losses(bench, space)
    return build_problem(space, prices.seconds, losses.increase)


def _residual(problem: Problem, baseline: Baseline) -> float:
    """The baseline's measured time over the sum of its kernels."""
    unchanged = {variable.name: variable.options[0] for variable in problem.variables}
    found = priced(problem, unchanged)
    return 1.0 if found is None else baseline.latency.median_s / found.resources[SECONDS]


def _tightened(limits: Limits, best: Trial, final: Final) -> Limits:
    """Limits that the refused network does not keep."""
    accuracy = limits.min_accuracy
    if accuracy is not None and final.accuracy is not None and best.accuracy is not None:
        accuracy = max(accuracy, accuracy + best.accuracy - final.accuracy)
    over = 1.0
    if best.measured is not None:
        over = limits.latency_s / best.measured.interval_s[1]
    share = min(0.97, 0.99 / over)
    return replace(limits, latency_s=limits.latency_s * share, min_accuracy=accuracy)


def _explained_by_trials(closed: ClosedLoop, outcome: SearchOutcome) -> str:
    """An infeasible budget in words, where latency alone would have been reachable."""
    budget, target = closed.budget, closed.bench.target.name
    timed = [trial for trial in outcome.trials if trial.measured is not None]
    drop = (
        ""
        if budget.max_accuracy_drop is None
        else (f" with at most {budget.max_accuracy_drop * 100:g} points lost")
    )
    start = f"budget of {budget.text}{drop} is infeasible on '{target}' ({outcome.reason})"
    if not timed:
        return f"{start}; no trial was faster than the baseline. Relax the budget."
    reference_s, before = closed.baseline.latency.median_s, closed.baseline.accuracy
    fastest = min(timed, key=lambda t: t.measured.median_s if t.measured else 0.0)
    lines = [start]
    assert fastest.measured is not None
    share = fastest.measured.interval_s[1] / reference_s
    lines.append(f"the fastest trial takes {share:.1%} of the baseline")
    fast = [t for t in timed if t.measured and t.measured.interval_s[1] <= closed.limits.latency_s]
    if before is not None and fast:
        best = max(t.accuracy or 0.0 for t in fast)
        lines.append(
            f"within the latency the best trial loses {(before - best) * 100:.2f} points: "
            f"--max-drop {(before - best) * 100 + 0.01:.2f} would do"
        )
    accurate = [t for t in timed if closed.limits.accuracy_met(t.accuracy)]
    if accurate:
        share = min(t.measured.interval_s[1] for t in accurate if t.measured) / reference_s
        lines.append(f"accurate enough is {share:.1%}: --budget {share * 100 + 0.5:.0f}% would do")
    return "; ".join(lines)
