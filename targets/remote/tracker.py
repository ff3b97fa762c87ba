"""TVM's tracker, as `python -m tvm.exec.rpc_tracker` speaks: who has which devices to lend.

Messages are JSON behind their length in four bytes; TVM's ``rpc/tracker.py`` says what they mean.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from millifit.errors import TargetError

_MAGIC = struct.Struct("<i")
_LENGTH = struct.Struct("<i")
_TRACKER = 0x2F271
_LARGEST = 1 << 20
_SUCCESS = 0
PUT, REQUEST, UPDATE_INFO, SUMMARY, PENDING = 3, 4, 5, 6, 7


class TrackerError(TargetError):
    """The tracker cannot be reached, or does not speak as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A device that the tracker gave: where it is, and the word that says so there."""

    host: str
    port: int
    match: str


class Tracker:
    """A connection to a tracker. A context manager."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 5.0) -> None:
        self._name = f"the tracker at {host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
            self._socket.sendall(_MAGIC.pack(_TRACKER))
            if _MAGIC.unpack(self._exactly(_MAGIC.size))[0] != _TRACKER:
                raise ConnectionError("it is none")
        except OSError as error:
            raise TrackerError(
                f"{self._name} does not answer: {error}. Start one with "
                f"`python -m tvm.exec.rpc_tracker --host {host} --port {port}`."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, message: Sequence[Any]) -> Any:
        """The tracker's answer to a message. Raises TrackerError."""
        text = json.dumps(list(message)).encode()
        try:
            self._socket.sendall(_LENGTH.pack(len(text)) + text)
            (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
            if not 0 < length <= _LARGEST:
                raise ConnectionError(f"an answer of {length} bytes")
            return json.loads(self._exactly(length))
        except (OSError, ValueError) as error:
            raise TrackerError(f"{self._name} does not answer: {error}.") from error

    def free(self, key: str) -> tuple[int, int]:
        """How many devices of that key are free, and how many there are."""
        try:
            code, summary = self.call([SUMMARY])
            queue = summary["queue_info"].get(key, {"free": 0})
            known = sum(each.get("key") == f"server:{key}" for each in summary["server_info"])
            return int(queue["free"]) if code == _SUCCESS else 0, known
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrackerError(f"{self._name} gave no summary that can be read.") from error

    def request(self, key: str) -> Offer:
        """One of the devices of that key; waits for one as long as the connection's time-out."""
        try:
            _, (host, port, match) = self.call([REQUEST, key, "", 1])
            return Offer(host=str(host), port=int(port), match=str(match))
        except (TypeError, ValueError) as error:
            raise TrackerError(f"{self._name} gave no device that can be read.") from error

    def register(self, key: str, port: int, announce: str | None) -> None:
        """Be known as a device."""
        self.call([UPDATE_INFO, {"key": f"server:{key}", "addr": [announce, port]}])

    def put(self, key: str, port: int, match: str, announce: str | None) -> None:
        """Offer this device to whoever asks next."""
        self.call([PUT, key, [port, match], announce])

    def pending(self) -> list[str]:
        """What was offered over this connection and given to nobody yet."""
        return list(self.call([PENDING]))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _exactly(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            part = self._socket.recv(length - len(found))
            if not part:
                raise ConnectionError("it closed the connection")
            found += part
        return found
