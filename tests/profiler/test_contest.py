"""A contest of choices: who wins, by how much it takes, and what happens to those that fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from millifit.profiler.contest import Contest
from millifit.profiler.tuned import BY_RULE
from millifit.targets.kernel import Choice
from millifit.targets.timing import Failed, Samples

A: Choice = (("rows", 6),)
B: Choice = (("rows", 4),)
C: Choice = (("rows", 3),)
D: Choice = (("rows", 2),)
CRASH = Failed(reason="killed by signal 11 (SIGSEGV)")


class Machine:
    """Times choices by a table; drifts by 10 % from round to round, the same for all."""

    def __init__(self, seconds: Mapping[Choice, float | Failed]) -> None:
        self.seconds = dict(seconds)
        self.rounds: list[tuple[Choice, ...]] = []

    def __call__(self, choices: Sequence[Choice]) -> Iterator[tuple[Choice, Samples | Failed]]:
        drift = 1 + 0.1 * (len(self.rounds) % 2)
        self.rounds.append(tuple(choices))
        for choice in choices:
            taken = self.seconds[choice]
            if isinstance(taken, Failed):
                yield choice, taken
            else:
                yield choice, Samples(run_s=(taken * drift,))


def never() -> bool:
    return False


def held(seconds: Mapping[Choice, float | Failed]) -> tuple[Contest, Machine]:
    machine = Machine(seconds)
    contest = Contest(list(seconds), machine)
    assert contest.hold(never)
    return contest, machine


def test_the_fastest_wins_although_the_machine_drifts() -> None:
    """5 % are seen through 10 % of drift, since all of a round see the same machine."""
    contest, _ = held({BY_RULE: 1.0, A: 0.95, B: 0.97, C: 1.2})
    assert contest.winner() == A


@pytest.mark.parametrize(("taken", "winner"), [(0.98, BY_RULE), (0.965, A), (1.0, BY_RULE)])
def test_a_winner_beats_the_rule_by_3_percent(taken: float, winner: Choice) -> None:
    """Less may be noise, and is not worth a difference from the rule."""
    contest, _ = held({BY_RULE: 1.0, A: taken})
    assert contest.winner() == winner


def test_noise_does_not_win() -> None:
    """A choice that is faster in most rounds, and slower in some, is not kept."""

    class Noisy(Machine):
        def __call__(self, choices: Sequence[Choice]) -> Iterator[tuple[Choice, Samples | Failed]]:
            self.seconds[A] = 1.3 if len(self.rounds) in (4, 7) else 0.9
            return super().__call__(choices)

    contest = Contest([BY_RULE, A], Noisy({BY_RULE: 1.0, A: 0.9}))
    assert contest.hold(never)
    assert contest.winner() == BY_RULE


def test_all_are_looked_at_and_the_best_few_are_timed_on() -> None:
    """Two rounds of all, then nine of the rule and those ahead of it; who begins changes."""
    contest, machine = held({BY_RULE: 1.0, A: 0.8, B: 0.85, C: 0.7, D: 0.9})
    assert [set(turn) for turn in machine.rounds] == [{BY_RULE, A, B, C, D}] * 2 + [
        {BY_RULE, A, B, C}
    ] * 9
    assert machine.rounds[2][0] != machine.rounds[3][0]
    lengths = {
        choice: len(o.run_s) for choice, o in contest.trials().items() if isinstance(o, Samples)
    }
    assert lengths == {BY_RULE: 9, A: 9, B: 9, C: 9, D: 2}


def test_where_nothing_is_ahead_the_rule_stays_after_two_rounds() -> None:
    """No time is spent on a contest that is decided."""
    contest, machine = held({BY_RULE: 1.0, A: 1.5, B: 1.1})
    assert contest.winner() == BY_RULE
    assert len(machine.rounds) == 2


def test_what_fails_is_left_out_and_recorded() -> None:
    """A choice that crashes is not tried again, and the others go on."""
    contest, machine = held({BY_RULE: 1.0, A: CRASH, B: 0.9})
    assert contest.winner() == B
    assert contest.trials()[A] == CRASH
    assert sum(A in turn for turn in machine.rounds) == 1


def test_a_finalist_that_fails_does_not_win() -> None:
    """A choice that crashes in its fifth turn is no winner, however fast it was."""

    class Crashing(Machine):
        def __call__(self, choices: Sequence[Choice]) -> Iterator[tuple[Choice, Samples | Failed]]:
            if len(self.rounds) == 4:
                self.seconds[A] = CRASH
            return super().__call__(choices)

    contest = Contest([BY_RULE, A, B], Crashing({BY_RULE: 1.0, A: 0.5, B: 0.9}))
    assert contest.hold(never)
    assert contest.winner() == B
    assert contest.trials()[A] == CRASH


def test_where_the_rule_fails_nothing_is_chosen() -> None:
    """There is nothing to compare with: the failure is recorded, the rule stays."""
    contest, _ = held({BY_RULE: CRASH, A: 1.0})
    assert contest.winner() == BY_RULE
    assert contest.trials()[BY_RULE] == CRASH


@pytest.mark.parametrize("rounds", [0, 1, 2, 10])
def test_a_contest_that_gets_late_decides_nothing(rounds: int) -> None:
    """Whenever the time is over before the last round, that is said, and no round is begun."""
    machine = Machine({BY_RULE: 1.0, A: 0.5})
    contest = Contest([BY_RULE, A], machine)
    assert not contest.hold(lambda: len(machine.rounds) >= rounds)
    assert len(machine.rounds) == rounds
