"""A child process that answers requests: JSON lines over pipes, with a deadline for each answer.

Timing runs in a child so that a kernel that crashes or hangs takes nothing with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from millifit.errors import MeasurementError

# Read before any library can change it: TVM's thread pool binds the thread that starts it to one
# core, and a child would inherit that.
_USABLE_CORES = frozenset(os.sched_getaffinity(0))
_STDERR_TAIL_BYTES = 2000
_CLOSING_S = 2.0


class RequestFailedError(MeasurementError):
    """The child answered that it could not do what was asked; it is still there."""


class ChildLostError(MeasurementError):
    """The child crashed, hung or spoke garbage; it is gone."""


class Child:
    """A running child process and the pipes to it.

    Requests are ``{"id": n, "do": ..., ...}``; answers ``{"id": n, "value": ...}`` or
    ``{"id": n, "error": text}``.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str]) -> None:
        """Start `command` with the variables of `environment` on top of this process's own."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **environment},
            start_new_session=True,  # so that whatever it starts in turn is ended with it
        )
        with contextlib.suppress(ProcessLookupError):  # what ends at once is noticed when asked
            os.sched_setaffinity(self._process.pid, _USABLE_CORES)
        self._asked = 0
        self._unread = b""

    def ask(self, do: str, *, timeout_s: float, **arguments: object) -> Any:
        """The value answered to one request; arguments and value are JSON types.

        Raises RequestFailedError when the child says so, and ChildLostError when it crashed, broke
        the protocol or did not answer within `timeout_s`; the child has then been ended.
        """
        self._asked += 1
        request = json.dumps({"id": self._asked, "do": do, **arguments}) + "\n"
        try:
            self._write(request.encode())
            answer = self._parse(self._read_line(time.monotonic() + timeout_s))
        except TimeoutError:
            self._end()
            raise ChildLostError(f"no answer within {timeout_s:g} s") from None
        except (EOFError, BrokenPipeError):
            raise ChildLostError(self._how_it_ended()) from None
        if "error" in answer:
            raise RequestFailedError(str(answer["error"]))
        return answer["value"]

    def kill(self) -> None:
        """End the child at once, from any thread; whoever asks it something learns of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the child: politely, then by force. May be called again."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()  # the end of its input tells the child to leave
        try:
            self._process.wait(_CLOSING_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._end()
            self._stderr.close()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _read_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                raise TimeoutError
            part = os.read(stream, 1 << 16)
            if not part:
                raise EOFError
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        known = isinstance(answer, dict) and answer.get("id") == self._asked
        if not known or not {"value", "error"} & answer.keys():
            self._end()
            raise ChildLostError(
                f"answered {line[:80]!r}, which is no answer to request {self._asked}"
            )
        return dict(answer)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_CLOSING_S)
        except subprocess.TimeoutExpired:
            self._end()
            return "closed its answers while it was still running"
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name}){self._last_words()}"
        return f"ended with exit code {code}{self._last_words()}"

    def _last_words(self) -> str:
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - _STDERR_TAIL_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:200]}" if lines else ""

    def _end(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
