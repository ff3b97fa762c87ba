"""Timing whole networks against each other: in turn, round by round, so that drift hits all alike.

A machine speeds up and slows down over seconds. Networks timed one after the other see different
machines; networks timed A B C, B C A, C A B ... see the same one, and the ratio of two medians of
the same round is far steadier than either median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from millifit.errors import MeasurementError
from millifit.targets.timing import Samples, median_interval

Seconds = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTimingPolicy:
    """How networks are timed.

    In its turn a network runs for `warmup_s` and at least `warmup_runs` times untimed, then its
    inferences are timed one by one for `turn_s`, at least `min_runs` of them. Where an inference is
    too short for the clock a sample is the mean of a block that lasts about `min_sample_s`.
    Rounds end when the 95 % interval of the median of every network's round medians is narrower
    than `relative_interval` of it, or at `max_rounds` or `limit_s`. Round medians, because samples
    of one turn share the state of the machine and are not independent.
    """

    warmup_runs: int = 3
    warmup_s: float = 0.005
    turn_s: float = 0.06
    min_runs: int = 5
    min_sample_s: float = 200e-6
    min_rounds: int = 8
    max_rounds: int = 40
    relative_interval: float = 0.02
    limit_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A network as something that can be run: a bundle's folder, or an ONNX file.

    `input_path` is a .npy file with one input, float32 ``(1, *sample)``.
    """

    kind: Literal["bundle", "onnxruntime"]
    path: Path
    input_path: Path
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContenderResult:
    """What the timing of a network gave.

    `samples` are single inferences (or means of short blocks) of all rounds; `round_medians` has
    one value per round, and its interval is the one to report. `peak_memory_bytes` is what loading
    and running the network added to a process that had its runtime loaded already, at its highest;
    `process_peak_bytes` is all of that process, interpreter and runtime included.
    """

    samples: Samples
    round_medians: Samples
    peak_memory_bytes: int
    process_peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times longer one network takes than another, with a 95 % interval."""

    median: float
    low: float
    high: float


class NetworkTimer(Protocol):
    """Times whole networks in turn; a runner, or a replay of what one saw."""

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """Every contender's result; `on_round(n)` is called after the n-th round, from 1."""
        ...


def hold_rounds(
    turns: Mapping[str, Callable[[], Seconds]],
    *,
    policy: NetworkTimingPolicy,
    on_round: Callable[[int], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, list[Seconds]]:
    """Give every network its turn, round after round, until all medians are known well enough.

    The order moves on by one each round: ``A B C``, ``B C A``, ``C A B``, ... Returns the samples
    of every turn, by round.
    """
    if not turns:
        raise MeasurementError("no network was given to be timed; name at least one.")
    names = list(turns)
    rounds: dict[str, list[Seconds]] = {name: [] for name in names}
    stop = clock() + policy.limit_s
    for done in range(1, policy.max_rounds + 1):
        first = (done - 1) % len(names)
        for name in names[first:] + names[:first]:
            rounds[name].append(turns[name]())
        on_round(done)
        late = clock() > stop
        if late or (done >= policy.min_rounds and _all_narrow(rounds, policy.relative_interval)):
            break
    return rounds


def result(
    rounds: Sequence[Seconds], *, peak_memory_bytes: int, process_peak_bytes: int
) -> ContenderResult:
    """Sum up the rounds of one network."""
    return ContenderResult(
        samples=Samples(run_s=tuple(second for turn in rounds for second in turn)),
        round_medians=Samples(run_s=tuple(statistics.median(turn) for turn in rounds)),
        peak_memory_bytes=peak_memory_bytes,
        process_peak_bytes=process_peak_bytes,
    )


def paired_ratio(numerator: ContenderResult, denominator: ContenderResult) -> Ratio:
    """The ratio of two networks timed in the same rounds, from the ratio within each round.

    Above 1 where the numerator is the slower one. Both results must come from one call of
    `time_networks`.
    """
    above, below = numerator.round_medians.run_s, denominator.round_medians.run_s
    if len(above) != len(below):
        raise MeasurementError(
            f"networks timed in {len(above)} and {len(below)} rounds cannot be paired: "
            "time them together."
        )
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, high = median_interval(ratios)
    return Ratio(median=statistics.median(ratios), low=low, high=high)


def _all_narrow(rounds: Mapping[str, list[Seconds]], relative_interval: float) -> bool:
    for turns in rounds.values():
        medians = [statistics.median(turn) for turn in turns]
        low, high = median_interval(medians)
        if high - low > relative_interval * statistics.median(medians):
            return False
    return True
