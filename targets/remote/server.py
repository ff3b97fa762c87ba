"""The device's server: accepts connections, gives each a process, and clears up after all of them.

One thread and no exec, so that it runs under qemu-user, too. Per connection a broker is forked
(see `broker`), which asks here whether it may have the device: one session at a time. When a broker
ends, however it ends, its session is killed and its folder removed; when this process ends, brokers
notice and do the same.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millifit.targets.device_facts import DeviceFacts
from millifit.targets.remote import work_folder
from millifit.targets.remote.broker import Broker
from millifit.targets.remote.listening import listen, tls_context
from millifit.targets.remote.registration import Registration
from millifit.targets.remote.settings import ServerSettings
from millifit.targets.remote.work_folder import WorkFolders

Log = Callable[[str], None]

_MOST_CONNECTIONS = 32
_MOST_STRANGERS = 16  # that have not shown the token yet
_FAILURES_WITHIN_S = 60.0
_ENDING_S = 10.0


@dataclass(slots=True, kw_only=True)
class _Connection:
    """A broker, as the server knows it."""

    pid: int
    control: socket.socket
    peer: str
    folder: Path
    known: bool = False
    session: int | None = None
    unread: bytes = b""
    since_s: float = field(default_factory=time.monotonic)


class DeviceServer:
    """Serves until it is told to stop; `log` is given plain lines."""

    def __init__(
        self, settings: ServerSettings, *, facts: DeviceFacts, token: str, log: Log
    ) -> None:
        self._settings = settings
        self._facts = facts
        self._token = token
        self._log = log
        self._tls = tls_context(settings)
        self._connections: dict[int, _Connection] = {}
        self._failures: dict[str, deque[float]] = {}
        self._stopping = False
        self._inherited: list[socket.socket] = []
        self._registrar: tuple[int, socket.socket] | None = None
        self._selector = selectors.DefaultSelector()
        self._listener = listen(settings)
        self._folders = WorkFolders()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then end every session and remove what is left."""
        waker, wake = socket.socketpair()
        for end in (waker, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._inherited = [waker, wake, self._listener]
        self._selector.register(waker, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        gc.freeze()  # pages stay shared with the processes that are forked
        if self._settings.tracker is not None:
            self._register()
        try:
            while not self._stopping:
                for ready, _ in self._selector.select():
                    self._handle(ready.fileobj, waker)
        finally:
            self._end()

    def _handle(self, ready: Any, waker: socket.socket) -> None:
        if ready is waker:
            with contextlib.suppress(BlockingIOError):
                waker.recv(64)
        elif ready is self._listener:
            self._accept()
        else:
            self._hear(self._connections[ready.fileno()])

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _accept(self) -> None:
        try:
            accepted, address = self._listener.accept()
        except OSError as error:
            self._log(f"a connection was lost before it was accepted: {error}")
            return
        peer = str(address[0])
        strangers = sum(not each.known for each in self._connections.values())
        if len(self._connections) >= _MOST_CONNECTIONS or strangers >= _MOST_STRANGERS:
            self._log(f"{peer}: turned away, too many connections are open")
            accepted.close()
            return
        self._fork(accepted, peer)

    def _fork(self, accepted: socket.socket, peer: str) -> None:
        ours, theirs = socket.socketpair()
        folder = self._folders.new()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_broker(accepted, peer, theirs, folder)
        for given in (accepted, theirs):
            given.close()
        connection = _Connection(pid=pid, control=ours, peer=peer, folder=folder)
        self._connections[ours.fileno()] = connection
        self._selector.register(ours, selectors.EVENT_READ)

    def _be_broker(
        self, accepted: socket.socket, peer: str, control: socket.socket, folder: Path
    ) -> None:
        """What the forked process does, and nothing after it."""
        status = 1
        try:
            self._let_go()
            broker = Broker(
                settings=self._settings, facts=self._facts, token=self._token, log=self._log,
                control=control, folder=folder, peer=peer, refused=self._too_many_failures(peer),
            )  # fmt: skip
            broker.run(accepted, self._tls)
            status = 0
        except BaseException as error:
            self._log(f"{peer}: {type(error).__name__}: {error}")
        finally:
            os._exit(status)

    def _register(self) -> None:
        """Fork the process that keeps the tracker informed."""
        ours, theirs = socket.socketpair()
        port = self.port
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._let_go()
                ours.close()
                Registration(self._settings, port=port, control=theirs, log=self._log).run()
                status = 0
            except BaseException as error:
                self._log(f"registration: {type(error).__name__}: {error}")
            finally:
                os._exit(status)
        theirs.close()
        self._registrar = (pid, ours)

    def _let_go(self) -> None:
        """In a forked process: give up what is the server's alone."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)  # Ctrl-C is for the server, which tells us by closing its socket
        self._selector.close()
        sockets = [*self._inherited, *(each.control for each in self._connections.values())]
        if self._registrar is not None:
            sockets.append(self._registrar[1])
        for each in sockets:
            each.close()
        self._folders.let_go()

    def _tell_registrar(self, said: dict[str, Any]) -> None:
        if self._registrar is not None:
            with contextlib.suppress(OSError):
                self._registrar[1].sendall(json.dumps(said).encode() + b"\n")

    def _hear(self, connection: _Connection) -> None:
        try:
            part = connection.control.recv(4096)
        except OSError:
            part = b""
        if not part:
            self._forget(connection)
            return
        *lines, connection.unread = (connection.unread + part).split(b"\n")
        for line in lines:
            self._answer(connection, json.loads(line))

    def _answer(self, connection: _Connection, said: dict[str, Any]) -> None:
        match said["event"]:
            case "known":
                connection.known = True
            case "failed":
                self._failures.setdefault(connection.peer, deque()).append(time.monotonic())
            case "session wanted":
                holder = next(
                    (each for each in self._connections.values() if each.session is not None), None
                )
                if holder is None:
                    connection.session = 0
                    connection.since_s = time.monotonic()
                    self._tell_registrar({"free": False, "match": said["match"]})
                busy = None if holder is None else _held(holder)
                with contextlib.suppress(OSError):
                    connection.control.sendall(json.dumps({"busy": busy}).encode() + b"\n")
            case "session":
                connection.session = int(said["pid"])

    def _forget(self, connection: _Connection) -> None:
        """A broker ended: see to it that nothing of its session is left."""
        self._selector.unregister(connection.control)
        del self._connections[connection.control.fileno()]
        connection.control.close()
        if connection.session:
            kill_group(connection.session)
        with contextlib.suppress(ProcessLookupError):
            os.kill(connection.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(connection.pid, 0)
        if connection.folder.exists():
            work_folder.remove(connection.folder)
        if connection.session is not None:
            self._tell_registrar({"free": True})

    def _too_many_failures(self, peer: str) -> bool:
        recent = self._failures.get(peer, deque())
        while recent and time.monotonic() - recent[0] > _FAILURES_WITHIN_S:
            recent.popleft()
        return len(recent) >= self._settings.failures

    def _end(self) -> None:
        """Tell all brokers, wait for them a while, and remove what they left."""
        self._log("stopping")
        self._listener.close()
        for connection in self._connections.values():
            connection.control.shutdown(socket.SHUT_WR)
        stop_s = time.monotonic() + _ENDING_S
        while self._connections and (left := stop_s - time.monotonic()) > 0:
            for ready, _ in self._selector.select(left):
                if isinstance(ready.fileobj, socket.socket) and ready.fd in self._connections:
                    self._hear(self._connections[ready.fd])
        for connection in list(self._connections.values()):
            self._forget(connection)
        if self._registrar is not None:
            pid, control = self._registrar
            control.close()
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._folders.close()


def kill_group(pid: int) -> None:
    """Kill all processes of a session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _held(holder: _Connection) -> str:
    held_s = time.monotonic() - holder.since_s
    return f"a session from {holder.peer} has lasted {held_s:.0f} s"
