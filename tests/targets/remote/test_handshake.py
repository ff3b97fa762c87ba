"""Who may have a device: proofs under the token, for one connection each, in both directions."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from millifit.targets.remote import handshake
from millifit.targets.remote.handshake import RefusedError, WrongTokenError
from millifit.targets.remote.link import Link, LinkLostError

TOKEN = "a token of the device"
OTHER = "a token of another one"


def soon() -> float:
    return time.monotonic() + 5.0


@contextmanager
def device(token: str = TOKEN) -> Iterator[tuple[Link, Callable[[], Any]]]:
    """A workstation's link to a device, and what the device made of the handshake."""
    ours, theirs = socket.socketpair()
    found: list[Any] = []

    def shake() -> None:
        link = Link(theirs)
        try:
            request, nonce = handshake.challenge(link, token, deadline_s=soon())
            found.append(request)
            handshake.answer(link, token, nonce, {"answer": request["want"], "cores": 4})
            link.settle(1.0)
        except (WrongTokenError, LinkLostError) as error:
            found.append(error)

    thread = threading.Thread(target=shake)
    thread.start()

    def outcome() -> Any:
        thread.join(5.0)
        return found[0]

    link = Link(ours)
    try:
        yield link, outcome
    finally:
        thread.join(5.0)
        link.close()
        theirs.close()


def read(link: Link) -> dict[str, Any]:
    kind, payload = link.next(soon())
    assert kind == b"H"
    return dict(json.loads(payload))


def write(link: Link, message: dict[str, Any]) -> None:
    link.send(b"H", json.dumps(message).encode())


def test_both_sides_with_the_token_agree() -> None:
    """The device hears what is wanted, the workstation its answer."""
    with device() as (link, outcome):
        answer = handshake.ask(link, TOKEN, want="session", match="rpi:1", deadline_s=soon())
        assert (answer["answer"], answer["cores"]) == ("session", 4)
        assert (outcome()["want"], outcome()["match"]) == ("session", "rpi:1")


def test_a_workstation_without_the_token_is_told_so() -> None:
    """And the device counts it as a failure."""
    with device() as (link, outcome):
        with pytest.raises(WrongTokenError, match="does not accept the token"):
            handshake.ask(link, OTHER, want="session", match=None, deadline_s=soon())
        assert isinstance(outcome(), WrongTokenError)


def test_the_token_never_travels() -> None:
    """What the workstation sends has neither the token nor a part of it."""
    ours, theirs = socket.socketpair()
    link, peer = Link(ours), Link(theirs)
    write(peer, {"protocol": handshake.PROTOCOL, "nonce": "0" * 64})
    with pytest.raises(LinkLostError):
        handshake.ask(link, TOKEN, want="facts", match=None, deadline_s=time.monotonic() + 0.2)
    said = json.dumps(read(peer))
    assert "token" not in said
    assert TOKEN.encode().hex() not in said


def test_a_device_without_the_token_is_found_out() -> None:
    """Somebody who answers in the device's place gets no code to run and no measurements."""
    ours, theirs = socket.socketpair()
    link, false_device = Link(ours), Link(theirs)
    write(false_device, {"protocol": handshake.PROTOCOL, "nonce": "0" * 64})
    thread = threading.Thread(
        target=lambda: write(
            false_device, {"answer": "session", "proof": str(read(false_device)["proof"])}
        )
    )
    thread.start()
    with pytest.raises(WrongTokenError, match="what answers there does not know the token"):
        handshake.ask(link, TOKEN, want="session", match=None, deadline_s=soon())
    thread.join()


def test_an_overheard_proof_opens_nothing() -> None:
    """Each connection has a number of its own, which the proof is made for."""
    with device() as (link, _):
        hello = read(link)
        request = {
            "protocol": handshake.PROTOCOL, "nonce": "1" * 64, "want": "session", "match": None
        }  # fmt: skip
        overheard = {
            **request, "proof": handshake.proof(TOKEN, "workstation", hello["nonce"], request)
        }  # fmt: skip
        write(link, overheard)
        assert read(link)["answer"] == "session"
    with device() as (link, outcome):
        read(link)
        write(link, overheard)
        assert read(link) == {"refused": "token"}
        assert isinstance(outcome(), WrongTokenError)


def test_a_changed_request_is_refused() -> None:
    """The proof is of all that is said: whoever sits between cannot want something else."""
    with device() as (link, outcome):
        hello = read(link)
        request = {
            "protocol": handshake.PROTOCOL, "nonce": "1" * 64, "want": "facts", "match": None
        }  # fmt: skip
        proof = handshake.proof(TOKEN, "workstation", hello["nonce"], request)
        write(link, {**request, "want": "session", "proof": proof})
        assert read(link) == {"refused": "token"}
        assert isinstance(outcome(), WrongTokenError)


def test_a_proof_of_one_side_is_none_of_the_other() -> None:
    """Nobody opens a device with what it answered itself."""
    message = {"nonce": "1" * 64}
    sides = {handshake.proof(TOKEN, side, "0" * 64, message) for side in ("device", "workstation")}
    assert len(sides) == 2


@pytest.mark.parametrize(
    "message",
    [
        b"[]",
        b"{",
        b"[" * 2000,
        b"\xff\xfe",
        b'{"protocol": "millifit-device 1", "nonce": 5, "proof": null}',
    ],
)
def test_garbage_is_no_handshake(message: bytes) -> None:
    """Whatever comes in place of a request ends the connection, not the server."""
    with device() as (link, outcome):
        read(link)
        link.send(b"H", message)
        assert isinstance(outcome(), WrongTokenError | LinkLostError)


def test_a_stranger_may_send_little() -> None:
    """Before the token is shown, messages are of two kilobytes at most."""
    with device() as (link, outcome):
        read(link)
        link.send(b"H", b" " * 2049)
        assert isinstance(outcome(), LinkLostError)


def test_another_protocol_is_named() -> None:
    """An old device or a new workstation is told what to do."""
    with device() as (link, _):
        read(link)
        write(link, {"protocol": "millifit-device 0"})
        assert "install the same millifit" in read(link)["refused"]


def test_a_refusal_reaches_the_workstation() -> None:
    """In the device's own words."""
    ours, theirs = socket.socketpair()
    handshake.refuse(Link(theirs), "too many wrong tokens")
    with pytest.raises(RefusedError, match="too many wrong tokens"):
        handshake.ask(Link(ours), TOKEN, want="facts", match=None, deadline_s=soon())
