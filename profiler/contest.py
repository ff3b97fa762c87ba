"""Which of several choices is fastest, timed in turn so that drift of the machine hits all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from millifit.profiler.tuned import BY_RULE
from millifit.targets.kernel import Choice
from millifit.targets.timing import Failed, Samples, median_interval

Outcome = Samples | Failed
TimeRound = Callable[[Sequence[Choice]], Iterable[tuple[Choice, Outcome]]]

# Every choice is timed this often; then the best few against the rule.
_LOOK_ROUNDS = 2
_FINAL_ROUNDS = 9
_FINALISTS = 3
# A winner is faster than the rule by so much, and by its 95 % interval faster at all.
_LEAST_GAIN = 0.03


class Contest:
    """The choices of one kernel against its rule, the empty choice, which must be among them."""

    def __init__(self, choices: Sequence[Choice], time_round: TimeRound) -> None:
        """`time_round` times some choices, once each in order; fewer if it gets late."""
        self._choices = tuple(choices)
        self._time_round = time_round
        self._looks: dict[Choice, list[float]] = {choice: [] for choice in choices}
        self._finals: dict[Choice, list[float]] = {}
        self._failed: dict[Choice, Failed] = {}

    def hold(self, late: Callable[[], bool]) -> bool:
        """Hold all rounds; False, and nothing decided, where it got late before the last."""
        if not self._rounds(_LOOK_ROUNDS, self._looks, late):
            return False
        self._finals = {choice: [] for choice in self._finalists()}
        return len(self._finals) < 2 or self._rounds(_FINAL_ROUNDS, self._finals, late)

    def trials(self) -> dict[Choice, Outcome]:
        """Every choice's medians by round, or why it has none; of the last rounds it was in."""
        found: dict[Choice, Outcome] = {}
        for choice in self._choices:
            times = self._finals.get(choice) or self._looks[choice]
            found[choice] = self._failed.get(choice) or Samples(run_s=tuple(times))
        return found

    def winner(self) -> Choice:
        """The fastest choice if it beats the rule beyond the noise, else the rule.

        Only the last rounds count: they do not know who was lucky in the first.
        """
        rule = self._finals.get(BY_RULE, [])
        ratios = {
            choice: [own / by_rule for own, by_rule in zip(times, rule, strict=True)]
            for choice, times in self._finals.items()
            if choice != BY_RULE and not self._failed.keys() & {choice, BY_RULE}
        }
        if not ratios:
            return BY_RULE
        best = min(ratios, key=lambda choice: statistics.median(ratios[choice]))
        _, high = median_interval(ratios[best])
        sure = statistics.median(ratios[best]) <= 1 - _LEAST_GAIN and high < 1
        return best if sure else BY_RULE

    def _rounds(
        self, count: int, times: dict[Choice, list[float]], late: Callable[[], bool]
    ) -> bool:
        """Time what has not failed `count` times; who begins moves on by one each round."""
        for number in range(count):
            if late():
                return False
            entrants = [choice for choice in times if choice not in self._failed]
            first = number % max(1, len(entrants))
            timed = list(self._time_round(entrants[first:] + entrants[:first]))
            if len(timed) < len(entrants):
                return False
            for choice, outcome in timed:
                if isinstance(outcome, Failed):
                    self._failed[choice] = outcome
                else:
                    times[choice].append(outcome.median_s)
        return True

    def _finalists(self) -> list[Choice]:
        """The rule, and the fastest of those that were ahead of it."""
        if BY_RULE in self._failed:
            return []
        best = {c: min(self._looks[c]) for c in self._choices if c not in self._failed}
        ahead = [choice for choice in best if best[choice] < best[BY_RULE]]
        return [BY_RULE, *sorted(ahead, key=best.__getitem__)[:_FINALISTS]]
