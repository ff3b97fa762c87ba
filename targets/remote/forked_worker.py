"""A process that answers a session's requests: forked, not executed, and ended where it hangs.

The same requests and answers as `runner.child.Child` has: JSON lines, one answer each.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from millifit.targets.runner.child import ChildLostError, RequestFailedError
from millifit.targets.runner.serving import answered

_LARGEST_ANSWER = 64 << 20
_DYING_S = 5.0

Answer = Callable[[Mapping[str, Any]], object]


class ForkedWorker:
    """A running worker. It ends with the process that forked it."""

    def __init__(
        self, make: Callable[[], Answer], *, lifeline: int, others: Sequence[int] = ()
    ) -> None:
        """`make()` is called in the worker, its result with every request.

        The worker closes `others`: descriptors whose ends tell somebody that this process ended.
        Where `lifeline`, a descriptor of this process, becomes readable at its end, `ask` raises
        EOFError: nobody waits for the answer.
        """
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._lifeline = lifeline
        self._asked = 0
        self._unread = b""
        self.pid = os.fork()
        if self.pid == 0:
            for inherited in (self._requests, self._answers, lifeline, *others):
                os.close(inherited)
            _serve(make, requests, answers)
        os.close(requests)
        os.close(answers)

    def ask(self, request: Mapping[str, Any], *, timeout_s: float) -> Any:
        """The value answered to a request.

        Raises RequestFailedError where the worker says so; ChildLostError where it crashed, hung or
        spoke garbage, and is gone.
        """
        self._asked += 1
        try:
            _write(self._requests, json.dumps({**request, "id": self._asked}).encode() + b"\n")
            answer = _parsed(self._line(time.monotonic() + timeout_s), self._asked)
        except TimeoutError:
            self.close()
            raise ChildLostError(f"no answer within {timeout_s:g} s") from None
        except (BrokenPipeError, ChildLostError):
            raise ChildLostError(self._how_it_ended()) from None
        except ValueError:
            self.close()
            raise ChildLostError("the process that times gave no answer that can be read") from None
        if "error" in answer:
            raise RequestFailedError(str(answer["error"]))
        return answer["value"]

    def close(self) -> None:
        """Kill the worker; may be called again."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            os.close(self._requests)
            os.close(self._answers)
            self.pid = 0

    def _line(self, deadline_s: float) -> bytes:
        while b"\n" not in self._unread:
            left = deadline_s - time.monotonic()
            if left <= 0 or len(self._unread) > _LARGEST_ANSWER:
                raise TimeoutError
            readable, _, _ = select.select([self._answers, self._lifeline], [], [], left)
            if self._answers in readable:
                part = os.read(self._answers, 1 << 16)
                if not part:
                    raise ChildLostError
                self._unread += part
            elif self._lifeline in readable:
                raise EOFError
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        stop_s = time.monotonic() + _DYING_S
        status = None
        while status is None and time.monotonic() < stop_s:
            pid, found = os.waitpid(self.pid, os.WNOHANG)
            status = found if pid else None
            time.sleep(0.001)
        self.close()
        if status is None:
            return "closed its answers while it was still running"
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"


def _parsed(line: bytes, number: int) -> dict[str, Any]:
    """The answer to a request; ValueError where it is none."""
    answer = json.loads(line)
    known = isinstance(answer, dict) and answer.get("id") == number
    if not known or not {"value", "error"} & answer.keys():
        raise ValueError(line)
    return dict(answer)


def _serve(make: Callable[[], Answer], requests: int, answers: int) -> None:
    """What the forked process does: it answers until its requests end, and does not return."""
    status = 1
    try:
        answer = make()
        with os.fdopen(requests, "r") as lines:
            for line in lines:
                request = json.loads(line)
                said = {"id": request["id"], **answered(answer, request)}
                _write(answers, json.dumps(said).encode() + b"\n")
        status = 0
    except BaseException as error:
        os.write(2, f"worker {os.getpid()}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _write(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
