"""Fit a network into a latency budget: from profiling to the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from millifit.compress.plan import Plan
from millifit.errors import BudgetInfeasible
from millifit.pipeline.baseline import Baseline, measure_baseline
from millifit.pipeline.conclude import Final, conclude, measure_final, trial_row
from millifit.pipeline.losses import find_choices, find_losses
from millifit.pipeline.pricing import Prices, working_bytes
from millifit.pipeline.run_folder import open_run
from millifit.pipeline.trials import Evaluator
from millifit.pipeline.workbench import Timer, Workbench, identity_of, local_target, workbench
from millifit.progress import SILENT, Progress
from millifit.recipe import Recipe, write_recipe
from millifit.search.budget import Budget, Limits, parse_budget
from millifit.search.explain import ExplainedInfeasible
from millifit.search.knapsack import Problem, priced
from millifit.search.loop import SearchOutcome
from millifit.search.loop import search as run_search
from millifit.search.pareto import non_dominated
from millifit.search.problem import SECONDS, build_problem, choices_of, core_kernels, kernels_of
from millifit.search.strategies.allocation import AllocationSettings, AllocationStrategy
from millifit.search.trial import Trial, plan_key
from millifit.targets.runner.local_runner import LocalRunner

# Up to this many kernels are all measured; beyond it only those of evenly pruned networks are, the
# others are predicted and measured when a plan needs them.
_MEASURE_ALL = 300
# How often the chosen network may fail its last measurement before the run gives up.
_FINAL_ATTEMPTS = 3


def fit(
    recipe: Recipe, progress: Progress = SILENT, *, timer: Timer | None = None
) -> dict[str, Any]:
    """Fit the recipe's network into its budget; the content of ``result.json``.

    Everything found on the way is kept in the run folder; the same call goes on where an
    interrupted one stopped, and returns the stored result of a finished one. `timer` measures;
    unless given, on this machine. Raises BudgetInfeasible with the explanation, and other
    MillifitErrors for what a person can mend.
    """
    with _opened(recipe, timer, progress) as bench:
        stored: dict[str, Any] | None = bench.folder.read("result.json")
        if stored is not None:
            progress.note(
                f"run '{recipe.run}' was finished before; this is its result. Remove the folder "
                "to run it again."
            )
            return stored
        found = _Closed(bench)
        best, final, trials = found.best_and_final()
        result = conclude(
            bench, found.prices, found.baseline, found.evaluator, found.budget, trials, best, final
        )
        _report(bench, result)
        bench.folder.write("result.json", result)
        return result


def search(
    recipe: Recipe, progress: Progress = SILENT, *, timer: Timer | None = None
) -> dict[str, Any]:
    """The closed loop alone: all trials, the Pareto front of the measured ones, the best plan.

    Writes ``plan.json`` in the run folder; `fit` of the same recipe goes on from there. Raises
    BudgetInfeasible where no plan keeps the budget.
    """
    with _opened(recipe, timer, progress) as bench:
        found = _Closed(bench)
        outcome = found.search(found.limits)
        if outcome.best is None:
            raise found.infeasible(outcome)
        bench.folder.write("plan.json", outcome.best.plan.to_dict())
        rows = [trial_row(bench, trial, n) for n, trial in enumerate(outcome.trials)]
        measured = [row for row in rows if row["latency_s"] is not None]
        points = [(r["latency_s"]["median"], -(r["accuracy"] or 0.0)) for r in measured]
        return {
            "model": bench.network.name,
            "target": bench.target.name,
            "budget": recipe.budget,
            "reason": outcome.reason,
            "plan": outcome.best.plan.to_dict(),
            "trials": rows,
            "front": [measured[place] for place in non_dominated(points)],
        }


@contextmanager
def _opened(recipe: Recipe, timer: Timer | None, progress: Progress) -> Iterator[Workbench]:
    """The workbench of a recipe, in its run folder, with a timer."""
    parse_budget(recipe.budget)
    target = local_target(recipe.target, recipe.threads)
    with open_run(Path(recipe.run), identity_of(recipe)) as folder:
        write_recipe(recipe, folder.path / "recipe.yaml")
        if timer is not None:
            yield workbench(recipe, folder, timer, target, progress)
            return
        with LocalRunner(progress=progress) as runner:
            yield workbench(recipe, folder, runner, target, progress)


class _Closed:
    """Profile, model and search of one run; stages that were done before are read back."""

    def __init__(self, bench: Workbench) -> None:
        recipe = bench.recipe
        self.bench = bench
        drop = None if recipe.max_drop is None else recipe.max_drop / 100
        self.budget: Budget = parse_budget(recipe.budget, max_accuracy_drop=drop)
        self.prices = Prices(
            target=bench.target, network_bytes=working_bytes(bench.network), store=bench.store,
            timer=bench.timer, progress=bench.progress, seed=recipe.seed,
        )  # fmt: skip
        with bench.stage("baseline"):
            self.baseline: Baseline = measure_baseline(bench, self.prices)
        self.limits: Limits = self.budget.resolve(
            baseline_s=self.baseline.latency.median_s, baseline_accuracy=self.baseline.accuracy
        )
        self.problem = self._problem()
        self.evaluator = Evaluator(bench, self.prices, self.baseline, self.budget)
        self._known = self.evaluator.known()
        self._strategy: AllocationStrategy | None = None

    def _problem(self) -> Problem:
        with self.bench.stage("quantize"):
            choices = find_choices(self.bench)
        with self.bench.stage("profile"):
            kernels = kernels_of(choices.space)
            if len(kernels) > _MEASURE_ALL:
                kernels = core_kernels(choices.space)
            self.prices.measure(kernels)
        with self.bench.stage("sensitivity"):
            losses = find_losses(self.bench, choices.space)
        self._precisions = tuple(choices.space.precisions)
        return build_problem(choices.space, self.prices.seconds, losses.increase)

    def search(self, limits: Limits) -> SearchOutcome:
        """Run the closed loop under `limits`."""
        trials = self.bench.recipe.trials
        self._strategy = AllocationStrategy(
            self.problem,
            limits,
            target=self.bench.target.name,
            residual=self._residual(),
            settings=AllocationSettings(rounds=trials),
        )
        with self.bench.stage("search"):
            return run_search(
                self._strategy, self._evaluate, limits=limits, max_trials=trials,
                known=self._known, progress=self.bench.progress,
            )  # fmt: skip

    def _residual(self) -> float:
        """The baseline's measured time over the sum of its kernels."""
        unchanged = Plan(precisions=dict.fromkeys(self._precisions, "fp32"))
        priced_at = priced(self.problem, choices_of(self.problem, unchanged))
        if priced_at is None:
            return 1.0
        return self.baseline.latency.median_s / priced_at.resources[SECONDS]

    def _evaluate(self, plan: Any) -> Trial:
        trial = self.evaluator(plan)
        self._known[plan_key(plan)] = trial
        return trial

    def best_and_final(self) -> tuple[Trial, Final, tuple[Trial, ...]]:
        """Search until the chosen network also passes the last measurement."""
        limits = self.limits
        trials: dict[str, Trial] = {}
        last: tuple[Trial, Final] | None = None
        for _ in range(_FINAL_ATTEMPTS):
            outcome = self.search(limits)
            trials |= {plan_key(trial.plan): trial for trial in outcome.trials}
            if outcome.best is None:
                break
            with self.bench.stage("verify"):
                final = measure_final(self.bench, self.baseline, outcome.best, self.budget)
            last = outcome.best, final
            if not final.problems:
                break
            self.bench.progress.note(
                f"the last measurement found: {'; '.join(final.problems)}. Searching on."
            )
            limits = self._tightened(limits, outcome.best, final)
        if last is None:
            raise self.infeasible(outcome)
        return (*last, tuple(trials.values()))

    def _tightened(self, limits: Limits, best: Trial, final: Final) -> Limits:
        """Limits that the refused network does not keep."""
        accuracy = limits.min_accuracy
        if accuracy is not None and final.accuracy is not None and best.accuracy is not None:
            accuracy = max(accuracy, accuracy + best.accuracy - final.accuracy)
        over = 1.0
        if best.measured is not None:
            over = limits.latency_s / best.measured.interval_s[1]
        return replace(
            limits, latency_s=limits.latency_s * min(0.97, 0.99 / over), min_accuracy=accuracy
        )

    def infeasible(self, outcome: SearchOutcome) -> BudgetInfeasible:
        """Why no plan keeps the budget: the model's explanation, or what the trials showed."""
        explanation = None if self._strategy is None else self._strategy.explanation
        if explanation is not None:
            return ExplainedInfeasible(explanation)
        return BudgetInfeasible(_from_trials(self, outcome))


def _from_trials(closed: _Closed, outcome: SearchOutcome) -> str:
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


def _report(bench: Workbench, result: dict[str, Any]) -> None:
    from millifit.report import write_report

    write_report(result, bench.folder.path / "report.html")
