"""The sweep: only what is missing is measured, and nothing measured is lost."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from millifit.errors import MeasurementError
from millifit.profiler.store import Store
from millifit.profiler.sweep import measure, policy_for
from millifit.targets.kernel import Kernel
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy

POLICY = TimingPolicy()
MIB = 2**20


class Replay:
    """Stands in for a device: answers from memory, and remembers what it was asked."""

    def __init__(self, outcomes: Mapping[Kernel, Samples | Failed]) -> None:
        self.outcomes = dict(outcomes)
        self.asked: list[Kernel] = []

    def environment(self) -> dict[str, str]:
        return {"cpu": "replayed"}

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        for kernel in kernels:
            self.asked.append(kernel)
            yield kernel, self.outcomes[kernel]


@pytest.fixture
def timer(kernels: list[Kernel]) -> Replay:
    """The first kernel takes about 1 ms, the second 2 ms, ...; the last one fails."""
    outcomes: dict[Kernel, Samples | Failed] = {
        kernel: Samples(run_s=(n * 1e-3, n * 1.1e-3, n * 1.3e-3))
        for n, kernel in enumerate(kernels, start=1)
    }
    outcomes[kernels[-1]] = Failed(reason="killed by signal 11 (SIGSEGV)")
    return Replay(outcomes)


def test_everything_is_measured_once(
    tmp_path: Path, target: Target, kernels: list[Kernel], timer: Replay
) -> None:
    """Outcomes are returned by kernel, failures too; equal kernels and stored ones are skipped."""
    store = Store(tmp_path / "s.sqlite")
    for _ in range(2):
        found = measure(kernels + kernels, target=target, store=store, timer=timer, policy=POLICY)
        assert {kernel: m.outcome for kernel, m in found.items()} == timer.outcomes
    assert timer.asked == kernels
    assert store.count(target.key) == 4


def test_other_threads_and_policies_are_other_measurements(
    tmp_path: Path, target: Target, kernels: list[Kernel], timer: Replay
) -> None:
    """What changes the number changes the key; the target's name does not."""
    store = Store(tmp_path / "s.sqlite")
    for variant in (target, replace(target, name="renamed"), target.with_threads(2)):
        measure(kernels[:1], target=variant, store=store, timer=timer, policy=POLICY)
    colder = TimingPolicy(working_set_bytes=MIB)
    measure(kernels[:1], target=target, store=store, timer=timer, policy=colder)
    assert len(timer.asked) == 3


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    tmp_path: Path, target: Target, kernels: list[Kernel], timer: Replay
) -> None:
    """What was measured before the interruption is in the store and is not measured again."""

    class Dies(Replay):
        def time_kernels(
            self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
        ) -> Iterator[tuple[Kernel, Samples | Failed]]:
            for done in super().time_kernels(kernels, target, policy, seed=seed):
                if len(self.asked) > 2:
                    raise MeasurementError("the power went out")
                yield done

    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(MeasurementError, match="power"):
        measure(kernels, target=target, store=store, timer=Dies(timer.outcomes), policy=POLICY)
    assert store.count() == 2
    measure(kernels, target=target, store=store, timer=timer, policy=POLICY)
    assert timer.asked == kernels[2:]


def test_what_another_process_measured_meanwhile_is_not_measured_again(
    tmp_path: Path, target: Target, kernels: list[Kernel], timer: Replay
) -> None:
    """The store is asked again when a kernel's turn comes, not only at the start."""
    store = Store(tmp_path / "s.sqlite")
    other = Replay({kernel: Samples(run_s=(9.0,)) for kernel in kernels})

    class Overtaken(Replay):
        def time_kernels(
            self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
        ) -> Iterator[tuple[Kernel, Samples | Failed]]:
            measure(
                list(other.outcomes)[:2], target=target, store=store, timer=other, policy=policy
            )
            yield from super().time_kernels(kernels, target, policy, seed=seed)

    overtaken = Overtaken(timer.outcomes)
    found = measure(kernels, target=target, store=store, timer=overtaken, policy=POLICY)
    assert overtaken.asked == kernels[2:]
    assert found[kernels[0]].outcome == Samples(run_s=(9.0,))


def test_a_failure_is_tried_again_only_when_asked_for(
    tmp_path: Path, target: Target, kernels: list[Kernel], timer: Replay
) -> None:
    """A failed measurement is a result; `retry_failed` measures it, and nothing else, again."""
    store = Store(tmp_path / "s.sqlite")
    measure(kernels, target=target, store=store, timer=timer, policy=POLICY)
    timer.outcomes[kernels[-1]] = Samples(run_s=(4e-3,))
    found = measure(
        kernels, target=target, store=store, timer=timer, policy=POLICY, retry_failed=True
    )
    assert timer.asked == [*kernels, kernels[-1]]
    assert found[kernels[-1]].outcome == Samples(run_s=(4e-3,))


@pytest.mark.parametrize(
    ("network_bytes", "working_set_bytes"),
    [(1 * MIB, MIB // 2), (1 * MIB + 1, 4 * MIB), (32 * MIB, 4 * MIB), (32 * MIB + 1, 64 * MIB)],
)
def test_the_working_set_has_three_classes(
    target: Target, network_bytes: int, working_set_bytes: int
) -> None:
    """1 MiB of L2 and 32 MiB of L3: networks that fit L2, L3 or neither."""
    assert policy_for(target, network_bytes).working_set_bytes == working_set_bytes


def test_without_a_third_level_the_second_is_the_last(target: Target) -> None:
    """A board with L2 only rotates through twice its size."""
    board = replace(target, l3_bytes=0)
    assert policy_for(board, 5 * MIB).working_set_bytes == 2 * MIB
