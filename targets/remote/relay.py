"""Passing bytes on between a link and a local socket, on the device and on the workstation."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from millifit.targets.remote.link import HEARTBEAT_S, LARGEST_DATA, Link, LinkLostError

_PACKET = struct.Struct("<Q")
_READ_BYTES = 256 << 10
_BACKLOG_BYTES = 4 << 20  # beyond which nothing more is read for that direction


class PacketTooLargeError(LinkLostError):
    """A packet for the session is larger than the device takes."""


class PacketLimit:
    """Follows a stream of TVM's packets, each of a length and so many bytes."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._head = bytearray()
        self._left = 0

    def follow(self, part: bytes) -> None:
        """Raise PacketTooLargeError where a packet that begins in `part` is too large."""
        at = 0
        while at < len(part):
            if self._left:
                taken = min(self._left, len(part) - at)
                self._left -= taken
                at += taken
                continue
            missing = _PACKET.size - len(self._head)
            self._head += part[at : at + missing]
            at += missing
            if len(self._head) == _PACKET.size:
                (self._left,) = _PACKET.unpack(self._head)
                self._head.clear()
            if self._left > self._largest:
                raise PacketTooLargeError(
                    f"a message of {self._left} bytes is larger than the {self._largest} that "
                    "the device takes"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a session ends; it `died` where its own process crashed or was killed."""

    reason: str
    died: bool = False


class Relay:
    """Passes on what comes, until one side ends."""

    def __init__(
        self,
        link: Link,
        local: socket.socket,
        *,
        limit: PacketLimit | None = None,
        wait_for: int | None = None,
    ) -> None:
        """`limit` watches what goes to `local`; `wait_for` is a descriptor whose end ends all."""
        self._link = link
        self._local = local
        self._limit = limit
        self._wait_for = wait_for
        self._unsent = bytearray()
        link.largest = LARGEST_DATA
        local.setblocking(False)

    def run(self, check: Callable[[], None] = lambda: None) -> End | None:
        """Pass on until the local side ends, or the peer says that the session does, and why.

        None where the local side ended. `check` is called about every second and may raise.
        Raises LinkLostError where the connection is lost, and EOFError at the end of `wait_for`.
        """
        while True:
            self._link.beat()
            check()
            readers: list[Link | socket.socket | int] = (
                [self._link] if len(self._unsent) < _BACKLOG_BYTES else []
            )
            readers += [self._local] if self._link.backlog < _BACKLOG_BYTES else []
            readers += [] if self._wait_for is None else [self._wait_for]
            writers: list[Link | socket.socket] = [self._link] if self._link.backlog else []
            writers += [self._local] if self._unsent else []
            readable, writable, _ = select.select(readers, writers, [], HEARTBEAT_S / 2)
            if self._wait_for in readable:
                raise EOFError
            if self._link in writable:
                self._link.flush()
            if self._link in readable:
                end = self._take_in()
                if end is not None:
                    return end
            if self._unsent and not self._write_local():
                return None
            if self._local in readable and not self._pass_out():
                return None

    def _take_in(self) -> End | None:
        for kind, payload in self._link.receive():
            if kind == b"E":
                return parsed_end(payload)
            if kind != b"D":
                raise LinkLostError("the peer does not speak the protocol of devices")
            if self._limit is not None:
                self._limit.follow(payload)
            self._unsent += payload
        return None

    def _write_local(self) -> bool:
        try:
            sent = self._local.send(self._unsent)
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self._unsent[:sent]
        return True

    def _pass_out(self) -> bool:
        try:
            part = self._local.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if part:
            self._link.send(b"D", part)
        return bool(part)


def tell(link: Link, end: End) -> None:
    """Tell the peer why the session ends."""
    link.send(b"E", json.dumps({"reason": end.reason, "died": end.died}).encode())
    link.settle(2.0)


def parsed_end(payload: bytes) -> End:
    """What a frame says of the end of a session."""
    try:
        said = json.loads(payload)
        reason = str(said["reason"])[:300] or "no reason given"
        return End(reason=reason, died=said.get("died") is True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return End(reason="no reason given")
