"""A session on a device, as the workstation holds it."""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from millifit.errors import TargetError
from millifit.targets.device_facts import DeviceFacts
from millifit.targets.remote import handshake
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.client import open_link
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.handshake import RefusedError, WrongTokenError
from millifit.targets.remote.link import LinkLostError
from millifit.targets.runner.child import Child, ChildLostError, RequestFailedError

_CLIENT = (sys.executable, "-P", "-m", "millifit.targets.remote.client")
_CONNECT_S = 10.0
_IDLE_S = 60.0
_GRACE_S = 20.0  # beyond the device's own deadline, for what travels
_SLOWEST_BYTES_PER_S = 250e3
_MOST_MISSING = 16

COMPUTES = "kernels"
"""The worker on the device that times kernels."""


class DeviceLostError(TargetError):
    """The connection or the session ended; another may be had."""


class DeviceDownError(DeviceLostError):
    """Nothing answers at the address."""


class DeviceBusyError(TargetError):
    """Somebody else has a session on the device."""


class SessionDiedError(DeviceLostError):
    """The session's process ended on the device, which is still there."""


class _MissingFileError(TargetError):
    """The device does not have a file any more."""


class DeviceIdleError(DeviceLostError):
    """The session was given back, because nothing was asked of it for long."""


class RemoteDevice:
    """A session on the device at `address`."""

    def __init__(
        self, address: DeviceAddress, credentials: Credentials, *, match: str | None = None
    ) -> None:
        """Connect and begin a session; `match` is what a tracker gave out for it.

        Raises TargetError with what to do: DeviceDownError, DeviceBusyError, or for good.
        """
        self.address = address
        self._uploaded: set[str] = set()
        self._child = Child(_CLIENT, environment={})
        try:
            answer = self._connected(credentials, match)
        except BaseException:
            self._child.close()
            raise
        self.facts = DeviceFacts.from_dict(answer["facts"])
        self._max_upload_bytes = int(answer["max_upload_bytes"])

    def _connected(self, credentials: Credentials, match: str | None) -> Mapping[str, Any]:
        try:
            answer: dict[str, Any] = self._child.ask(
                "connect", timeout_s=_CONNECT_S + _GRACE_S, want="session", within_s=_CONNECT_S,
                host=self.address.host, port=self.address.port, token=credentials.token,
                ca_file=str(credentials.ca_file) if credentials.ca_file else None, match=match,
                idle_s=_IDLE_S,
            )  # fmt: skip
        except (ChildLostError, RequestFailedError) as error:
            raise DeviceDownError(f"no session with {self.address}: {error}") from error
        if answer["outcome"] != "done":
            raise refusal(str(answer["outcome"]), str(answer["why"]), self.address)
        return answer

    def ask(
        self,
        request: Mapping[str, Any],
        *,
        timeout_s: float,
        content: Path | None = None,
        save_to: Path | None = None,
    ) -> Any:
        """The value that the device answers; a file may go with the request, or come with it.

        Raises RequestFailedError where it could not be done, ChildLostError where what was run
        crashed or hung, DeviceLostError where the session is gone.
        """
        size = content.stat().st_size if content else 0
        if size > self._max_upload_bytes:
            raise TargetError(
                f"{content} has {size} bytes; the device at {self.address} takes "
                f"{self._max_upload_bytes}. Start its server with a larger --max-upload."
            )
        patience_s = timeout_s + _GRACE_S + size / _SLOWEST_BYTES_PER_S
        try:
            answer = self._child.ask(
                "call", timeout_s=patience_s, ask=dict(request),
                content=str(content) if content else None,
                save_to=str(save_to) if save_to else None,
            )  # fmt: skip
        except (ChildLostError, RequestFailedError) as error:
            raise DeviceLostError(f"the session with {self.address} is stuck: {error}") from error
        return self._value(answer)

    def _value(self, answer: Mapping[str, Any]) -> Any:
        match answer["outcome"]:
            case "done":
                return answer["value"]
            case "failed":
                raise RequestFailedError(str(answer["why"]))
            case "crashed":
                raise ChildLostError(str(answer["why"]))
            case "missing":
                self._uploaded.discard(str(answer["why"]))
                raise _MissingFileError(f"{self.address} has no file {answer['why']}")
            case "idle":
                raise DeviceIdleError(f"the session on {self.address} was given back")
            case "died":
                raise SessionDiedError(f"the session on {self.address} died: {answer['why']}")
            case "ended":
                raise DeviceLostError(f"{self.address} ended the session: {answer['why']}")
        raise DeviceLostError(f"the connection to {self.address} was lost: {answer['why']}")

    def run(
        self,
        worker: str,
        asked: Mapping[str, Any],
        *,
        timeout_s: float,
        threads: int,
        files: Mapping[str, Path] | None = None,
        bundle: str | None = None,
        save_to: Path | None = None,
    ) -> Any:
        """Have a worker on the device answer; `files` are given to it under their names.

        One of them travels with the request where the device does not have it yet.
        """
        files = files or {}
        environment = {"TVM_NUM_THREADS": str(threads), "TVM_BIND_THREADS": "0"}
        request: dict[str, Any] = {
            "do": "run", "worker": worker, "environment": environment, "timeout_s": timeout_s,
            "files": {name: _digest(path) for name, path in files.items()}, "ask": dict(asked),
        }  # fmt: skip
        if bundle is not None:
            request["bundle"] = bundle
        return self._completed(
            lambda: self._run(request, files, timeout_s=timeout_s, save_to=save_to)
        )

    def _run(
        self,
        request: Mapping[str, Any],
        files: Mapping[str, Path],
        *,
        timeout_s: float,
        save_to: Path | None,
    ) -> Any:
        digests = request["files"]
        new = [path for name, path in files.items() if digests[name] not in self._uploaded]
        for path in new[1:]:
            self.put(path)
        value = self.ask(
            request, timeout_s=timeout_s, content=new[0] if new else None, save_to=save_to
        )
        self._uploaded |= set(digests.values())
        return value

    def _completed(self, request: Callable[[], Any]) -> Any:
        """Ask again as often as the device finds that a file had to make room."""
        for _ in range(_MOST_MISSING):
            try:
                return request()
            except _MissingFileError:
                continue
        return request()

    def put(self, path: Path) -> str:
        """Upload a file, unless the session has it; its digest."""
        digest = _digest(path)
        if digest not in self._uploaded:
            self.ask({"do": "put"}, timeout_s=60.0, content=path)
            self._uploaded.add(digest)
        return digest

    def assemble(self, files: Mapping[str, Path]) -> str:
        """Upload what is missing of a bundle; its name on the device."""

        def request() -> str:
            digests = {name: self.put(path) for name, path in files.items()}
            return str(self.ask({"do": "assemble", "files": digests}, timeout_s=60.0))

        return str(self._completed(request))

    def forget(self, workers: Sequence[str]) -> None:
        """End workers on the device."""
        self.ask({"do": "forget", "workers": list(workers)}, timeout_s=60.0)

    def environment(self) -> dict[str, str]:
        """Facts of the device as it is now."""
        found = self.ask({"do": "environment"}, timeout_s=60.0)
        return {str(name): str(fact) for name, fact in found.items()}

    def kill(self) -> None:
        """End the session at once, from any thread."""
        self._child.kill()

    def close(self) -> None:
        """End the session; may be called again."""
        self._child.close()


