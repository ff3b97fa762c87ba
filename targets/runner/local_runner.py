"""Timing on this machine, in child processes: kernels one by one, networks in turn."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from millifit.errors import MeasurementError, TargetError
from millifit.progress import SILENT, Progress
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import first_outputs
from millifit.targets.network import Array
from millifit.targets.runner.answers import samples_of, seconds_of
from millifit.targets.runner.child import Child, ChildLostError, RequestFailedError
from millifit.targets.runner.environment import describe_environment
from millifit.targets.runner.machine_lock import exclusive
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
    Seconds,
    hold_rounds,
    result,
)
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy

# -P: the working folder's own json.py or tvm.py, if any, is not imported in place of the real one.
_WORKER = (sys.executable, "-P", "-m", "millifit.targets.runner.worker")
_START_S = 180.0  # importing the compiler on a slow, busy machine
_TURN_S = 300.0  # loading, or one turn of, a network
_REASON_CHARACTERS = 500


class LocalRunner:
    """Times kernels and networks on this machine, and runs bundles.

    A context manager: leaving it ends the child. Kernels share one child process, which is started
    when the first one is timed and replaced when it crashes or hangs. Every contender among
    networks gets a child of its own.
    """

    contenders = frozenset({"bundle", "onnxruntime"})

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        command: Sequence[str] = _WORKER,
        progress: Progress = SILENT,
    ) -> None:
        """`timeout_s` is the time a kernel has to be compiled and timed; `command` starts a child
        that speaks `worker`'s protocol.
        """
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._progress = progress
        self._child: Child | None = None
        self._child_threads = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop_child()

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        """Each kernel with its samples, or with why there are none. See `timing.KernelTimer`.

        The machine is held from pulling a kernel until the next one is asked for, so that what the
        caller stores is seen by a run that waits. Raises TargetError for a target that is not this
        machine, and MeasurementError when no child can be started.
        """
        if target.reach != "local":
            raise TargetError(
                f"target '{target.name}' is not this machine: its kernels cannot be timed here. "
                "Use a target that `millifit targets list` shows as local, or a stored profile."
            )
        pending = iter(kernels)
        while True:
            with exclusive(self._say_waiting):
                kernel = next(pending, None)
                if kernel is None:
                    return
                yield kernel, self._time_kernel(kernel, target, policy, seed)
            time.sleep(0.001)  # the lock is not fair: let a run that waits have it

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """Every contender's result; see `network_timing.hold_rounds` for how they take turns.

        One runs at a time; the others wait, loaded. Raises MeasurementError naming the contender
        that could not be loaded or run.
        """
        with exclusive(self._say_waiting), ExitStack() as stack:
            entrants = {}
            for name, contender in contenders.items():
                child = Child(self._command, environment=_environment(contender.threads))
                stack.enter_context(closing(child))
                entrants[name] = _Entrant(name, contender, child)
                entrants[name].load()
            turns = {name: partial(each.take_turn, policy) for name, each in entrants.items()}
            rounds = hold_rounds(turns, policy=policy, on_round=on_round)
            return {name: each.result(rounds[name]) for name, each in entrants.items()}

    def outputs(self, bundle: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
        """The first output of a bundle for every sample ``[N, *sample]``: ``[N, ...]``."""
        return first_outputs(bundle, x, on_sample=on_sample)

    def environment(self) -> dict[str, str]:
        """Facts of this machine as it is now."""
        return describe_environment()

    def _time_kernel(
        self, kernel: Kernel, target: Target, policy: TimingPolicy, seed: int
    ) -> Samples | Failed:
        child = self._ready_child(target.threads)
        try:
            answer = child.ask(
                "time_kernel",
                timeout_s=self._timeout_s,
                kernel=kernel.to_dict(),
                target=dataclasses.asdict(target),
                policy=dataclasses.asdict(policy),
                seed=seed,
            )
            return samples_of(answer)
        except RequestFailedError as error:
            return Failed(reason=str(error)[:_REASON_CHARACTERS])
        except ChildLostError as error:
            self._drop_child()
            return Failed(reason=str(error)[:_REASON_CHARACTERS])

    def _ready_child(self, threads: int) -> Child:
        """The child for kernels, ready to compile.

        What goes wrong here is no kernel's fault, so it must not be kept as one kernel's failure.
        """
        if self._child is not None and self._child_threads == threads:
            return self._child
        self._drop_child()
        child = Child(self._command, environment=_environment(threads))
        try:
            child.ask("prepare", timeout_s=_START_S)
        except (ChildLostError, RequestFailedError) as error:
            child.close()
            raise MeasurementError(
                f"the process that times kernels does not start: {error}. "
                "Run `millifit doctor` to see what is missing."
            ) from error
        self._child, self._child_threads = child, threads
        return child

    def _drop_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _say_waiting(self) -> None:
        self._progress.note("Waiting for another run of millifit to finish timing on this machine.")


def _environment(threads: int) -> dict[str, str]:
    """Threads for TVM, OpenMP and OpenCL on the processor.

    TVM does not pin them: other runtimes' are not pinned either.
    """
    return {
        "TVM_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "POCL_MAX_PTHREAD_COUNT": str(threads),  # PoCL before version 5
        "POCL_CPU_MAX_CU_COUNT": str(threads),
        "TVM_BIND_THREADS": "0",
    }


class _Entrant:
    """A contender in its child process."""

    def __init__(self, name: str, contender: Contender, child: Child) -> None:
        self._name = name
        self._contender = contender
        self._child = child

    def load(self) -> None:
        """Load the network and run it once."""
        self._ask(
            "load",
            kind=self._contender.kind,
            path=str(self._contender.path.absolute()),
            input_path=str(self._contender.input_path.absolute()),
            threads=self._contender.threads,
        )

    def take_turn(self, policy: NetworkTimingPolicy) -> Seconds:
        """Seconds of the inferences of one turn."""
        return seconds_of(self._ask("take_turn", policy=dataclasses.asdict(policy)))

    def result(self, rounds: Sequence[Seconds]) -> ContenderResult:
        """The rounds, summed up with the memory that it took."""
        memory = self._ask("memory")
        return result(
            rounds,
            peak_memory_bytes=int(memory["network_bytes"]),
            process_peak_bytes=int(memory["process_bytes"]),
        )

    def _ask(self, do: str, **arguments: object) -> Any:
        try:
            return self._child.ask(do, timeout_s=_TURN_S, **arguments)
        except (ChildLostError, RequestFailedError) as error:
            raise MeasurementError(
                f"'{self._name}' ({self._contender.kind} at '{self._contender.path}') "
                f"could not be timed: {error}"
            ) from error
