"""The workstation's end of a session: ``python -m millifit.targets.remote.client``.

A child process (see `runner.child`), so that a connection that hangs can be ended. It shakes hands
with the device, then passes on what TVM's RPC client says: that one is compiled, knows plain
sockets alone, and blocks. It connects to a port of this machine, with a random key that nobody
else on it knows.
"""

from __future__ import annotations

import hmac
import importlib.util
import os
import secrets
import socket
import ssl
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from millifit.targets.remote import handshake
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.handshake import RefusedError, WrongTokenError
from millifit.targets.remote.link import Link, LinkLostError
from millifit.targets.remote.message import pack, unpack
from millifit.targets.remote.relay import End, Relay
from millifit.targets.remote.session import FUNCTION
from millifit.targets.runner.serving import Request, serve

_MAGIC = 0xFF271  # of TVM's RPC
_LENGTH = struct.Struct("<i")


class _IdleError(Exception):
    """Nothing was asked for long."""


class Client:
    """Answers the requests of a runner; holds one session.

    A session that nobody asks anything for long is ended: others wait for the device.
    """

    def __init__(self) -> None:
        self._call: Any = None
        self._keep: list[object] = []
        self._idle_since_s: float | None = None
        self._idle_s = 0.0
        self._ended: tuple[str, str] | None = None  # as what, and why
        self._digests: set[str] = set()

    def answer(self, request: Request) -> dict[str, Any]:
        """What was asked for, or how it failed: {"outcome": ..., ...}."""
        try:
            if request["do"] == "connect":
                return self._connect(request)
            return self._ask(request)
        except WrongTokenError as error:
            return {"outcome": "wrong token", "why": str(error)}
        except RefusedError as error:
            return {"outcome": "refused", "why": str(error)}
        except ssl.SSLCertVerificationError as error:
            return {"outcome": "certificate", "why": error.verify_message or str(error)}
        except (LinkLostError, OSError) as error:
            return {"outcome": "unreachable", "why": str(error)}

    def _connect(self, request: Request) -> dict[str, Any]:
        deadline_s = time.monotonic() + float(request["within_s"])
        address = DeviceAddress(host=request["host"], port=int(request["port"]))
        link = open_link(address, request["ca_file"], timeout_s=float(request["within_s"]))
        answer = handshake.ask(
            link, request["token"], want=request["want"], match=request["match"],
            deadline_s=deadline_s,
        )  # fmt: skip
        if answer["answer"] == "busy":
            return {"outcome": "busy", "why": str(answer["why"])[:200]}
        if answer["answer"] == "session" and request["want"] == "session":
            self._idle_s = float(request["idle_s"])
            self._begin(link)
            self._idle_since_s = time.monotonic()
        return {
            "outcome": "done",
            "facts": answer["facts"],
            "max_upload_bytes": int(answer["max_upload_bytes"]),
        }

    def _begin(self, link: Link) -> None:
        """Have TVM's client connect to us, and pass on what it says."""
        key = secrets.token_hex(32)
        door = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=self._pass_on, args=(door, key, link), daemon=True)
        thread.start()
        connect = _remote_procedure_calls()
        session = connect("127.0.0.1", door.getsockname()[1], key, False)
        self._keep.append(session)
        self._call = session.get_function(FUNCTION)

    def _pass_on(self, door: socket.socket, key: str, link: Link) -> None:
        try:
            # Closing its socket is what TVM's client notices.
            with _admit(door, key) as local:
                try:
                    end = Relay(link, local).run(self._check) or End(reason="it was closed here")
                    self._ended = ("died" if end.died else "ended", end.reason)
                except LinkLostError as error:
                    self._ended = ("lost", str(error))
                except _IdleError:
                    self._ended = ("idle", "nothing was asked of it")
        except (LinkLostError, OSError) as error:
            self._ended = ("lost", str(error))
        finally:
            link.close()
            door.close()

    def _check(self) -> None:
        since_s = self._idle_since_s
        if since_s is not None and time.monotonic() - since_s > self._idle_s:
            raise _IdleError

    def _ask(self, request: Request) -> dict[str, Any]:
        content = Path(request["content"]).read_bytes() if request["content"] else b""
        self._idle_since_s = None
        try:
            answered = bytes(self._call(pack(request["ask"], content)))
        except Exception as error:  # whatever TVM's client raises when its connection ends
            return self._how_it_ended(error)
        self._idle_since_s = time.monotonic()
        said, made = unpack(answered)
        if "missing" in said:
            return {"outcome": "missing", "why": said["missing"]}
        if "error" in said:
            return {"outcome": "crashed" if said["crashed"] else "failed", "why": said["error"]}
        if request["save_to"]:
            Path(request["save_to"]).write_bytes(made)
        return {"outcome": "done", "value": said["value"]}

    def _how_it_ended(self, error: Exception) -> dict[str, Any]:
        stop_s = time.monotonic() + 1.0
        while self._ended is None and time.monotonic() < stop_s:
            time.sleep(0.01)
        outcome, why = self._ended or ("lost", str(error)[:200])
        return {"outcome": outcome, "why": why}


def open_link(address: DeviceAddress, ca_file: str | None, *, timeout_s: float) -> Link:
    """A connection to a device, encrypted where the file of an authority is given.

    Raises OSError, of which certificates that do not fit are a kind.
    """
    connection = socket.create_connection((address.host, address.port), timeout=timeout_s)
    if ca_file is not None:
        context = ssl.create_default_context(cafile=ca_file)
        connection = context.wrap_socket(connection, server_hostname=address.host)
    return Link(connection)


def _admit(door: socket.socket, key: str) -> socket.socket:
    """Let in the one who knows the key: our own TVM client, in its words."""
    door.settimeout(30.0)
    while True:
        local, _ = door.accept()
        local.settimeout(5.0)
        wanted = f"client:{key}".encode()
        try:
            magic, length = (_LENGTH.unpack(_exactly(local, 4))[0] for _ in range(2))
            shown = _exactly(local, length) if length == len(wanted) else b""
        except OSError:
            local.close()
            continue
        if magic == _MAGIC and hmac.compare_digest(shown, wanted):
            name = b"server:millifit"
            local.sendall(_LENGTH.pack(_MAGIC) + _LENGTH.pack(len(name)) + name)
            local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return local
        local.close()


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            raise ConnectionResetError
        found += part
    return found


def _remote_procedure_calls() -> Any:
    """TVM's function that connects, without the compiler and the second that importing it takes."""
    spec = importlib.util.find_spec("tvm")
    assert spec is not None
    assert spec.origin is not None
    # tvm_ffi imports torch where it can, which takes a second and is of no use here.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    import tvm_ffi
    from tvm_ffi.libinfo import load_lib_ctypes

    folder = Path(spec.origin).parent / "lib"
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[folder])
    return tvm_ffi.get_global_func("rpc.Connect")


def main() -> None:
    """Serve on the pipes."""
    client = Client()
    serve(lambda request: {"value": client.answer(request)})
    os._exit(0)  # TVM's client would say good-bye to a device that may be gone


if __name__ == "__main__":
    main()
