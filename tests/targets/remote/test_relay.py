"""Passing bytes on, with an eye on how large a message is, until one side ends."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from millifit.targets.remote import relay
from millifit.targets.remote.link import Link, LinkLostError
from millifit.targets.remote.relay import End, PacketLimit, PacketTooLargeError, Relay


@dataclass
class Passing:
    """A relay that runs in a thread: the link at its far side, the socket at its near one."""

    link: Link
    local: socket.socket
    outcome: Callable[[], object]
    lifeline: int


@pytest.fixture
def passing() -> Iterator[Passing]:
    """A relay that lets messages of 1000 bytes through."""
    far, near = socket.socketpair()
    inner, local = socket.socketpair()
    waiting, lifeline = os.pipe()
    found: list[object] = []

    def run() -> None:
        try:
            passing_on = Relay(Link(near), inner, limit=PacketLimit(1000), wait_for=waiting)
            found.append(passing_on.run())
        except (LinkLostError, EOFError) as error:
            found.append(error)
        inner.close()

    thread = threading.Thread(target=run)
    thread.start()

    def outcome() -> object:
        thread.join(5.0)
        return found[0]

    link = Link(far, largest=1 << 20)
    local.settimeout(5.0)
    yield Passing(link, local, outcome, lifeline)
    link.close()
    local.close()
    thread.join(5.0)
    os.close(waiting)


def packet(length: int) -> bytes:
    return struct.pack("<Q", length) + bytes(length)


def test_bytes_pass_in_both_directions(passing: Passing) -> None:
    """What one side sends the other gets, frames or not."""
    message = packet(5)
    passing.link.send(b"D", message[:3])
    passing.link.send(b"D", message[3:])
    received = b""
    while len(received) < len(message):
        received += passing.local.recv(100)
    assert received == message
    passing.local.sendall(b"answer")
    assert passing.link.next(time.monotonic() + 5.0) == (b"D", b"answer")


def test_a_reason_from_the_far_side_ends_it(passing: Passing) -> None:
    """The workstation hears why the device ended a session."""
    relay.tell(passing.link, End(reason="it lasted too long"))
    assert passing.outcome() == End(reason="it lasted too long")


def test_the_end_of_the_near_side_ends_it(passing: Passing) -> None:
    """A session whose process ended is over."""
    passing.local.close()
    assert passing.outcome() is None


def test_the_end_of_the_far_side_ends_it(passing: Passing) -> None:
    """A workstation that is gone needs no session."""
    passing.link.close()
    assert isinstance(passing.outcome(), LinkLostError)


def test_the_end_of_the_server_ends_it(passing: Passing) -> None:
    """However the server ended."""
    os.close(passing.lifeline)
    assert isinstance(passing.outcome(), EOFError)


def test_a_message_that_is_too_large_does_not_pass(passing: Passing) -> None:
    """It is refused at its length, before it is sent."""
    passing.link.send(b"D", packet(1000))
    received = b""
    while len(received) < 1008:
        received += passing.local.recv(4096)
    passing.link.send(b"D", struct.pack("<Q", 1001) + b"beginning")
    error = passing.outcome()
    assert isinstance(error, PacketTooLargeError)
    assert "a message of 1001 bytes is larger than the 1000 that the device takes" in str(error)
    assert passing.local.recv(100) == b""


@pytest.mark.parametrize("cut", [1, 3, 7, 8, 9, 64])
def test_lengths_are_found_however_the_stream_is_cut(cut: int) -> None:
    """A length may come in pieces, and several messages in one."""
    stream = packet(3) + packet(0) + packet(10) + packet(11)
    limit = PacketLimit(10)
    refused_at = 0
    for at in range(0, len(stream), cut):
        try:
            limit.follow(stream[at : at + cut])
        except PacketTooLargeError:
            refused_at = at + cut
            break
    length_known = len(packet(3) + packet(0) + packet(10)) + 8
    assert length_known <= refused_at < length_known + cut


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"reason": ""}', b"[" * 3000])
def test_a_reason_that_cannot_be_read_is_none(payload: bytes) -> None:
    """The session ends all the same."""
    assert relay.parsed_end(payload) == End(reason="no reason given")
