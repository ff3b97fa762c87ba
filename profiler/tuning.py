"""Tuning: measure a handful of choices per kernel on the target, and keep those that win."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from millifit.profiler.contest import Contest
from millifit.profiler.measurement import measurement_key
from millifit.profiler.store import Store
from millifit.profiler.tuned import Tuned
from millifit.progress import SILENT, Progress
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target
from millifit.targets.timing import Failed, KernelTimer, Samples, TimingPolicy

Candidates = Callable[[Kernel, Target], Sequence[Choice]]


def turn_policy(policy: TimingPolicy) -> TimingPolicy:
    """How a choice is timed in its turn: briefly, and with the caches as in `policy`."""
    return replace(policy, warmup_s=0.001, block_s=0.001, min_samples=3, max_samples=3, limit_s=0.1)


def first_look(
    kernels: Iterable[Kernel],
    *,
    target: Target,
    store: Store,
    timer: KernelTimer,
    policy: TimingPolicy,
    seconds: float,
    progress: Progress = SILENT,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> dict[Kernel, float]:
    """Seconds of every kernel as its rule schedules it: measured earlier, or timed briefly now.

    Left out are kernels that do not run, and those whose turn did not come within `seconds`.
    """
    stop = clock() + seconds
    versions = code_versions()
    keys = {k: measurement_key(k, target.key, versions, policy) for k in dict.fromkeys(kernels)}
    measured = store.get(keys.values())
    outcomes = {kernel: measured[key].outcome for kernel, key in keys.items() if key in measured}
    missing = [kernel for kernel in keys if kernel not in outcomes]
    with progress.stage("look at kernels", len(missing)) as advance:
        in_time = itertools.takewhile(lambda _: clock() < stop, missing)
        for kernel, outcome in timer.time_kernels(in_time, target, turn_policy(policy), seed=seed):
            outcomes[kernel] = outcome
            advance(1)
    return {kernel: o.median_s for kernel, o in outcomes.items() if isinstance(o, Samples)}


def tune(
    kernels: Sequence[Kernel],
    *,
    candidates: Candidates,
    target: Target,
    store: Store,
    timer: KernelTimer,
    policy: TimingPolicy,
    seconds: float,
    progress: Progress = SILENT,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> list[Tuned]:
    """Tune kernels in the order given until `seconds` are over; returns those tuned now.

    Each result is stored before the next kernel begins and kernels tuned before are skipped, so an
    interrupted tuning goes on where it stopped. A kernel that is not through when the time is over
    is not stored. Kernels with nothing to choose are passed over.
    """
    stop = clock() + seconds

    def late() -> bool:
        return clock() >= stop

    versions = code_versions()
    done = {each.kernel for each in store.tuned(target.key, versions)}
    choices = {k: candidates(k, target) for k in dict.fromkeys(kernels) if k not in done}
    wanted = [kernel for kernel in choices if len(choices[kernel]) > 1]
    found: list[Tuned] = []
    with progress.stage(f"tune kernels on '{target.name}'", len(wanted)) as advance:
        for kernel in wanted:
            turns = _turns(kernel, timer, target, policy, seed, late)
            contest = Contest(choices[kernel], turns)
            if not contest.hold(late):
                break
            found.append(
                Tuned(
                    kernel=kernel,
                    target_key=target.key,
                    versions=versions,
                    choice=contest.winner(),
                    trials=contest.trials(),
                )
            )
            store.add_tuned(found[-1])
            advance(1)
    return found


def _turns(
    kernel: Kernel,
    timer: KernelTimer,
    target: Target,
    policy: TimingPolicy,
    seed: int,
    late: Callable[[], bool],
) -> Callable[[Sequence[Choice]], Iterable[tuple[Choice, Samples | Failed]]]:
    """One turn for each of some choices of a kernel, as long as it is not late."""

    def time_round(choices: Sequence[Choice]) -> list[tuple[Choice, Samples | Failed]]:
        variants = (kernel.with_choice(choice) for choice in choices)
        in_time = itertools.takewhile(lambda _: not late(), variants)
        timed = timer.time_kernels(in_time, target, turn_policy(policy), seed=seed)
        return [(variant.choice, outcome) for variant, outcome in timed]

    return time_round
