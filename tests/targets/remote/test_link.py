"""Frames over sockets: whole, in order, bounded, and with a pulse."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from millifit.targets.remote import link as link_module
from millifit.targets.remote.link import LARGEST_HANDSHAKE, Link, LinkLostError


@pytest.fixture
def pair() -> Iterator[tuple[Link, socket.socket]]:
    """A link, and the plain socket at its other end."""
    ours, theirs = socket.socketpair()
    link = Link(ours)
    yield link, theirs
    link.close()
    theirs.close()


def soon() -> float:
    return time.monotonic() + 5.0


def test_frames_arrive_whole_and_in_order(pair: tuple[Link, socket.socket]) -> None:
    """However the bytes were cut on their way."""
    link, peer = pair
    bytes_sent = b"H\x02\x00\x00\x00{}" + b"P\x00\x00\x00\x00" + b"D\x03\x00\x00\x00abc"
    for byte in bytes_sent:
        peer.send(bytes([byte]))
    peer.close()
    assert [link.next(soon()), link.next(soon())] == [(b"H", b"{}"), (b"D", b"abc")]
    with pytest.raises(LinkLostError, match="the connection was closed"):
        link.next(soon())


def test_a_frame_is_a_kind_a_length_and_its_bytes(pair: tuple[Link, socket.socket]) -> None:
    """The form that the other side must read."""
    link, peer = pair
    link.send(b"D", b"abc")
    assert peer.recv(100) == b"D\x03\x00\x00\x00abc"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"H" + struct.pack("<I", LARGEST_HANDSHAKE + 1),
        b"D\xff\xff\xff\xff",
    ],
)
def test_garbage_ends_the_connection(pair: tuple[Link, socket.socket], garbage: bytes) -> None:
    """A web browser, a client that speaks TLS, and lengths that nobody means."""
    link, peer = pair
    peer.send(garbage)
    with pytest.raises(LinkLostError, match="does not speak the protocol"):
        link.next(soon())


def test_a_peer_that_sends_without_end_fills_no_memory(pair: tuple[Link, socket.socket]) -> None:
    """Of one frame so much is read as it may have; the rest waits in the sender."""
    link, peer = pair
    peer.setblocking(False)
    peer.send(b"H" + struct.pack("<I", LARGEST_HANDSHAKE))
    sent = 0
    for _ in range(50):
        try:
            while True:
                sent += peer.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        try:
            link.receive()
        except LinkLostError:
            break
    assert sent < 4 << 20


def test_a_silent_peer_is_given_up(
    pair: tuple[Link, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without power sends no good-bye."""
    link, _ = pair
    monkeypatch.setattr(link_module, "SILENCE_S", 0.05)
    link.beat()
    time.sleep(0.1)
    with pytest.raises(LinkLostError, match="nothing was heard"):
        link.beat()


def test_a_pulse_is_sent_where_nothing_else_is(
    pair: tuple[Link, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once per interval, and not before it is over."""
    link, peer = pair
    link.beat()
    monkeypatch.setattr(link_module, "HEARTBEAT_S", 0.0)
    time.sleep(0.01)
    link.beat()
    assert peer.recv(100) == b"P\x00\x00\x00\x00"


def test_an_answer_that_does_not_come_is_waited_for_until_the_deadline(
    pair: tuple[Link, socket.socket],
) -> None:
    """And no longer, whatever else happens."""
    link, _ = pair
    begun_s = time.monotonic()
    with pytest.raises(LinkLostError, match="no answer in time"):
        link.next(begun_s + 0.1)
    assert 0.1 <= time.monotonic() - begun_s < 3.0


def test_what_a_slow_peer_does_not_take_is_kept(pair: tuple[Link, socket.socket]) -> None:
    """Sending never waits; the rest goes when there is room."""
    link, peer = pair
    payload = bytes(range(256)) * 4096
    link.send(b"D", payload)
    assert link.backlog > 0
    received = b""
    while len(received) < 5 + len(payload):
        received += peer.recv(1 << 16)
        link.flush()
    assert received[5:] == payload
    assert link.backlog == 0
