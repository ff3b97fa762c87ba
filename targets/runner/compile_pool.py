"""Jobs of the compiler, several at a time: one process a core, taking one job after another."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from millifit.targets.runner.child import Child, ChildLostError
from millifit.targets.runner.compile_worker import Job, answer

_COMMAND = (sys.executable, "-m", "millifit.targets.runner.compile_worker")
_LIMIT_S = 3600.0  # for one target; larger networks than anybody compiles here take minutes


def compile_jobs(jobs: Sequence[Job], *, processes: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Every job with its answer, in the order of completion; see `compile_worker.answer`.

    A job whose process crashes or hangs is answered with the reason. One job alone is done in this
    process. Leaving the iterator early, by an interrupt too, ends all processes.
    """
    if len(jobs) == 1:
        yield jobs[0], answer(jobs[0])
        return
    left: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        left.put(job)
    done: queue.SimpleQueue[tuple[Job, dict[str, Any]]] = queue.SimpleQueue()
    lines = [_Line(left, done) for _ in range(min(processes, len(jobs)))]
    try:
        for _ in jobs:
            yield done.get()
    finally:
        for line in lines:
            line.end()


class _Line:
    """A thread that hands jobs to a process of its own, and starts another where it was lost."""

    def __init__(
        self,
        left: queue.SimpleQueue[Job],
        done: queue.SimpleQueue[tuple[Job, dict[str, Any]]],
    ) -> None:
        self._left, self._done = left, done
        self._child: Child | None = None
        self._ended = False
        self._changing = threading.Lock()  # no process may start once the line was ended
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the process, whatever it is doing, and the thread."""
        with self._changing:
            self._ended = True
            if self._child is not None:
                self._child.kill()
        self._thread.join()

    def _work(self) -> None:
        try:
            while not self._ended:
                job = self._left.get_nowait()
                self._done.put((job, self._ask(job)))
        except queue.Empty:
            pass
        finally:
            if self._child is not None:
                self._child.close()

    def _ask(self, job: Job) -> dict[str, Any]:
        try:
            child = self._started()
            return dict(child.ask("compile", timeout_s=_LIMIT_S, job=dict(job)))
        except ChildLostError as lost:
            self._lose()
            return {"reason": f"the compiler did not finish: {lost}"}
        except OSError as refused:
            return {"reason": f"no process could be started: {refused.strerror}"}

    def _started(self) -> Child:
        with self._changing:
            if self._ended:
                raise ChildLostError("interrupted")
            if self._child is None:
                self._child = Child(_COMMAND, environment={"OMP_NUM_THREADS": "1"})
            return self._child

    def _lose(self) -> None:
        with self._changing:
            lost, self._child = self._child, None
        if lost is not None:
            lost.close()
