"""One connection to a device's server: asks who is there, and stands between peer and session."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millifit.targets.device_facts import DeviceFacts
from millifit.targets.remote import handshake, relay, work_folder
from millifit.targets.remote.handshake import WrongTokenError
from millifit.targets.remote.link import Link, LinkLostError
from millifit.targets.remote.relay import End, PacketLimit, PacketTooLargeError, Relay
from millifit.targets.remote.session import serve_session
from millifit.targets.remote.settings import ServerSettings

_SLACK_BYTES = 1 << 20  # of a message, beyond the file that it carries
_DYING_S = 5.0


class SessionEndedError(Exception):
    """The device ends the session, for the reason given."""


class Broker:
    """Serves one connection, in a process of its own."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        facts: DeviceFacts,
        token: str,
        log: Callable[[str], None],
        control: socket.socket,
        folder: Path,
        peer: str,
        refused: bool,
    ) -> None:
        """`control` leads to the server; `folder` is to be made for a session."""
        self._settings = settings
        self._facts = facts
        self._token = token
        self._log = log
        self._control = control
        self._folder = folder
        self._peer = peer
        self._refused = refused

    def run(self, accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Shake hands, and serve what is wanted."""
        deadline_s = time.monotonic() + self._settings.handshake_s
        # TLS has no deadline of its own for all of its messages together.
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, self._settings.handshake_s + 1.0)
        try:
            link = Link(self._encrypted(accepted, tls))
            if self._refused:
                handshake.refuse(link, "too many wrong tokens from this address: wait a minute")
                return
            request, nonce = handshake.challenge(link, self._token, deadline_s=deadline_s)
        except WrongTokenError:
            self._tell({"event": "failed"})
            self._log(f"{self._peer}: wrong token")
            return
        except (LinkLostError, OSError) as error:
            self._log(f"{self._peer}: no handshake: {error}")
            return
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self._tell({"event": "known"})
        with contextlib.suppress(LinkLostError):
            self._serve(link, request, nonce)

    def _encrypted(self, accepted: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
        accepted.settimeout(self._settings.handshake_s)
        return accepted if tls is None else tls.wrap_socket(accepted, server_side=True)

    def _serve(self, link: Link, request: handshake.Message, nonce: str) -> None:
        welcome = {
            "answer": request["want"],
            "facts": self._facts.to_dict(),
            "max_upload_bytes": self._settings.max_upload_bytes,
        }
        if request["want"] == "facts":
            handshake.answer(link, self._token, nonce, welcome)
            link.settle(1.0)
            return
        self._tell({"event": "session wanted", "match": request.get("match")})
        busy = self._heard()["busy"]
        if busy is not None:
            handshake.answer(link, self._token, nonce, {"answer": "busy", "why": busy})
            link.settle(1.0)
            return
        self._folder.mkdir(mode=0o700)
        session, local = self._start(link)
        try:
            self._tell({"event": "session", "pid": session})
            handshake.answer(link, self._token, nonce, welcome)
            self._log(f"{self._peer}: session {session} begins")
            reason = self._stand_between(link, local, session)
            self._log(f"{self._peer}: session {session} ended: {reason}")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(session, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(session, 0)
            work_folder.remove(self._folder)
        link.close()

    def _start(self, link: Link) -> tuple[int, socket.socket]:
        """Fork the session; its process and our end of the socket that leads to it."""
        ours, theirs = socket.socketpair()
        lifeline, self._held = os.pipe()
        session = os.fork()
        if session == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                for inherited in (ours, link, self._control):
                    inherited.close()
                os.close(self._held)
                serve_session(
                    theirs, self._folder,
                    most_bytes=self._settings.max_upload_bytes, lifeline=lifeline,
                )  # fmt: skip
                status = 0
            except BaseException as error:
                self._log(f"session {os.getpid()}: {type(error).__name__}: {error}")
            finally:
                os._exit(status)
        with contextlib.suppress(OSError):  # whoever of the two comes first
            os.setpgid(session, session)
        theirs.close()
        os.close(lifeline)
        return session, ours

    def _stand_between(self, link: Link, local: socket.socket, session: int) -> str:
        """Pass on what comes until something ends; why, for the log and the peer."""
        stop_s = time.monotonic() + self._settings.session_limit_s
        limit = PacketLimit(self._settings.max_upload_bytes + _SLACK_BYTES)

        def check() -> None:
            if time.monotonic() > stop_s:
                limit_s = self._settings.session_limit_s
                raise SessionEndedError(f"it lasted {limit_s:g} s, as long as the device allows")

        try:
            passing = Relay(link, local, limit=limit, wait_for=self._control.fileno())
            if passing.run(check):
                return "the workstation is done"
            end = End(reason=_how_it_ended(session), died=True)
        except EOFError:
            end = End(reason="the device's server stops")
        except (SessionEndedError, PacketTooLargeError) as error:
            end = End(reason=str(error))
        except LinkLostError as error:
            return str(error)
        with contextlib.suppress(LinkLostError):
            relay.tell(link, end)
        return end.reason

    def _tell(self, said: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(said).encode() + b"\n")

    def _heard(self) -> dict[str, Any]:
        heard = b""
        while not heard.endswith(b"\n"):
            part = self._control.recv(4096)
            if not part:
                raise EOFError
            heard += part
        return dict(json.loads(heard))


def _too_slow(_number: int, _frame: object) -> None:
    raise LinkLostError("it took too long")


def _how_it_ended(session: int) -> str:
    stop_s = time.monotonic() + _DYING_S
    while time.monotonic() < stop_s:
        pid, status = os.waitpid(session, os.WNOHANG)
        if pid == 0:
            time.sleep(0.01)
            continue
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"
        return "its process ended" if code == 0 else f"its process ended with exit code {code}"
    return "its process closed its connection"
