"""Solve on the model, try on the device, correct the model by what the device says, solve again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from millifit.compress.plan import Plan
from millifit.search.allocate import solve
from millifit.search.budget import Limits
from millifit.search.explain import Explanation, explain
from millifit.search.knapsack import LOSS, Allocation, Exclusion, Infeasible, Problem
from millifit.search.problem import BYTES, SECONDS, plan_of
from millifit.search.trial import Trial

_MEANINGFUL = 0.98  # an improvement must have less than this share of the best plan's loss


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationSettings:
    """How hard to try.

    At most `rounds` plans are proposed, at most `improvements` of them after one that keeps every
    limit. `margin` is the share of the latency limit left free after a plan was too slow, and for
    improvements; it doubles with each plan that is too slow in a row. `distance` is the share of
    the decisions in which a plan has to differ from one whose accuracy was too low; after
    `inaccurate` of those in a row the search ends, since the model has no better to offer.
    """

    rounds: int = 8
    improvements: int = 2
    margin: float = 0.01
    distance: float = 0.05
    inaccurate: int = 3
    time_limit_s: float = 60.0


class AllocationStrategy:
    """Proposes the plan of least predicted loss within the budget, and learns from each trial.

    The device's time over the problem's is the residual: at first that of the uncompressed network
    (`residual`), then that of each trial. The limit is divided by it, and the same goes for the
    bytes that the problem does not count. A plan that was tried is not proposed again. One that was
    accurate enough but too slow leads to a faster one; one that lost too much accuracy to a
    different one; one that keeps every limit to one of less loss.
    """

    def __init__(
        self,
        problem: Problem,
        limits: Limits,
        *,
        target: str,
        max_loss: float = math.inf,
        residual: float = 1.0,
        settings: AllocationSettings | None = None,
    ) -> None:
        self.explanation: Explanation | None = None
        self._problem = problem
        self._limits = limits
        self._target = target
        self._max_loss = max_loss
        self._settings = settings or AllocationSettings()
        self._reason = ""
        self._asked: Allocation | None = None
        self._best: Allocation | None = None
        self._tried: list[Exclusion] = []
        self._residual = residual
        self._other_bytes = 0.0
        self._too_slow = 0  # in a row
        self._inaccurate: list[float] = []  # accuracies of fast enough plans, in a row
        self._rounds = 0
        self._improvements = 0

    @property
    def reason(self) -> str:
        """Why nothing more is asked; empty while the search goes on."""
        return self._reason

    def ask(self) -> Sequence[Plan]:
        """One plan, or none when the search has ended; `explanation` is set where none exists."""
        if not self._reason:
            self._reason = self._exhausted()
        if self._reason:
            return ()
        found = self._solve(self._effective(self._room()))
        if found is None and self._room() < 1.0:
            found = self._solve(self._effective(1.0))
        if found is None:
            self._end()
            return ()
        self._rounds += 1
        self._improvements += self._best is not None
        self._asked = found
        return (plan_of(self._problem, found.choices),)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from the trial of the plan asked for last."""
        asked, self._asked = self._asked, None
        if asked is None or not trials:
            return
        trial = trials[0]
        slow = trial.measured is not None and trial.measured.interval_s[1] > self._limits.latency_s
        inaccurate = trial.measured is not None and not self._limits.accuracy_met(trial.accuracy)
        distance = 1
        if inaccurate and not slow:
            distance = math.ceil(self._settings.distance * len(self._problem.variables))
        self._tried.append(Exclusion(choices=asked.choices, distance=distance))
        if trial.measured is None:
            return
        self._residual = trial.measured.interval_s[1] / asked.resources[SECONDS]
        self._other_bytes = trial.size_bytes - asked.resources.get(BYTES, 0.0)
        self._too_slow = self._too_slow + 1 if slow else 0
        if not slow:
            self._inaccurate = [*self._inaccurate, trial.accuracy or 0.0] if inaccurate else []
        if trial.feasible and (self._best is None or asked.loss < self._best.loss):
            self._best = asked

    def _exhausted(self) -> str:
        """Why the search is over before another plan is sought; empty where it is not."""
        if self._best is not None and self._best.loss <= 0.0:
            return "a plan without predicted loss is within the budget"
        if self._best is not None and self._improvements >= self._settings.improvements:
            return "a plan within the budget was found, and better ones were tried"
        if self._best is None and len(self._inaccurate) >= self._settings.inaccurate:
            wanted = self._limits.min_accuracy or 0.0
            return (
                f"the {len(self._inaccurate)} plans of least predicted loss lost too much "
                f"accuracy: {max(self._inaccurate):.2%} at best, {wanted:.2%} wanted"
            )
        if self._rounds >= self._settings.rounds:
            return f"the limit of {self._rounds} rounds is reached"
        return ""

    def _room(self) -> float:
        """The share of the latency limit to use: less, the more plans in a row were too slow."""
        if not self._too_slow and self._best is None:
            return 1.0
        return 1.0 - min(self._settings.margin * 2.0 ** max(self._too_slow - 1, 0), 0.5)

    def _effective(self, room: float) -> dict[str, float]:
        """The limits on the problem's own scale, given what the device said so far."""
        limits = {SECONDS: self._limits.latency_s * room / self._residual, LOSS: self._max_loss}
        if self._limits.size_bytes is not None:
            limits[BYTES] = self._limits.size_bytes - self._other_bytes
        if self._best is not None:
            limits[LOSS] = min(self._max_loss, self._best.loss * _MEANINGFUL)
        return limits

    def _solve(self, limits: Mapping[str, float], *, excluding: bool = True) -> Allocation | None:
        found = solve(
            self._problem,
            limits,
            excluded=self._tried if excluding else (),
            time_limit_s=self._settings.time_limit_s,
        )
        return None if isinstance(found, Infeasible) else found

    def _end(self) -> None:
        """Say why there is no further plan, and explain it where there never was one."""
        if self._best is not None:
            self._reason = "no plan of less predicted loss is within the budget"
            return
        limits = self._effective(1.0)
        if self._solve(limits, excluding=False) is not None:
            self._reason = "every plan that is predicted to keep the limits was tried"
            return
        limits[SECONDS] = self._limits.latency_s
        fixed = dict(self._problem.fixed)
        if self._limits.size_bytes is not None:
            limits[BYTES] = self._limits.size_bytes
            fixed[BYTES] = fixed.get(BYTES, 0.0) + self._other_bytes
        self.explanation = explain(
            replace(self._problem, fixed=fixed),
            limits,
            target=self._target,
            scale=self._residual,
            time_limit_s=self._settings.time_limit_s,
        )
        self._reason = self.explanation.text
