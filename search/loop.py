"""The closed loop: ask a strategy for plans, try them on the device, tell it what came out.

One loop runs every strategy. It ends after `max_trials` at the latest, and a run that was killed
ends in the identical outcome when its stored trials are passed as `known`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from millifit.compress.plan import Plan
from millifit.progress import SILENT, Progress
from millifit.search.budget import Limits
from millifit.search.strategies.strategy import Strategy
from millifit.search.trial import Trial, plan_key


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """The best feasible trial (None: there is none), all trials in order, and why it ended."""

    best: Trial | None
    trials: tuple[Trial, ...]
    reason: str


def search(
    strategy: Strategy,
    evaluate: Callable[[Plan], Trial],
    *,
    limits: Limits,
    max_trials: int,
    known: Mapping[str, Trial] | None = None,
    progress: Progress = SILENT,
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchOutcome:
    """Run `strategy` until it has nothing to ask, or for `max_trials`.

    `evaluate` compresses, compiles and measures one plan. A plan whose `plan_key` is in `known`,
    or that was tried before, is not evaluated again. `on_trial` gets every newly evaluated trial,
    judged, to be stored before the next one starts.
    """
    seen = dict(known or {})
    trials: list[Trial] = []
    reason = f"the limit of {max_trials} trials is reached"
    with progress.stage("trials", max_trials) as advance:
        while len(trials) < max_trials:
            plans = strategy.ask()
            if not plans:
                reason = strategy.reason
                break
            batch: list[Trial] = []
            for plan in plans[: max_trials - len(trials)]:
                key = plan_key(plan)
                fresh = key not in seen
                seen[key] = judged(evaluate(plan) if fresh else seen[key], limits)
                batch.append(seen[key])
                if fresh and on_trial is not None:
                    on_trial(seen[key])
                advance(1)
            trials.extend(batch)
            strategy.tell(batch)
    return SearchOutcome(best=best_of(trials), trials=tuple(trials), reason=reason)


def judged(trial: Trial, limits: Limits) -> Trial:
    """The trial with `feasible` set by `limits`, and what it misses added to its note.

    Latency is judged by the upper end of the measured interval.
    """
    if trial.measured is None:
        return replace(trial, feasible=False)
    missed = limits.missed(
        high_s=trial.measured.interval_s[1],
        size_bytes=trial.size_bytes,
        accuracy=trial.accuracy,
    )
    known = trial.note.split("; ") if trial.note else []
    note = "; ".join(dict.fromkeys([*known, *missed]))
    return replace(trial, feasible=not missed, note=note)


def best_of(trials: list[Trial]) -> Trial | None:
    """The most accurate feasible trial; of equally accurate ones the fastest.

    Without labels the first feasible one: strategies ask for the mildest compression first.
    """
    feasible = [trial for trial in trials if trial.feasible]
    if not feasible or any(trial.accuracy is None for trial in feasible):
        return feasible[0] if feasible else None
    return max(feasible, key=_merit)


def _merit(trial: Trial) -> tuple[float, float]:
    latency_s = trial.measured.median_s if trial.measured is not None else 0.0
    return (trial.accuracy or 0.0, -latency_s)
