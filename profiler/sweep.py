"""Measure what has not been measured yet, and keep every result as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing

from millifit.profiler.measurement import Measurement, measurement_key
from millifit.profiler.store import Store
from millifit.progress import SILENT, Advance, Progress
from millifit.targets.kernel import Kernel
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target
from millifit.targets.timing import Failed, KernelTimer, TimingPolicy

_LARGEST_WORKING_SET_BYTES = 64 * 2**20


def policy_for(target: Target, network_bytes: int) -> TimingPolicy:
    """How to time the kernels of a network whose weights and activations take `network_bytes`.

    In a network a kernel finds its weights in the cache level that holds all of the network. Three
    classes, so that networks of like size share measurements: it fits the second-level cache (half
    of it is rotated through), the third-level one (a few times the second level), or neither (twice
    the last level, at most 64 MiB).
    """
    last_level = max(target.l3_bytes, target.l2_bytes)
    if network_bytes <= target.l2_bytes:
        working_set = target.l2_bytes // 2
    elif network_bytes <= target.l3_bytes:
        working_set = min(4 * target.l2_bytes, target.l3_bytes // 2)
    else:
        working_set = min(2 * last_level, _LARGEST_WORKING_SET_BYTES)
    return TimingPolicy(working_set_bytes=working_set)


def measure(
    kernels: Iterable[Kernel],
    *,
    target: Target,
    store: Store,
    timer: KernelTimer,
    policy: TimingPolicy,
    progress: Progress = SILENT,
    seed: int = 0,
    retry_failed: bool = False,
) -> dict[Kernel, Measurement]:
    """Every kernel's measurement, from the store or taken now.

    Each result is stored before the next kernel is timed: an interrupted sweep goes on where it
    stopped, and sweeps in several processes share the work. A kernel that failed before is not
    tried again unless `retry_failed`.
    """
    versions = code_versions()
    keys = {k: measurement_key(k, target.key, versions, policy) for k in dict.fromkeys(kernels)}
    missing = _missing(keys, store, retry_failed)
    if missing:
        title = f"Measuring kernels on '{target.name}'"
        with progress.stage(title, len(missing)) as advance:
            wanted = _still_missing(missing, store, retry_failed, advance)
            for _ in take(
                wanted, target=target, store=store, timer=timer, policy=policy,
                environment=timer.environment(), seed=seed,
            ):  # fmt: skip
                advance(1)
    found = store.get(keys.values())
    return {kernel: found[key] for kernel, key in keys.items()}


def take(
    kernels: Iterable[Kernel],
    *,
    target: Target,
    store: Store,
    timer: KernelTimer,
    policy: TimingPolicy,
    environment: Mapping[str, str],
    section: int | None = None,
    again: bool = False,
    seed: int = 0,
    now: Callable[[], float] = time.time,
) -> Iterator[Measurement]:
    """Measure kernels, whether they are in the store or not; each is stored before it is given.

    Where one is there already it stays, unless `again`: then it is set aside.
    """
    versions = code_versions()
    outcomes = timer.time_kernels(kernels, target, policy, seed=seed)
    with ExitStack() as stack:
        if isinstance(outcomes, Generator):  # so that an error here lets go of the machine
            stack.enter_context(closing(outcomes))
        for kernel, outcome in outcomes:
            measurement = Measurement(
                kernel=kernel,
                target_key=target.key,
                versions=versions,
                policy=policy,
                environment=environment,
                outcome=outcome,
                section=section,
                taken_at_s=now(),
            )
            if again:
                store.supersede(measurement)
            else:
                store.add(measurement)
            yield measurement


def not_stored(
    kernels: Iterable[Kernel],
    *,
    target: Target,
    store: Store,
    policy: TimingPolicy,
    on_found: Callable[[Measurement], None],
) -> Iterator[Kernel]:
    """Those that are not in the store when their turn comes: others may measure, too.

    `on_found` is given the measurements of the others.
    """
    versions = code_versions()
    for kernel in kernels:
        key = measurement_key(kernel, target.key, versions, policy)
        if found := store.get([key]):
            on_found(found[key])
        else:
            yield kernel


def _missing(keys: Mapping[Kernel, str], store: Store, retry_failed: bool) -> dict[Kernel, str]:
    found = store.get(keys.values())
    return {
        kernel: key
        for kernel, key in keys.items()
        if key not in found or (retry_failed and isinstance(found[key].outcome, Failed))
    }


def _still_missing(
    missing: Mapping[Kernel, str], store: Store, retry_failed: bool, advance: Advance
) -> Iterator[Kernel]:
    """Those that no other process has measured by the time their turn comes."""
    for kernel, key in missing.items():
        if _missing({kernel: key}, store, retry_failed):
            yield kernel
        else:
            advance(1)
