"""The store of measurements and tuned kernels: one file that several processes may use at once."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from millifit.errors import RunFolderError
from millifit.profiler.database import START_OVER, opened
from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.rows import (
    Cell,
    Row,
    facts,
    kernel_cells,
    measurement_from,
    network_cells,
    network_from,
    section_from,
)
from millifit.profiler.section import Section
from millifit.profiler.tuned import Tuned, choice_from, trials_of
from millifit.targets.kernel import Kernel

Subject = TypeVar("Subject", Measurement, NetworkMeasurement)
Value = TypeVar("Value")

_BY_KEY = "SELECT * FROM measured WHERE key IN (SELECT value FROM json_each(?1))"
_BY_TARGET = "SELECT * FROM measured WHERE ?1 IS NULL OR target_key = ?1 ORDER BY number"
_INSERT = """
INSERT INTO measurement
    (key, target_key, versions, kernel, policy, environment, run_s, failure,
     energy_j, section, taken_at_s)
VALUES (?, ?, ?, ?, ?, (SELECT id FROM environment WHERE facts = ?), ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE
SET run_s = excluded.run_s, failure = excluded.failure, environment = excluded.environment,
    energy_j = excluded.energy_j, section = excluded.section, taken_at_s = excluded.taken_at_s
"""
# What was measured stays; only a failure gives way, to a time.
_INSERT_NEW = _INSERT + "WHERE measurement.failure IS NOT NULL AND excluded.run_s IS NOT NULL"
_SUPERSEDE = """
INSERT INTO superseded
SELECT key, environment, run_s, failure, energy_j, section, taken_at_s
FROM measurement WHERE key = ?
"""
_SUPERSEDE_NETWORK = """
INSERT INTO superseded
SELECT key, environment, run_s, failure, NULL, section, taken_at_s FROM network WHERE key = ?
"""
_INSERT_NETWORK = """
INSERT INTO network
    (key, target_key, versions, subject, calls, policies, environment, run_s, failure,
     section, taken_at_s)
VALUES (?, ?, ?, ?, ?, ?, (SELECT id FROM environment WHERE facts = ?), ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE
SET run_s = excluded.run_s, failure = excluded.failure, environment = excluded.environment,
    section = excluded.section, taken_at_s = excluded.taken_at_s
"""
_INSERT_NEW_NETWORK = _INSERT_NETWORK + "WHERE FALSE"
_NETWORKS = """
SELECT key, subject, calls, policies, target_key, versions, facts, run_s, failure,
    section, taken_at_s
FROM network AS n JOIN environment AS e ON e.id = n.environment
WHERE ?1 IS NULL OR target_key = ?1 ORDER BY n.rowid
"""
_NETWORK_TARGETS = """
SELECT target_key, count(*) FROM network
WHERE json_extract(subject, '$.space') = ? GROUP BY target_key ORDER BY target_key
"""
_SECTIONS = """
SELECT number, target_key, versions, began_s, facts, anchors, shift, drifting
FROM section AS s JOIN environment AS e ON e.id = s.environment
WHERE ?1 IS NULL OR target_key = ?1 ORDER BY number
"""
_INSERT_ENVIRONMENT = "INSERT OR IGNORE INTO environment (facts) VALUES (?)"


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
        return self._write(_INSERT_NEW, measurements, kernel_cells)

    def supersede(self, *measurements: Measurement) -> None:
        """Keep measurements in place of those that are there, which are set aside."""
        keys = [(measurement.key,) for measurement in measurements]
        with opened(self._path) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_SUPERSEDE, keys)
            _insert(connection, _INSERT, measurements, kernel_cells)

    def superseded(self) -> int:
        """How many measurements were set aside."""
        with opened(self._path) as connection:
            (number,) = connection.execute("SELECT count(*) FROM superseded").fetchone()
        return int(number)

    def add_networks(self, *measurements: NetworkMeasurement) -> int:
        """Keep measurements of whole networks; returns how many were new."""
        return self._write(_INSERT_NEW_NETWORK, measurements, network_cells)

    def supersede_networks(self, *measurements: NetworkMeasurement) -> None:
        """Keep measurements of networks in place of those that are there, which are set aside."""
        with opened(self._path) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_SUPERSEDE_NETWORK, [(each.key,) for each in measurements])
            _insert(connection, _INSERT_NETWORK, measurements, network_cells)

    def networks(self, target_key: str | None = None) -> list[NetworkMeasurement]:
        """All networks that were measured, or those of one target, in order."""
        return [m for _, m in self._read(_NETWORKS, target_key, network_from)]

    def network_targets(self, space: str) -> dict[str, int]:
        """The keys of the targets with networks of a space, and how many each has."""
        with opened(self._path) as connection:
            return dict(connection.execute(_NETWORK_TARGETS, (space,)).fetchall())

    def begin_section(
        self, target_key: str, versions: str, *, began_s: float, environment: Mapping[str, str]
    ) -> Section:
        """A new section, numbered on."""
        with opened(self._path) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_INSERT_ENVIRONMENT, (facts(environment),))
            number = connection.execute(
                "INSERT INTO section (target_key, versions, began_s, environment, anchors, "
                "drifting) VALUES (?, ?, ?, (SELECT id FROM environment WHERE facts = ?), '{}', 0)",
                (target_key, versions, began_s, facts(environment)),
            ).lastrowid
        return Section(
            number=int(number or 0), target_key=target_key, versions=versions, began_s=began_s,
            environment=environment, anchors={},
        )  # fmt: skip

    def judge(self, *sections: Section) -> None:
        """Keep the anchors and the verdict of sections that have begun."""
        rows = [(json.dumps(dict(s.anchors)), s.shift, s.drifting, s.number) for s in sections]
        with opened(self._path) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE section SET anchors = ?, shift = ?, drifting = ? WHERE number = ?", rows
            )

    def sections(self, target_key: str | None = None) -> list[Section]:
        """All sections, or those of one target, in order."""
        return [s for _, s in self._read(_SECTIONS, target_key, section_from)]

    def get(self, keys: Iterable[str]) -> dict[str, Measurement]:
        """The measurements of those keys that are there."""
        return dict(self._read(_BY_KEY, json.dumps(list(keys)), measurement_from))

    def measurements(self, target_key: str | None = None) -> list[Measurement]:
        """All measurements, or those of one target, in the order they were added."""
        return [m for _, m in self._read(_BY_TARGET, target_key, measurement_from)]

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

    def _write(
        self,
        statement: str,
        measurements: Sequence[Subject],
        cells_of: Callable[[Subject], tuple[Cell, ...]],
    ) -> int:
        with opened(self._path) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            return _insert(connection, statement, measurements, cells_of)

    def _read(
        self, query: str, parameter: str | None, value_of: Callable[[Row], Value]
    ) -> list[tuple[str, Value]]:
        with opened(self._path) as connection:
            rows = connection.execute(query, (parameter,)).fetchall()
        found = []
        for row in rows:
            try:
                found.append((str(row[0]), value_of(row)))
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise RunFolderError(
                    f"'{self._path}': measurement '{row[0]}' is damaged ({error}). {START_OVER}"
                ) from error
        return found


def _insert(
    connection: sqlite3.Connection,
    statement: str,
    measurements: Sequence[Subject],
    cells_of: Callable[[Subject], tuple[Cell, ...]],
) -> int:
    """Run a statement for every measurement; returns how many rows it changed."""
    environments = sorted({facts(measurement.environment) for measurement in measurements})
    connection.executemany(_INSERT_ENVIRONMENT, [(each,) for each in environments])
    before = connection.total_changes
    connection.executemany(statement, [cells_of(measurement) for measurement in measurements])
    return connection.total_changes - before
