"""Child processes that compile kernels for devices, several at once."""

from __future__ import annotations

import dataclasses
import itertools
import queue
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millifit.errors import MeasurementError
from millifit.targets.kernel import Kernel
from millifit.targets.runner.child import Child, ChildLostError, RequestFailedError
from millifit.targets.target import Target
from millifit.targets.timing import Failed

COMPILER = (sys.executable, "-P", "-m", "millifit.targets.remote.compiler")
_START_S = 180.0  # importing the compiler on a slow, busy machine
_REASON_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledKernel:
    """A kernel's library as a file on the workstation; see `kernel_library.KernelLibrary`."""

    path: Path
    operands: Sequence[Sequence[object]]
    executable: bool


class Compilers:
    """Compiles kernels, from any thread; what was compiled is kept as long as it lives."""

    def __init__(
        self, folder: Path, *, count: int, timeout_s: float, command: Sequence[str] = COMPILER
    ) -> None:
        """Libraries are written into `folder`; each has `timeout_s` to be compiled.

        `command` starts a child that speaks `compiler`'s protocol.
        """
        self._folder = folder
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._names = itertools.count()
        self._done: dict[tuple[Kernel, Target], CompiledKernel | Failed] = {}
        self._seats: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._all: set[Child] = set()
        self._stopped: list[Child] = []
        for _ in range(count):
            self._seats.put(None)

    def library(self, kernel: Kernel, target: Target) -> CompiledKernel | Failed:
        """The kernel's library, or why there is none.

        Raises MeasurementError where the compiler does not start: that is no kernel's fault.
        """
        if (kernel, target) not in self._done:
            seat = self._seats.get()
            try:
                seat = seat if seat in self._all else self._start()
                made = self._compile(seat, kernel, target)
                if isinstance(made, Failed) and seat not in self._all:
                    return made  # of a child that crashed, or was stopped meanwhile
                self._done[kernel, target] = made
            finally:
                self._seats.put(seat)
        return self._done[kernel, target]

    def _compile(self, child: Child, kernel: Kernel, target: Target) -> CompiledKernel | Failed:
        path = self._folder / f"kernel{next(self._names)}.so"
        try:
            answer = child.ask(
                "library", timeout_s=self._timeout_s, kernel=kernel.to_dict(),
                target=dataclasses.asdict(target), path=str(path),
            )  # fmt: skip
        except RequestFailedError as error:
            return Failed(reason=str(error)[:_REASON_CHARACTERS])
        except ChildLostError as error:
            self._end(child)
            return Failed(reason=f"the compiler: {error}"[:_REASON_CHARACTERS])
        return CompiledKernel(
            path=path, operands=answer["operands"], executable=bool(answer["executable"])
        )

    def _start(self) -> Child:
        child = Child(self._command, environment={})
        self._all.add(child)
        try:
            child.ask("prepare", timeout_s=_START_S)
        except (ChildLostError, RequestFailedError) as error:
            self._end(child)
            raise MeasurementError(
                f"the process that compiles kernels does not start: {error}. "
                "Run `millifit doctor` to see what is missing."
            ) from error
        return child

    def _end(self, child: Child) -> None:
        child.close()
        self._all.discard(child)

    def stop(self) -> None:
        """Kill all children, from any thread; whoever waits for one hears of it."""
        for child in list(self._all):
            child.kill()
            self._all.discard(child)
            self._stopped.append(child)

    def close(self) -> None:
        """End all children."""
        for child in [*self._all, *self._stopped]:
            self._end(child)
