"""A device's standing with a tracker: offered while it is free, in a process of its own.

The server says over a socket when a session begins and when it is over; at the end of that socket
this process ends.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from millifit.targets.remote.settings import ServerSettings
from millifit.targets.remote.tracker import Tracker, TrackerError

_PERIOD_S = 1.0
_RETRY_S = 2.0
_UNUSED_S = 8.0  # an offer that was taken by somebody who does not come is made again


class Registration:
    """Keeps a device known to its tracker."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        port: int,
        control: socket.socket,
        log: Callable[[str], None],
    ) -> None:
        assert settings.tracker is not None
        self._host, self._tracker_port = settings.tracker
        self._key = settings.key
        self._announce = settings.announce
        self._port = port
        self._control = control
        self._log = log
        self._unread = b""
        self._free = True
        self._match = ""

    def run(self) -> None:
        """Register, and again where the tracker was lost, until the server is gone."""
        lost = False
        with contextlib.suppress(EOFError):
            while True:
                try:
                    with Tracker(self._host, self._tracker_port) as tracker:
                        tracker.register(self._key, self._port, self._announce)
                        self._log(f"registered as '{self._key}' with {self._place}")
                        lost = False
                        self._offer_while_free(tracker)
                except TrackerError as error:
                    if not lost:
                        self._log(f"{error} Trying again.")
                    lost = True
                    for said in self._hear(_RETRY_S):
                        self._free = bool(said["free"])

    @property
    def _place(self) -> str:
        return f"the tracker at {self._host}:{self._tracker_port}"

    def _offer_while_free(self, tracker: Tracker) -> None:
        """Returns where a session began that the tracker knows nothing of: it withdraws so."""
        self._match = ""
        gone_s: float | None = None
        while True:
            if self._free and not self._match:
                self._match = f"{self._key}:{secrets.token_hex(16)}"
                tracker.put(self._key, self._port, self._match, self._announce)
                gone_s = None
            given = self._match not in tracker.pending()
            if self._free and given:
                gone_s = gone_s or time.monotonic()
                if time.monotonic() - gone_s > _UNUSED_S:
                    self._match = ""
            for said in self._hear(_PERIOD_S):
                self._free = bool(said["free"])
                if self._free:
                    self._match = ""
                elif said["match"] != self._match and not given:
                    return

    def _hear(self, wait_s: float) -> list[dict[str, Any]]:
        """What the server said meanwhile; EOFError where it is gone."""
        if not select.select([self._control], [], [], wait_s)[0]:
            return []
        part = self._control.recv(4096)
        if not part:
            raise EOFError
        *lines, self._unread = (self._unread + part).split(b"\n")
        return [dict(json.loads(line)) for line in lines]
