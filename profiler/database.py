"""The profile's SQLite file, which several processes may use at once."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from millifit.errors import RunFolderError
from millifit.profiler.schema import STEPS

_BUSY_S = 60.0
_VERSION = len(STEPS)
START_OVER = "Move the file away; it will be made anew, and what it held is measured again."


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the file, which is created where there is none, and closed afterwards.

    Files of earlier versions are brought up to date. Raises RunFolderError, with what to do, when
    the file cannot be used or is another program's.
    """
    try:
        if not path.exists():
            _create(path)
        with closing(_connect(path)) as connection:
            _check_version(path, connection)
            yield connection
    except OSError as error:
        raise RunFolderError(
            f"cannot write the measurements to '{path}': {error.strerror}. "
            "Name a folder that you may write to."
        ) from error
    except sqlite3.Error as error:
        raise RunFolderError(f"'{path}': {error}. {_remedy(error)}") from error


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    version = _version_of(connection)
    if version > _VERSION:
        raise RunFolderError(
            f"'{path}' was written by a newer millifit (schema {version}, this one reads "
            f"up to {_VERSION}). Upgrade millifit, or name another store."
        )
    if version < 1:
        raise RunFolderError(f"'{path}' holds no measurements. {START_OVER}")
    if version < _VERSION:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            _upgrade(connection)


def _version_of(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Take the steps that are left, within the transaction that is open."""
    for step in STEPS[_version_of(connection) :]:  # none, where another process was faster
        for statement in filter(str.strip, step.split(";")):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _create(path: Path) -> None:
    """Make an empty store, whole or not at all, once among processes that all want to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # let go of when the folder is closed
        if path.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as staging:
            made = Path(staging) / path.name
            with closing(_connect(made)) as connection:
                # Readers and a writer do not block each other; kept in the file. Switching a file
                # that others have open fails, so it is done before they can see it.
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    connection.execute("BEGIN")
                    _upgrade(connection)
            made.rename(path)
    finally:
        os.close(folder)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    # With the write-ahead log a process that is killed loses nothing that was committed.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _remedy(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorname", "").split("_")[1:2]:
        case ["FULL"]:
            return "The disk is full: free some space, or name a store on another disk."
        case ["BUSY"]:
            return "Another process has it locked: wait for it to end, and run again."
        case ["NOTADB"] | ["CORRUPT"]:
            return START_OVER
        case ["IOERR"]:
            return "The disk failed or is full: check it, or name a store on another disk."
        case _:
            return "Check that you may write to the file and its folder, or name another store."
