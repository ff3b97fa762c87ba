"""A connection of frames: a kind, a length and so many bytes, in both directions, never waiting.

Plain sockets and TLS alike. Heartbeats tell a device that computes from one that is gone.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections import deque
from typing import Literal

from millifit.errors import TargetError

Kind = Literal[b"H", b"D", b"P", b"E"]
"""Handshake, data of the session, heartbeat (ping), end with a reason."""
Frame = tuple[Kind, bytes]

HEAD = struct.Struct("<cI")
LARGEST_HANDSHAKE = 64 << 10
LARGEST_DATA = 1 << 20
HEARTBEAT_S = 2.0
SILENCE_S = 15.0
"""A peer of which nothing was heard for so long is gone."""
_READ_BYTES = 256 << 10


class LinkLostError(TargetError):
    """The connection ended, or the peer does not keep to the protocol."""


class Link:
    """Frames over a connected socket. `largest` is the longest payload taken from the peer."""

    def __init__(self, connection: socket.socket, *, largest: int = LARGEST_HANDSHAKE) -> None:
        self.largest = largest
        self.heard_s = time.monotonic()
        self._said_s = time.monotonic()
        self._socket = connection
        self._socket.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._frames: deque[Frame] = deque()
        self.backlog = 0

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Queue a frame and write as much as the socket takes."""
        self._unsent.append(memoryview(HEAD.pack(kind, len(payload)) + payload))
        self.backlog += HEAD.size + len(payload)
        self.flush()

    def flush(self) -> None:
        """Write as much as the socket takes. Raises LinkLostError."""
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent[0])
                self.backlog -= sent
                self._said_s = time.monotonic()
                if sent == len(self._unsent[0]):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = self._unsent[0][sent:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            raise LinkLostError(f"the connection was lost: {error}") from error

    def beat(self) -> None:
        """Send a heartbeat where one is due; raise LinkLostError where none came for long."""
        now = time.monotonic()
        if now - self.heard_s > SILENCE_S:
            raise LinkLostError(f"nothing was heard for {SILENCE_S:g} s")
        if now - self._said_s > HEARTBEAT_S and not self._unsent:
            self.send(b"P")

    def receive(self) -> list[Frame]:
        """The frames that have come, heartbeats left out.

        Raises LinkLostError at the end of the connection, once all frames before it were given.
        """
        lost = self._read()
        frames = self._parsed()
        if lost is not None and not frames:
            raise lost
        return frames

    def next(self, deadline_s: float) -> Frame:
        """Wait for one frame until `time.monotonic()` is `deadline_s`; LinkLostError else."""
        while not self._frames:
            left = deadline_s - time.monotonic()
            if left <= 0:
                raise LinkLostError("no answer in time")
            writers = [self] if self._unsent else []
            readable, writable, _ = select.select([self], writers, [], min(left, HEARTBEAT_S))
            if writable:
                self.flush()
            if readable:
                self._frames.extend(self.receive())
        return self._frames.popleft()

    def settle(self, timeout_s: float) -> None:
        """Write what is queued, as far as it goes within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while self._unsent and (left := deadline_s - time.monotonic()) > 0:
            if select.select([], [self], [], left)[1]:
                self.flush()

    def close(self) -> None:
        """Close the connection; may be called again."""
        self._socket.close()

    def _read(self) -> LinkLostError | None:
        try:
            # Bounded, so that a peer that sends without end fills no memory. A record of TLS is
            # smaller than what is read at once: none is left where `select` does not see it.
            while len(self._unread) <= self.largest + HEAD.size:
                part = self._socket.recv(_READ_BYTES)
                if not part:
                    return LinkLostError("the connection was closed")
                self._unread += part
                self.heard_s = time.monotonic()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            return LinkLostError(f"the connection was lost: {error}")
        return None

    def _parsed(self) -> list[Frame]:
        frames = list(self._frames)
        self._frames.clear()
        at = 0
        while len(self._unread) - at >= HEAD.size:
            kind, length = HEAD.unpack_from(self._unread, at)
            if kind not in (b"H", b"D", b"P", b"E") or length > self.largest:
                raise LinkLostError("the peer does not speak the protocol of devices")
            if len(self._unread) - at - HEAD.size < length:
                break
            at += HEAD.size
            if kind != b"P":
                frames.append((kind, bytes(self._unread[at : at + length])))
            at += length
        del self._unread[:at]
        return frames
