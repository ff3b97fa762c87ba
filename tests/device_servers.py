"""Device servers for tests, on this machine and in processes of their own; and what they leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import Credentials

_MARK = "MILLIFIT_TEST_SERVER"
_START_S = 60.0


class DeviceServerProcess:
    """A server as a board runs it; `folder` holds its token, its log and its throw-away folders."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        """Start it with more options and variables than it needs."""
        self.folder = folder
        self.scratch = folder / "tmp"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "log"
        self._options = options
        self._mark = uuid.uuid4().hex
        self._environment = os.environ | {
            _MARK: self._mark, "TMPDIR": str(self.scratch), **environment
        }  # fmt: skip
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it; again on the port that it had."""
        command = [
            sys.executable, "-P", "-m", "millifit.targets.remote.agent_main", "serve",
            "--port", str(self.port), "--token-file", str(self.folder / "token"), *self._options,
        ]  # fmt: skip
        before = len(self.log)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self._environment)
        self.port = int(self.wait_for("listening on ", since=before).rpartition(":")[2])

    @property
    def log(self) -> str:
        """All that it said."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_for(self, text: str, *, since: int = 0, within_s: float = _START_S) -> str:
        """The first line with `text` that it says; fails where it says none."""
        stop_s = time.monotonic() + within_s
        while time.monotonic() < stop_s:
            whole = self.log[since:].rpartition("\n")[0].splitlines()
            found = next((line for line in whole if text in line), None)
            if found is not None:
                return found
            assert self.process.poll() is None, f"the server ended: {self.log}"
            time.sleep(0.01)
        raise AssertionError(f"the server never said '{text}': {self.log}")

    @property
    def address(self) -> DeviceAddress:
        """Where it listens."""
        return DeviceAddress(host="127.0.0.1", port=self.port)

    @property
    def credentials(self) -> Credentials:
        """What opens it."""
        return Credentials(token=(self.folder / "token").read_text().strip())

    def processes(self) -> list[int]:
        """Its processes and those of its sessions that are still there."""
        found = []
        for place in Path("/proc").iterdir():
            if not place.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                running = (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if running and f"{_MARK}={self._mark}".encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found

    def folders(self) -> list[Path]:
        """Throw-away folders that are still there."""
        return sorted(path for path in self.scratch.glob("millifit-*"))

    def sessions(self) -> list[Path]:
        """Folders of sessions that are still there."""
        return [path for root in self.folders() for path in root.iterdir() if path.is_dir()]

    def wait_until_idle(self, within_s: float = 10.0) -> None:
        """Fails where processes or folders of a session are still there after a while."""
        wait_until(lambda: not self.sessions() and len(self.processes()) <= 1, within_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code. Fails where something is left."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        wait_until(lambda: not self.processes(), 10.0)
        if number != signal.SIGKILL:
            assert self.folders() == []
        return code

    def power_off(self) -> None:
        """Kill all of its processes at once, as a power failure does."""
        while alive := self.processes():
            # Stopped first: killed one by one, some would still tell of the others' end.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in alive:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            self.process.wait()

    def close(self) -> None:
        """Stop it however it is, and remove what it left."""
        self.power_off()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(true: Any, within_s: float) -> None:
    """Wait for a condition; fails where it does not come."""
    stop_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < stop_s, "it did not happen in time"
        time.sleep(0.02)


@contextlib.contextmanager
def served(folder: Path, *options: str, **environment: str) -> Iterator[DeviceServerProcess]:
    """A server while the body runs; afterwards it must leave nothing behind."""
    server = DeviceServerProcess(folder, *options, **environment)
    try:
        yield server
        assert server.stop() == 0
    finally:
        server.close()
