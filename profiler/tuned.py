"""A tuned kernel: which choices were tried on a target, and which one won."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from millifit.targets.kernel import Choice, Kernel
from millifit.targets.timing import Failed, Samples

BY_RULE: Choice = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """One kernel tuned on one target.

    `kernel` has no choice. `trials` are the round medians of every choice that was tried, or why it
    has none; the empty one is the rule's. `choice` is the winner: empty, unless another was faster
    by more than the noise. `versions` are those of the code generator and the schedules, as with a
    measurement.
    """

    kernel: Kernel
    target_key: str
    versions: str
    choice: Choice
    trials: Mapping[Choice, Samples | Failed]

    @property
    def gain(self) -> float:
        """How many times faster the winner is than the rule; 1 where the rule stays."""
        return _median_s(self.trials.get(BY_RULE)) / _median_s(self.trials.get(self.choice))

    @property
    def failures(self) -> tuple[tuple[Choice, str], ...]:
        """The choices that gave no time, and why."""
        return tuple(
            (choice, outcome.reason)
            for choice, outcome in self.trials.items()
            if isinstance(outcome, Failed)
        )

    def plain_trials(self) -> list[dict[str, Any]]:
        """The trials as plain JSON types."""
        return [
            {"choice": choice, "failure": outcome.reason}
            if isinstance(outcome, Failed)
            else {"choice": choice, "run_s": outcome.run_s}
            for choice, outcome in self.trials.items()
        ]


def trials_of(plain: Iterable[Mapping[str, Any]]) -> dict[Choice, Samples | Failed]:
    """What `Tuned.plain_trials` gave."""
    return {
        choice_from(each["choice"]): Failed(reason=str(each["failure"]))
        if "failure" in each
        else Samples(run_s=tuple(each["run_s"]))
        for each in plain
    }


def choice_from(plain: Iterable[Iterable[Any]]) -> Choice:
    """A choice from JSON's lists of pairs."""
    return tuple((str(name), value) for name, value in plain)


def choices_of(tuned: Iterable[Tuned]) -> dict[Kernel, Choice]:
    """The kernels for which something else than the rule won."""
    return {each.kernel: each.choice for each in tuned if each.choice != BY_RULE}


def _median_s(outcome: Samples | Failed | None) -> float:
    return outcome.median_s if isinstance(outcome, Samples) else 1.0