def device_facts(
    address: DeviceAddress, credentials: Credentials, *, timeout_s: float = _CONNECT_S
) -> DeviceFacts:
    """What a device says of itself, also while somebody has a session on it."""
    ca_file = str(credentials.ca_file) if credentials.ca_file else None
    try:
        link = open_link(address, ca_file, timeout_s=timeout_s)
        answer = handshake.ask(
            link, credentials.token, want="facts", match=None,
            deadline_s=time.monotonic() + timeout_s,
        )  # fmt: skip
        link.close()
        return DeviceFacts.from_dict(answer["facts"])
    except WrongTokenError as error:
        raise refusal("wrong token", str(error), address) from error
    except RefusedError as error:
        raise refusal("refused", str(error), address) from error
    except (LinkLostError, OSError, ValueError) as error:
        kind = "certificate" if "CERTIFICATE" in str(error) else "unreachable"
        raise refusal(kind, str(error), address) from error


def refusal(outcome: str, why: str, address: DeviceAddress) -> TargetError:
    """Why there is no session, and what to do."""
    match outcome:
        case "wrong token":
            return TargetError(
                f"{address}: {why}. Copy the device's token file again, whose path its server "
                "printed when it began, and name it with --device-token-file."
            )
        case "certificate":
            return TargetError(
                f"{address}: its certificate does not fit: {why}. Name the certificate of the "
                "authority that signed it with --device-ca, and the device as the certificate does."
            )
        case "busy":
            return DeviceBusyError(f"{address} is busy: {why}")
        case "refused":
            return TargetError(f"{address} refuses: {why}")
    return DeviceDownError(
        f"no device answers at {address}: {why}. Check that `millifit device serve` runs there, "
        "on an address that reaches this machine (--host), and whether it uses TLS (--device-ca)."
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder on the workstation for what travels."""
    return tempfile.TemporaryDirectory(prefix="millifit-remote-")
