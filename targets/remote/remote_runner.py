"""Timing on devices elsewhere: what `runner.LocalRunner` does here, over TVM's RPC.

Kernels are compiled on this machine, ahead of the device, and timed on it one at a time; where a
tracker lends several devices of one kind they share the kernels. Networks take turns on one device.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self, TypeVar

from millifit.errors import TargetError
from millifit.progress import SILENT, Progress
from millifit.targets.device_facts import DeviceFacts, why_not
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.compilers import COMPILER, CompiledKernel, Compilers
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.device_pool import DevicePool
from millifit.targets.remote.remote_device import (
    COMPUTES,
    DeviceLostError,
    RemoteDevice,
    SessionDiedError,
    scratch_folder,
)
from millifit.targets.remote.remote_networks import RemoteNetworks
from millifit.targets.remote.runtime_versions import runtime_mismatch
from millifit.targets.remote.trace import KernelTrace
from millifit.targets.runner.answers import samples_of
from millifit.targets.runner.child import ChildLostError, RequestFailedError
from millifit.targets.runner.network_timing import Contender, ContenderResult, NetworkTimingPolicy
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy

T = TypeVar("T")

_ATTEMPTS = 3
_MOST_DEATHS = 2
_MOST_COMPILERS = 4
_MOST_AT_ONCE = 64
_REASON_CHARACTERS = 500
_LEAVING_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweep:
    """What the kernels of a sweep share. `opened` is set once there is a device, or never will be;
    `left` once nobody wants the rest.
    """

    target: Target
    policy: TimingPolicy
    seed: int
    opened: Event = field(default_factory=Event)
    left: Event = field(default_factory=Event)


class RemoteRunner:
    """Times kernels and networks on a device, or on all that a tracker has of one kind.

    A context manager: leaving it ends the sessions and all child processes. `traces` has the way
    of every kernel that was timed.
    """

    contenders = frozenset({"bundle"})

    def __init__(
        self,
        address: DeviceAddress,
        target: Target,
        *,
        credentials: Credentials,
        timeout_s: float = 30.0,
        patience_s: float = 120.0,
        compiler: Sequence[str] = COMPILER,
        progress: Progress = SILENT,
    ) -> None:
        """`target` is what the device must be able to run.

        A kernel has `timeout_s` to be compiled, and again to be timed. A device that is lost is
        waited for `patience_s`. `compiler` starts a child that speaks `compiler`'s protocol.
        """
        self.traces: list[KernelTrace] = []
        self._target = target
        self._timeout_s = timeout_s
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(scratch_folder()))
        self._pool = DevicePool(
            address, credentials, accept=self._accept, progress=progress, patience_s=patience_s
        )
        self._compilers = Compilers(
            self._folder,
            count=min(_MOST_COMPILERS, _usable_cores()),
            timeout_s=timeout_s,
            command=compiler,
        )
        self._stack.enter_context(closing(self._compilers))
        self._stack.enter_context(closing(self._pool))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._compilers.stop()
        self._stack.close()

    def facts(self) -> DeviceFacts:
        """What the device says of itself; connects.

        Raises TargetError where it cannot be reached, does not take the token, or runs no code of
        the target.
        """
        return self._pool.open().facts

    def environment(self) -> dict[str, str]:
        """Facts of the device as it is now."""
        found = self._persist(lambda device: device.environment())
        return {**found, "emulated": "yes"} if self._target.emulated else found

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        """Each kernel with its samples, or with why there are none, as they come.

        A few kernels are pulled ahead, to be compiled while others are timed, the first ones while
        the device is connected to. Raises TargetError where the device is lost for good; what was
        given before stays measured.
        """
        sweep = _Sweep(target=target, policy=policy, seed=seed)
        pending = iter(kernels)
        running: dict[Future[Samples | Failed], Kernel] = {}
        executor = ThreadPoolExecutor(_MOST_AT_ONCE)
        turns = itertools.count()

        def begin(count: int) -> None:
            while len(running) < count and (kernel := next(pending, None)) is not None:
                running[executor.submit(self._time_kernel, kernel, sweep, next(turns))] = kernel

        ahead = min(_MOST_COMPILERS, _usable_cores())
        try:
            begin(ahead)
            self._pool.open()
            sweep.opened.set()
            while True:
                begin(min(_MOST_AT_ONCE, ahead + self._pool.count))
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for task in [each for each in running if each in done]:  # as they were pulled
                    yield running.pop(task), task.result()
        finally:
            sweep.left.set()
            sweep.opened.set()
            self._leave(executor, running)

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """Every contender's result, all on one device; they take turns as they do here.

        Raises BundleError for a damaged bundle, MeasurementError naming the contender that could
        not be loaded or run, TargetError where the device is lost for good.
        """
        return self._persist(
            lambda device: RemoteNetworks(device, self._folder).time(
                contenders, policy=policy, on_round=on_round
            )
        )

    def outputs(self, bundle: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
        """The first output of a bundle for every sample ``[N, *sample]``: ``[N, ...]``."""
        return self._persist(
            lambda device: RemoteNetworks(device, self._folder).outputs(
                bundle, x, on_sample=on_sample
            )
        )

    def _accept(self, address: DeviceAddress, facts: DeviceFacts) -> None:
        """Raise TargetError for a device that does not run the target's code."""
        reason = why_not(self._target, facts)
        if reason is not None:
            raise TargetError(
                f"target '{self._target.name}' does not run on {address} "
                f"({facts.cpu}): {reason}. Name the target that the device is; "
                "`millifit targets list` shows them."
            )
        mismatch = runtime_mismatch(facts.versions)
        if mismatch is not None:
            raise TargetError(f"{address}: {mismatch}")

    def _persist(
        self, work: Callable[[RemoteDevice], T], turn: int = 0, left: Event | None = None
    ) -> T:
        """Do it on some device; on another, or once more, where that one is lost.

        Who has the lowest `turn` comes first; nothing is done once more after it was `left`.
        Raises SessionDiedError where it killed a session twice, on a device that was still there.
        """
        left = left or Event()
        deaths = 0
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._pool.borrow(turn, left.is_set) as device:
                    return work(device)
            except DeviceLostError as error:
                deaths += isinstance(error, SessionDiedError)
                if deaths == _MOST_DEATHS or left.is_set():
                    raise
                if attempt == _ATTEMPTS:
                    why = str(error).rstrip(".")
                    raise TargetError(f"{why}: the third time in a row.") from error
        raise AssertionError

    def _time_kernel(self, kernel: Kernel, sweep: _Sweep, turn: int) -> Samples | Failed:
        library = self._compilers.library(kernel, sweep.target)
        if isinstance(library, Failed):
            return library
        compiled_s = time.monotonic()
        sweep.opened.wait()
        if sweep.left.is_set():
            return Failed(reason="the sweep was left")  # which nobody hears
        try:
            return self._persist(
                lambda device: self._time_library(device, library, kernel, sweep, compiled_s),
                turn,
                sweep.left,
            )
        except SessionDiedError as error:
            return Failed(reason=str(error)[:_REASON_CHARACTERS])

    def _time_library(
        self,
        device: RemoteDevice,
        library: CompiledKernel,
        kernel: Kernel,
        sweep: _Sweep,
        compiled_s: float,
    ) -> Samples | Failed:
        target = sweep.target
        asked = {
            "do": "time_library", "kernel": kernel.to_dict(), "target": dataclasses.asdict(target),
            "policy": dataclasses.asdict(sweep.policy), "seed": sweep.seed,
            "operands": library.operands, "executable": library.executable,
        }  # fmt: skip
        begun_s = time.monotonic()
        try:
            answer = device.run(
                f"{COMPUTES}{target.threads}", asked, timeout_s=self._timeout_s,
                threads=target.threads, files={"library": library.path},
            )  # fmt: skip
            found = samples_of(answer)
        except (RequestFailedError, ChildLostError) as error:
            return Failed(reason=str(error)[:_REASON_CHARACTERS])
        self.traces.append(
            KernelTrace(
                compiled_s=compiled_s, begun_s=begun_s, ended_s=time.monotonic(),
                on_device_s=float(answer["timed_s"]),
            )
        )  # fmt: skip
        return found

    def _leave(
        self, executor: ThreadPoolExecutor, running: Mapping[Future[Samples | Failed], Kernel]
    ) -> None:
        """End what is still being timed, where the caller wants no more of it."""
        executor.shutdown(wait=False, cancel_futures=True)
        if wait(running, timeout=_LEAVING_S).not_done:
            self._compilers.stop()
            self._pool.end_sessions()
        executor.shutdown(wait=True)


def _usable_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))
