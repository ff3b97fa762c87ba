"""The store of measurements: one SQLite file that several processes may use at once."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from millifit.errors import RunFolderError
from millifit.profiler.measurement import Measurement
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples, TimingPolicy

_VERSION = 1
_BUSY_S = 60.0
_SCHEMA = """
CREATE TABLE environment (
    id INTEGER PRIMARY KEY,
    facts TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE measurement (
    key TEXT PRIMARY KEY,
    target_key TEXT NOT NULL,
    versions TEXT NOT NULL,
    kernel TEXT NOT NULL,
    policy TEXT NOT NULL,
    environment INTEGER NOT NULL REFERENCES environment (id),
    run_s TEXT,
    failure TEXT,
    CHECK ((run_s IS NULL) <> (failure IS NULL))
) STRICT;
CREATE INDEX measurement_target ON measurement (target_key);
CREATE VIEW measured AS
    SELECT m.rowid AS number, key, kernel, target_key, versions, policy, facts, run_s, failure
    FROM measurement AS m JOIN environment AS e ON e.id = m.environment;
"""
_BY_KEY = "SELECT * FROM measured WHERE key IN (SELECT value FROM json_each(?1))"
_BY_TARGET = "SELECT * FROM measured WHERE ?1 IS NULL OR target_key = ?1 ORDER BY number"
# What was measured stays; only a failure gives way, to a time.
_INSERT = """
INSERT INTO measurement
    (key, target_key, versions, kernel, policy, environment, run_s, failure)
VALUES (?, ?, ?, ?, ?, (SELECT id FROM environment WHERE facts = ?), ?, ?)
ON CONFLICT (key) DO UPDATE
SET run_s = excluded.run_s, failure = NULL, environment = excluded.environment
WHERE measurement.failure IS NOT NULL AND excluded.run_s IS NOT NULL
"""

_Row = tuple[int, str, str, str, str, str, str, str | None, str | None]


def default_store_path() -> Path:
    """Where measurements are kept unless told otherwise; all runs of a user share them."""
    home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    data = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return data / "millifit" / "profile.sqlite"


class Store:
    """Measurements in the file `path`, which is created when something is first asked of it.

    Every call opens the file, does its work in one transaction and closes it, so a Store may be
    shared by threads and processes, and a process that is killed leaves either all or nothing of a
    call. All methods raise RunFolderError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, *measurements: Measurement) -> int:
        """Keep measurements; returns how many were new.

        One that is there already stays as it is, except that a time replaces a failure.
        """
        with self._open() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            environments = {_facts(m.environment) for m in measurements}
            connection.executemany(
                "INSERT OR IGNORE INTO environment (facts) VALUES (?)",
                [(facts,) for facts in sorted(environments)],
            )
            before = connection.total_changes
            connection.executemany(_INSERT, [_to_row(m) for m in measurements])
            return connection.total_changes - before

    def get(self, keys: Iterable[str]) -> dict[str, Measurement]:
        """The measurements of those keys that are there."""
        return dict(self._read(_BY_KEY, json.dumps(list(keys))))

    def measurements(self, target_key: str | None = None) -> list[Measurement]:
        """All measurements, or those of one target, in the order they were added."""
        return [m for _, m in self._read(_BY_TARGET, target_key)]

    def count(self, target_key: str | None = None) -> int:
        """How many measurements there are, failures included."""
        query = "SELECT count(*) FROM measurement WHERE ?1 IS NULL OR target_key = ?1"
        with self._open() as connection:
            (number,) = connection.execute(query, (target_key,)).fetchone()
        return int(number)

    def _read(self, query: str, parameter: str | None) -> list[tuple[str, Measurement]]:
        with self._open() as connection:
            rows = connection.execute(query, (parameter,)).fetchall()
            return [(row[1], self._from_row(row)) for row in rows]

    def _from_row(self, row: _Row) -> Measurement:
        try:
            return _from_row(row)
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"'{self._path}': measurement '{row[1]}' is damaged ({error}). {_START_OVER}"
            ) from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self._path.exists():
                _create(self._path)
            with closing(_connect(self._path)) as connection:
                self._check_version(connection)
                yield connection
        except OSError as error:
            raise RunFolderError(
                f"cannot write the measurements to '{self._path}': {error.strerror}. "
                "Name a folder that you may write to."
            ) from error
        except sqlite3.Error as error:
            raise RunFolderError(f"'{self._path}': {error}. {_remedy(error)}") from error

    def _check_version(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise RunFolderError(
                f"'{self._path}' was written by a newer millifit (schema {version}, this one reads "
                f"up to {_VERSION}). Upgrade millifit, or name another store."
            )
        if version < _VERSION:
            raise RunFolderError(f"'{self._path}' holds no measurements. {_START_OVER}")


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
                connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
            made.rename(path)
    finally:
        os.close(folder)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    # With the write-ahead log a process that is killed loses nothing that was committed.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


_START_OVER = "Move the file away; it will be made anew, and what it held is measured again."


def _remedy(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorname", "").split("_")[1:2]:
        case ["FULL"]:
            return "The disk is full: free some space, or name a store on another disk."
        case ["BUSY"]:
            return "Another process has it locked: wait for it to end, and run again."
        case ["NOTADB"] | ["CORRUPT"]:
            return _START_OVER
        case ["IOERR"]:
            return "The disk failed or is full: check it, or name a store on another disk."
        case _:
            return "Check that you may write to the file and its folder, or name another store."


def _facts(environment: Mapping[str, str]) -> str:
    return json.dumps(dict(environment), sort_keys=True)


def _to_row(measurement: Measurement) -> tuple[str | None, ...]:
    outcome = measurement.outcome
    return (
        measurement.key,
        measurement.target_key,
        measurement.versions,
        json.dumps(measurement.kernel.to_dict()),
        json.dumps(asdict(measurement.policy)),
        _facts(measurement.environment),
        json.dumps(outcome.run_s) if isinstance(outcome, Samples) else None,
        outcome.reason if isinstance(outcome, Failed) else None,
    )


def _from_row(row: _Row) -> Measurement:
    _, _, kernel, target_key, versions, policy, facts, run_s, failure = row
    return Measurement(
        kernel=Kernel.from_dict(json.loads(kernel)),
        target_key=target_key,
        versions=versions,
        policy=TimingPolicy(**json.loads(policy)),
        environment=json.loads(facts),
        outcome=Failed(reason=failure or "")
        if run_s is None
        else Samples(run_s=tuple(json.loads(run_s))),
    )
