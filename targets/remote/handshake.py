"""How a workstation and a device make sure of each other before anything else is said.

The device sends a random number; the workstation answers with one of its own, what it wants, and
the HMAC-SHA256 of all of it under the token; the device answers likewise. The token is never sent,
an overheard answer is of no use for another connection, and a device that does not know the token
is found out, too. Each side has a few seconds, and messages are small.

::

    device       {"protocol", "nonce"}
    workstation  {"protocol", "nonce", "want", "match", "proof"}
    device       {"answer": "session" | "facts" | "busy", ..., "proof"}, or {"refused"}
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any, Literal

from millifit.errors import TargetError
from millifit.targets.remote.link import Link, LinkLostError

PROTOCOL = "millifit-device 1"
HANDSHAKE_S = 10.0
_LARGEST_REQUEST = 2048  # of a peer that nobody knows yet
_NONCE_CHARACTERS = 64

Want = Literal["session", "facts"]
Side = Literal["device", "workstation"]
Message = Mapping[str, Any]


class WrongTokenError(TargetError):
    """The peer does not know the token."""


class RefusedError(TargetError):
    """The device gave a reason for not talking."""


def proof(token: str, side: Side, nonce: str, message: Message) -> str:
    """The HMAC of a message and of the nonce it answers, for one of the two sides."""
    said = {key: value for key, value in message.items() if key != "proof"}
    text = f"{PROTOCOL}\n{side}\n{nonce}\n{json.dumps(said, sort_keys=True)}"
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()


def ask(link: Link, token: str, *, want: Want, match: str | None, deadline_s: float) -> Message:
    """The workstation's side: the device's answer to what it wants.

    Raises WrongTokenError, RefusedError, or LinkLostError where no device answers in time.
    """
    hello = _read(link, deadline_s)
    if "refused" in hello:
        raise RefusedError(str(hello["refused"])[:200])
    if hello.get("protocol") != PROTOCOL:
        raise RefusedError(f"it speaks '{str(hello.get('protocol'))[:40]}', not '{PROTOCOL}'")
    nonce = secrets.token_hex(_NONCE_CHARACTERS // 2)
    request = {"protocol": PROTOCOL, "nonce": nonce, "want": want, "match": match}
    shown = proof(token, "workstation", _nonce(hello), request)
    _write(link, {**request, "proof": shown})
    answer = _read(link, deadline_s)
    if answer.get("refused") == "token":
        raise WrongTokenError("the device does not accept the token")
    if "refused" in answer:
        raise RefusedError(str(answer["refused"])[:200])
    if not _proven(answer, token, "device", nonce):
        raise WrongTokenError("what answers there does not know the token")
    return answer


def challenge(link: Link, token: str, *, deadline_s: float) -> tuple[Message, str]:
    """The device's side: what a workstation wants, and the nonce that the answer must prove.

    Raises WrongTokenError, having told the peer, and LinkLostError for garbage.
    """
    link.largest = _LARGEST_REQUEST
    nonce = secrets.token_hex(_NONCE_CHARACTERS // 2)
    _write(link, {"protocol": PROTOCOL, "nonce": nonce})
    request = _read(link, deadline_s)
    if request.get("protocol") != PROTOCOL:
        refuse(link, f"this device speaks '{PROTOCOL}': install the same millifit on both sides")
        raise LinkLostError("the peer speaks another protocol")
    if not _proven(request, token, "workstation", nonce):
        refuse(link, "token")
        raise WrongTokenError("wrong token")
    if request.get("want") not in ("session", "facts"):
        raise LinkLostError("the peer wants nothing that is known")
    return request, _nonce(request)


def answer(link: Link, token: str, nonce: str, message: Message) -> None:
    """Answer a request that `challenge` returned."""
    _write(link, {**message, "proof": proof(token, "device", nonce, message)})


def refuse(link: Link, reason: str) -> None:
    """Give a reason, in place of an answer."""
    _write(link, {"refused": reason})
    link.settle(1.0)


def _proven(message: Message, token: str, side: Side, nonce: str) -> bool:
    shown = message.get("proof")
    expected = proof(token, side, nonce, message)
    # Compared as bytes: text of other characters than ASCII would raise.
    return isinstance(shown, str) and hmac.compare_digest(
        shown.encode(errors="replace"), expected.encode()
    )


def _nonce(message: Message) -> str:
    nonce = message.get("nonce")
    if not isinstance(nonce, str) or len(nonce) != _NONCE_CHARACTERS:
        raise LinkLostError("the peer sent no nonce")
    return nonce


def _write(link: Link, message: Message) -> None:
    link.send(b"H", json.dumps(message, sort_keys=True).encode())


def _read(link: Link, deadline_s: float) -> Message:
    kind, payload = link.next(deadline_s)
    try:
        message = json.loads(payload) if kind == b"H" else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise LinkLostError("the peer does not speak the protocol of devices")
    return message
