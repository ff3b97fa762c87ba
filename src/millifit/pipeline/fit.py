"""Fit a network into a latency budget: from profiling to the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millifit.errors import MeasurementError, TargetError
from millifit.pipeline.closed_loop import prepare
from millifit.pipeline.conclude import conclude, trial_row
from millifit.pipeline.reach import device_access, reachable_target, timing
from millifit.pipeline.run_folder import open_run
from millifit.pipeline.workbench import Timer, Workbench, identity_of, workbench
from millifit.progress import SILENT, Progress
from millifit.recipe import Recipe, write_recipe
from millifit.search.budget import parse_budget
from millifit.search.pareto import non_dominated


def fit(
    recipe: Recipe, progress: Progress = SILENT, *, timer: Timer | None = None
) -> dict[str, Any]:
    """Fit the recipe's network into its budget; the content of ``result.json``.

    Everything found on the way is kept in the run folder; the same call goes on where an
    interrupted one stopped, and returns the stored result of a finished one. `timer` measures;
    unless given, on the recipe's device or this machine. Raises BudgetInfeasible with the
    explanation, and other MillifitErrors for what a person can mend.
    """
    with _opened(recipe, timer, progress) as bench:
        stored: dict[str, Any] | None = bench.folder.read("result.json")
        if stored is not None:
            progress.note(
                f"run '{recipe.run}' was finished before; this is its result. Remove the folder "
                "to run it again."
            )
            return stored
        found = prepare(bench)
        best, final, trials = found.best_and_final()
        result = conclude(
            found.bench,
            found.prices,
            found.baseline,
            found.evaluator,
            found.budget,
            trials,
            best,
            final,
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
        found = prepare(bench)
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
    device = device_access(recipe.device, recipe.device_token_file, recipe.device_ca)
    target = reachable_target(recipe.target, device, threads=recipe.threads)
    with (
        timing(timer, device, target, progress) as chosen,  # a device that is not there leaves none
        open_run(Path(recipe.run), identity_of(recipe)) as folder,
    ):
        write_recipe(recipe, folder.path / "recipe.yaml")
        with _resumable(recipe):
            yield workbench(recipe, folder, chosen, target, progress)


@contextmanager
def _resumable(recipe: Recipe) -> Iterator[None]:
    """Say how to go on where a device was lost."""
    try:
        yield
    except (TargetError, MeasurementError) as error:
        if recipe.device is None:
            raise
        raise type(error)(
            f"{error} What was found is kept in '{recipe.run}': the same command continues, with "
            "--device of another address, too."
        ) from error


def _report(bench: Workbench, result: dict[str, Any]) -> None:
    from millifit.report import write_report

    write_report(result, bench.folder.path / "report.html")
