"""The store of measurements and tuned kernels: one file that several processes may use at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from millifit.errors import RunFolderError
from millifit.profiler.database import START_OVER, opened
from millifit.profiler.measurement import Measurement
from millifit.profiler.tuned import Tuned, choice_from, trials_of
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples, TimingPolicy

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
        with opened(self._path) as connection, connection:
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

    def add_tuned(self, tuned: Tuned) -> None:
        """Keep a tuned kernel, in place of an earlier result of the same code."""
        row = (
            tuned.kernel.key,
            tuned.target_key,
            tuned.versions,
            json.dumps(tuned.kernel.to_dict()),
            json.dumps(tuned.choice),
            json.dumps(tuned.plain_trials()),
        )
        with opened(self._path) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO tuned (key, target_key, versions, kernel, choice, trials) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

    def tuned(self, target_key: str, versions: str) -> list[Tuned]:
        """The kernels tuned on a target with this code; none where there is no file yet."""
        if not self._path.exists():
            return []
        query = (
            "SELECT kernel, choice, trials FROM tuned "
            "WHERE target_key = ? AND versions = ? ORDER BY rowid"
        )
        with opened(self._path) as connection:
            rows = connection.execute(query, (target_key, versions)).fetchall()
        try:
            return [
                Tuned(
                    kernel=Kernel.from_dict(json.loads(kernel)),
                    target_key=target_key,
                    versions=versions,
                    choice=choice_from(json.loads(choice)),
                    trials=trials_of(json.loads(trials)),
                )
                for kernel, choice, trials in rows
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"'{self._path}': a tuned kernel is damaged ({error}). {START_OVER}"
            ) from error

    def count(self, target_key: str | None = None) -> int:
        """How many measurements there are, failures included."""
        query = "SELECT count(*) FROM measurement WHERE ?1 IS NULL OR target_key = ?1"
        with opened(self._path) as connection:
            (number,) = connection.execute(query, (target_key,)).fetchone()
        return int(number)

    def _read(self, query: str, parameter: str | None) -> list[tuple[str, Measurement]]:
        with opened(self._path) as connection:
            rows = connection.execute(query, (parameter,)).fetchall()
            return [(row[1], self._from_row(row)) for row in rows]

    def _from_row(self, row: _Row) -> Measurement:
        try:
            return _from_row(row)
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"'{self._path}': measurement '{row[1]}' is damaged ({error}). {START_OVER}"
            ) from error


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
