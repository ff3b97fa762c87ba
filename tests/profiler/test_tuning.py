"""Tuning kernels: in the order given, until the time is over, and never twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from millifit.profiler.measurement import Measurement
from millifit.profiler.store import Store
from millifit.profiler.tuned import BY_RULE, Tuned, choices_of
from millifit.profiler.tuning import first_look, tune
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy

POLICY = TimingPolicy(working_set_bytes=2**20)
FAST: Choice = (("rows", 6), ("vectors", 2))
SLOW: Choice = (("rows", 3),)


def candidates(kernel: Kernel, target: Target) -> tuple[Choice, ...]:
    """Two to choose from besides the rule; nothing for a layer of 8 outputs."""
    del target
    return (BY_RULE,) if kernel.output.shape[1] == 8 else (BY_RULE, FAST, SLOW)


class Clocked:
    """A timer for which every turn takes a second of its own clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked: list[Kernel] = []
        self.policies: set[TimingPolicy] = set()

    def environment(self) -> dict[str, str]:
        return {"cpu": "replayed"}

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        self.policies.add(policy)
        for kernel in kernels:
            self.now_s += 1
            self.asked.append(kernel)
            seconds = {BY_RULE: 1.0, FAST: 0.8, SLOW: 1.3}[kernel.choice]
            yield kernel, Samples(run_s=(seconds * kernel.output.shape[1],))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.sqlite")


def tuned(
    kernels: list[Kernel], target: Target, store: Store, seconds: float = 1e6
) -> tuple[list[Tuned], Clocked]:
    timer = Clocked()
    found = tune(
        kernels, candidates=candidates, target=target, store=store, timer=timer, policy=POLICY,
        seconds=seconds, clock=lambda: timer.now_s,
    )  # fmt: skip
    return found, timer


def test_winners_are_stored_in_the_order_given(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """Kernels are tuned one after the other; what has no choice is passed over."""
    found, timer = tuned([kernels[2], kernels[0], kernels[1]], target, store)
    assert [each.kernel for each in found] == [kernels[2], kernels[1]]
    assert store.tuned(target.key, code_versions()) == found
    assert choices_of(found) == {kernels[2]: FAST, kernels[1]: FAST}
    assert found[0].gain == pytest.approx(1 / 0.8)
    order = list(dict.fromkeys(kernel.with_choice(BY_RULE) for kernel in timer.asked))
    assert order == [kernels[2], kernels[1]]


def test_candidates_are_timed_in_short_turns_with_the_same_caches(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """The working set is that of the network's measurements; a turn is a few milliseconds."""
    _, timer = tuned(kernels[1:2], target, store)
    (policy,) = timer.policies
    assert policy.working_set_bytes == POLICY.working_set_bytes
    assert policy.max_samples * policy.block_s + policy.warmup_s < 0.01


def test_tuning_stops_in_time_and_goes_on_later(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """A kernel takes 24 turns here: in 30 s one is tuned, the half-tuned one is not stored."""
    first, timer = tuned(kernels[1:], target, store, seconds=30)
    assert [each.kernel for each in first] == [kernels[1]]
    assert timer.now_s == 30  # between two turns of a round
    second, timer = tuned(kernels[1:], target, store)
    assert [each.kernel for each in second] == kernels[2:]
    assert kernels[1] not in {kernel.with_choice(BY_RULE) for kernel in timer.asked}
    assert store.tuned(target.key, code_versions()) == [*first, *second]
    _, idle = tuned(kernels[1:], target, store)
    assert idle.asked == []


def test_an_interruption_loses_nothing_that_was_tuned(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """Each kernel is stored before the next begins."""

    class Interrupted(Clocked):
        def time_kernels(
            self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
        ) -> Iterator[tuple[Kernel, Samples | Failed]]:
            if len(self.asked) > 30:
                raise KeyboardInterrupt
            return super().time_kernels(kernels, target, policy, seed=seed)

    timer = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        tune(
            kernels[1:], candidates=candidates, target=target, store=store, timer=timer,
            policy=POLICY, seconds=1e6, clock=lambda: timer.now_s,
        )  # fmt: skip
    assert [each.kernel for each in store.tuned(target.key, code_versions())] == [kernels[1]]


def test_what_was_tuned_elsewhere_or_with_other_code_does_not_count(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """A winner belongs to target, threads and versions, as a measurement does."""
    tuned(kernels[1:2], target, store)
    assert store.tuned(target.with_threads(2).key, code_versions()) == []
    assert store.tuned(target.key, "apache-tvm 0.1, schedules 0") == []
    found, _ = tuned(kernels[1:2], target.with_threads(2), store)
    assert [each.kernel for each in found] == kernels[1:2]


def test_a_first_look_times_what_was_not_measured(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """Stored measurements are used, the others are timed briefly and not stored as such."""
    store.add(
        Measurement(
            kernel=kernels[0], target_key=target.key, versions=code_versions(), policy=POLICY,
            environment={}, outcome=Samples(run_s=(5.0,)),
        ),
        Measurement(
            kernel=kernels[1], target_key=target.key, versions=code_versions(), policy=POLICY,
            environment={}, outcome=Failed(reason="hung"),
        ),
    )  # fmt: skip
    timer = Clocked()
    seconds = first_look(
        kernels, target=target, store=store, timer=timer, policy=POLICY, seconds=1.5,
        clock=lambda: timer.now_s,
    )  # fmt: skip
    assert seconds == {kernels[0]: 5.0, kernels[2]: 32.0, kernels[3]: 64.0}
    late = first_look(
        kernels, target=target, store=store, timer=timer, policy=POLICY, seconds=0.5,
        clock=lambda: timer.now_s,
    )  # fmt: skip
    assert late == {kernels[0]: 5.0, kernels[2]: 32.0}
    assert store.count() == 2


def test_a_tuned_kernel_survives_the_store(
    target: Target, kernels: list[Kernel], store: Store
) -> None:
    """Times and failures of all choices come back; tuning again replaces them."""
    first = Tuned(
        kernel=kernels[0], target_key=target.key, versions="v", choice=FAST,
        trials={BY_RULE: Samples(run_s=(0.1 + 0.2,)), FAST: Samples(run_s=(1e-7 / 3, 0.1)),
                SLOW: Failed(reason="hung")},
    )  # fmt: skip
    store.add_tuned(first)
    assert store.tuned(target.key, "v") == [first]
    assert first.failures == ((SLOW, "hung"),)
    second = replace(first, choice=BY_RULE)
    store.add_tuned(second)
    assert store.tuned(target.key, "v") == [second]
    assert second.gain == 1
    assert choices_of([second]) == {}
