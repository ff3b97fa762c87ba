"""Throw-away folders of sessions: below one folder per server, which is removed with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from millifit.errors import TargetError

_PREFIX = "millifit-device-"
_LOCK = "lock"


class WorkFolders:
    """The folder of one server. Nobody else may read it.

    Where a server was killed with all its processes at once, its folder stays; the next server of
    the same user finds that nobody holds its lock, and removes it.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        try:
            self.root = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TargetError(
                f"cannot make a folder in '{tempfile.gettempdir()}': {error.strerror}. Free some "
                "space there, or set TMPDIR to another folder."
            ) from error
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def new(self) -> Path:
        """A path for a session's folder, which does not exist yet."""
        return self.root / secrets.token_hex(8)

    def let_go(self) -> None:
        """For processes that were forked: the lock is the server's alone."""
        os.close(self._lock)

    def close(self) -> None:
        """Remove everything."""
        remove(self.root)
        os.close(self._lock)


def remove(folder: Path) -> None:
    """Remove a folder and what is in it, also where a session took away the right to."""
    for at, folders, _ in os.walk(folder):
        for path in (Path(at) / name for name in folders):
            if not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # a server is just making it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(folder)
        except BlockingIOError:
            pass  # its server runs
        finally:
            os.close(lock)
