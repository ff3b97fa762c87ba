"""One session on the device: TVM's RPC loop, with one function that answers all requests.

This process never runs what was uploaded. It forks workers that do (see `device_worker`): kernels
share one, every network has its own, as on a workstation. So a kernel that crashes or hangs costs
no session, and the workstation hears from the device itself whose fault it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from millifit.errors import MeasurementError, MillifitError
from millifit.targets.remote.device_worker import DeviceWorker
from millifit.targets.remote.forked_worker import Answer, ForkedWorker
from millifit.targets.remote.message import pack, unpack
from millifit.targets.runner.child import ChildLostError, RequestFailedError
from millifit.targets.runner.environment import describe_environment

FUNCTION = "millifit.answer"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

Request = Mapping[str, Any]


class MissingFileError(MeasurementError):
    """A file that is spoken of was not uploaded, or had to make room."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"file {digest} is not on the device")


class Session:
    """Answers requests; holds the files that were uploaded and the workers that use them."""

    def __init__(
        self, folder: Path, *, most_bytes: int, lifeline: int, others: Sequence[int] = ()
    ) -> None:
        """`folder` is the session's, and holds at most `most_bytes` of what was uploaded.

        `lifeline` and `others` are what `ForkedWorker` wants to know.
        """
        self._files = folder / "files"
        self._bundles = folder / "bundles"
        self._most_bytes = most_bytes
        self._lifeline = lifeline
        self._others = others
        self._workers: dict[str, ForkedWorker] = {}
        self._files.mkdir()

    def answer(self, message: bytes) -> bytes:
        """What a message asks for, as a message."""
        try:
            request, content = unpack(message)
            value, made = self._dispatch(request, content)
            return pack({"value": value}, made)
        except MissingFileError as error:
            return pack({"error": str(error), "missing": error.digest, "crashed": False})
        except ChildLostError as error:
            return pack({"error": str(error), "crashed": True})
        except RequestFailedError as error:
            return pack({"error": str(error), "crashed": False})
        except (MillifitError, OSError, KeyError, TypeError, ValueError) as error:
            return pack({"error": f"{type(error).__name__}: {error}", "crashed": False})

    def _dispatch(self, request: Request, content: bytes) -> tuple[object, bytes]:
        match request["do"]:
            case "environment":
                return describe_environment(), b""
            case "put":
                return self._put(content), b""
            case "assemble":
                return self._assemble(request["files"]), b""
            case "forget":
                for name in request["workers"]:
                    self._end_worker(name)
                shutil.rmtree(self._bundles, ignore_errors=True)
                return None, b""
            case "run":
                return self._run(request, content)
        raise MeasurementError(f"unknown request {str(request['do'])[:40]!r}")

    def _run(self, request: Request, content: bytes) -> tuple[object, bytes]:
        """Let a worker answer; a file comes with the request, or goes with the answer."""
        asked = dict(request["ask"])
        files = dict(request["files"])
        if content:
            self._put(content, keep=files.values())
        asked |= {key: str(self._existing(digest)) for key, digest in files.items()}
        if "bundle" in request:
            asked["path"] = str(self._bundle(request["bundle"]))
        worker = self._worker(str(request["worker"]), dict(request["environment"]))
        try:
            value = worker.ask(asked, timeout_s=float(request["timeout_s"]))
        except ChildLostError:
            self._end_worker(str(request["worker"]))
            raise
        if isinstance(value, dict) and "file" in value:
            made = Path(value.pop("file"))
            content = made.read_bytes()
            made.unlink()
            return value, content
        return value, b""

    def _worker(self, name: str, environment: Mapping[str, str]) -> ForkedWorker:
        if name not in self._workers:

            def begin() -> Answer:
                for key, value in environment.items():
                    if key in ("TVM_NUM_THREADS", "TVM_BIND_THREADS", "OMP_NUM_THREADS"):
                        os.environ[key] = str(value)
                return DeviceWorker().answer

            self._workers[name] = ForkedWorker(begin, lifeline=self._lifeline, others=self._others)
        return self._workers[name]

    def _end_worker(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all workers."""
        for name in list(self._workers):
            self._end_worker(name)

    def _put(self, content: bytes, keep: Iterable[str] = ()) -> str:
        """Store a file; others that no bundle has, and that are not to be kept, make room."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._files / digest
        if not path.exists():
            self._make_room(len(content), frozenset(keep))
            path.write_bytes(content)
        return digest

    def _make_room(self, size: int, keep: frozenset[str]) -> None:
        held = [(path, path.stat()) for path in self._files.iterdir()]
        over = sum(found.st_size for _, found in held) + size - self._most_bytes
        for path, found in sorted(held, key=lambda each: each[1].st_mtime_ns):
            if over > 0 and found.st_nlink == 1 and path.name not in keep:
                path.unlink()
                over -= found.st_size
        if over > 0:
            raise MeasurementError(
                f"the session's files would have {over} bytes more than the {self._most_bytes} "
                "that the device allows (--max-upload)"
            )

    def _file(self, digest: object) -> Path:
        """Where a file lies; its name is its content's digest, never one that the peer chose."""
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise MeasurementError(f"{str(digest)[:40]!r} is no digest of a file")
        return self._files / digest

    def _existing(self, digest: object) -> Path:
        path = self._file(digest)
        if not path.exists():
            raise MissingFileError(path.name)
        return path

    def _assemble(self, files: Mapping[str, str]) -> str:
        """A bundle's folder of uploaded files by their names in it; its own name."""
        for name in files:
            if not all(_FILE_NAME.fullmatch(part) for part in name.split("/")):
                raise MeasurementError(f"{name[:80]!r} is no name of a file in a bundle")
        text = json.dumps(dict(files), sort_keys=True)
        bundle = hashlib.sha256(text.encode()).hexdigest()
        folder = self._bundles / bundle
        for name, digest in files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.hardlink_to(self._existing(digest))
        return bundle

    def _bundle(self, name: object) -> Path:
        if not isinstance(name, str) or not _DIGEST.fullmatch(name):
            raise MeasurementError(f"{str(name)[:40]!r} is no bundle")
        return self._bundles / name


def serve_session(
    connection: socket.socket, folder: Path, *, most_bytes: int, lifeline: int
) -> None:
    """Serve TVM's RPC on a socket until its other end is closed, or that of `lifeline`."""
    import tvm_ffi

    os.chdir(folder)
    scratch = folder / "scratch"
    scratch.mkdir()
    os.environ["TMPDIR"] = str(scratch)
    tempfile.tempdir = str(scratch)
    session = Session(
        folder, most_bytes=most_bytes, lifeline=lifeline, others=[connection.fileno()]
    )
    try:
        tvm_ffi.register_global_func(
            FUNCTION, lambda message: session.answer(message), override=True
        )
        serve = tvm_ffi.get_global_func("rpc.ServerLoop")
        serve(connection.detach())
    finally:
        session.close()
        shutil.rmtree(folder, ignore_errors=True)
