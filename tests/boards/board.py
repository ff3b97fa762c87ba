"""The emulated board: a device server in an arm64 userland, reached as any board is.

``python -m tests.boards.board`` starts one in the foreground and says how to use it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.agent import write_agent
from millifit.targets.remote.credentials import Credentials, make_token, read_token
from tests.boards.userland import PackagesMissingError, Userland, userland

_START_S = 120.0
_LISTENING = "listening on"


class Board:
    """A board that can be switched off and on again; a context manager, off afterwards."""

    def __init__(self, made: Userland, folder: Path, *, port: int = 0) -> None:
        """`folder` is the board's disk: token, server and what it logs. Port 0 takes a free one."""
        self._userland = made
        self._folder = folder
        self._mark = f"MILLIFIT_BOARD={secrets.token_hex(8)}"
        self._server: subprocess.Popen[bytes] | None = None
        self.address = DeviceAddress(host="127.0.0.1", port=port or _free_port())
        self.token_file = folder / "device-token"
        self.log = folder / "server.log"

    def __enter__(self) -> Board:
        self.prepare()
        try:
            self.switch_on()
        except BaseException:
            self.switch_off()
            raise
        return self

    def __exit__(self, *_how: object) -> None:
        self.switch_off()

    def prepare(self) -> None:
        """Put a token and the server's file onto the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.token_file.exists():
            make_token(self.token_file)
        write_agent(self._folder / "millifit-device.pyz")

    def switch_on(self) -> None:
        """Start the server and wait until it listens."""
        name, _, value = self._mark.partition("=")
        environment = {**self._userland.environment, "HOME": str(self._folder), name: value}
        environment["TMPDIR"] = str(self._folder)
        command = self._userland.command(
            str(self._folder / "millifit-device.pyz"), "serve", "--port", str(self.address.port),
            "--token-file", str(self.token_file),
        )  # fmt: skip
        # However this process ends, the board is off then.
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        with self.log.open("ab") as log:
            said = log.tell()
            self._server = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        stop = time.monotonic() + _START_S
        while _LISTENING.encode() not in self.log.read_bytes()[said:]:
            if self._server.poll() is not None or time.monotonic() > stop:
                raise RuntimeError(f"the board does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def switch_off(self) -> None:
        """End every process of the board at once, as a cut of the power does."""
        stop = time.monotonic() + _START_S
        while (left := self.processes()) and time.monotonic() < stop:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if self._server is not None:
                self._server.wait()
            time.sleep(0.02)
        self._server = None

    @property
    def credentials(self) -> Credentials:
        """What opens the board."""
        return Credentials(token=read_token(self.token_file))

    def processes(self) -> list[int]:
        """What runs on the board: every process that inherited the server's environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Start a board in the foreground."""
    parser = argparse.ArgumentParser(prog="make board", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=9391, help="0 takes a free one")
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        made = userland(say=print)
    except PackagesMissingError as error:
        sys.exit(str(error))
    with (
        tempfile.TemporaryDirectory(prefix="millifit-board-") as folder,
        Board(made, Path(folder), port=port) as board,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(
            f"\nAn emulated arm64 board listens on {board.address}.\n\n"
            f"millifit fit --demo --device {board.address} --target arm64-emulated "
            f"--device-token-file {shlex.quote(str(board.token_file))}\n\nCtrl-C ends it.",
            flush=True,
        )
        signal.pause()


if __name__ == "__main__":
    main()
