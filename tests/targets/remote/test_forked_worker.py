"""A forked worker: answers, failures, crashes, hangs; and nothing of it is left."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from millifit.targets.remote.forked_worker import ForkedWorker
from millifit.targets.runner.child import ChildLostError, RequestFailedError


def misbehave(request: Mapping[str, Any]) -> object:
    match request["do"]:
        case "add":
            return request["a"] + request["b"]
        case "refuse":
            raise ValueError("no")
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(7)
        case "raise past all":
            sys.exit(3)
        case "hang":
            time.sleep(60)
        case "not JSON":
            return object()
        case "pid":
            return os.getpid()
    return None


@pytest.fixture
def start() -> Iterator[Callable[[], ForkedWorker]]:
    """Starts workers; they end with the test."""
    lifeline, held = os.pipe()
    made: list[ForkedWorker] = []

    def begin() -> ForkedWorker:
        made.append(ForkedWorker(lambda: misbehave, lifeline=lifeline))
        return made[-1]

    yield begin
    for worker in made:
        worker.close()
    os.close(held)
    os.close(lifeline)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_requests_are_answered_in_turn(start: Callable[[], ForkedWorker]) -> None:
    """Many by one process, which is another than this one."""
    worker = start()
    assert [worker.ask({"do": "add", "a": n, "b": 1}, timeout_s=5) for n in range(3)] == [1, 2, 3]
    assert worker.ask({"do": "pid"}, timeout_s=5) == worker.pid != os.getpid()


@pytest.mark.parametrize(
    ("do", "why"), [("refuse", "ValueError: no"), ("raise past all", "exit code 1")]
)
def test_what_is_raised_is_told(start: Callable[[], ForkedWorker], do: str, why: str) -> None:
    """A failure is an answer; what ends the process is its end."""
    with pytest.raises((RequestFailedError, ChildLostError), match=why):
        start().ask({"do": do}, timeout_s=5)


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("crash", r"killed by signal 9 \(SIGKILL\)"),
        ("leave", "ended with exit code 7"),
        ("hang", r"no answer within 0\.2 s"),
        ("not JSON", "exit code 1"),
    ],
)
def test_a_worker_that_is_lost_leaves_no_process(
    start: Callable[[], ForkedWorker], do: str, why: str
) -> None:
    """Crashed or hung, it is gone, and the reason is told."""
    worker = start()
    pid = worker.pid
    with pytest.raises(ChildLostError, match=why):
        worker.ask({"do": do}, timeout_s=0.2 if do == "hang" else 5)
    assert not alive(pid)


def test_nobody_waits_where_the_lifeline_is_cut() -> None:
    """A workstation that is gone needs no answer."""
    lifeline, held = os.pipe()
    worker = ForkedWorker(lambda: misbehave, lifeline=lifeline, others=[held])
    os.close(held)
    begun_s = time.monotonic()
    with pytest.raises(EOFError):
        worker.ask({"do": "hang"}, timeout_s=30)
    assert time.monotonic() - begun_s < 5
    worker.close()
    os.close(lifeline)
