"""Sharing measurements: a store's content as one Parquet file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from millifit.errors import DataError
from millifit.files import write_atomically
from millifit.profiler.measurement import Measurement
from millifit.profiler.store import Store
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples, TimingPolicy

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("target_key", pa.string()),
        pa.field("versions", pa.string()),
        pa.field("kernel", pa.string()),  # JSON, as are policy and environment
        pa.field("policy", pa.string()),
        pa.field("environment", pa.string()),
        pa.field("run_s", pa.list_(pa.float64())),  # seconds per run; null where it failed
        pa.field("failure", pa.string()),
    ]
)


def export_parquet(store: Store, path: Path, target_key: str | None = None) -> int:
    """Write all measurements, or those of one target, to `path`; returns how many.

    Raises RunFolderError where the file cannot be written; it is there whole or not at all.
    """
    measurements = store.measurements(target_key)
    table = pa.Table.from_pylist([_to_row(m) for m in measurements], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
    return len(measurements)


def import_parquet(path: Path, store: Store) -> int:
    """Add the measurements of a file that `export_parquet` wrote; returns how many were new.

    Every row is checked before the first one is stored. Raises DataError naming the row and what
    is wrong with it.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"cannot read '{path}' as Parquet: {error}. Export it again from its store."
        ) from error
    wrong = [
        f"'{field.name}' should be {field.type}"
        for field in _SCHEMA
        if field.name not in table.column_names or table.schema.field(field.name).type != field.type
    ]
    if wrong:
        raise DataError(
            f"'{path}' is no table of measurements: {', '.join(wrong)}. "
            "Use a file that `millifit` exported."
        )
    rows = table.select(_SCHEMA.names).to_pylist()
    measurements = [_checked(path, number, row) for number, row in enumerate(rows, start=1)]
    return store.add(*measurements)


def _checked(path: Path, number: int, row: Mapping[str, Any]) -> Measurement:
    try:
        return _from_row(row)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"'{path}', row {number}: {error}. Nothing was imported; remove the row, or export the "
            "file again."
        ) from error


def _to_row(measurement: Measurement) -> dict[str, object]:
    outcome = measurement.outcome
    return {
        "key": measurement.key,
        "target_key": measurement.target_key,
        "versions": measurement.versions,
        "kernel": json.dumps(measurement.kernel.to_dict()),
        "policy": json.dumps(asdict(measurement.policy)),
        "environment": json.dumps(dict(measurement.environment), sort_keys=True),
        "run_s": list(outcome.run_s) if isinstance(outcome, Samples) else None,
        "failure": outcome.reason if isinstance(outcome, Failed) else None,
    }


def _from_row(row: Mapping[str, Any]) -> Measurement:
    for name in ("target_key", "versions", "kernel", "policy", "environment"):
        if row[name] is None:
            raise ValueError(f"'{name}' is missing")
    if (row["run_s"] is None) == (row["failure"] is None):
        raise ValueError("it needs either 'run_s' or 'failure'")
    environment = json.loads(row["environment"])
    if not isinstance(environment, dict) or not all(
        isinstance(fact, str) for fact in environment.values()
    ):
        raise ValueError("'environment' should be a JSON object of texts")
    measurement = Measurement(
        kernel=Kernel.from_dict(json.loads(row["kernel"])),
        target_key=row["target_key"],
        versions=row["versions"],
        policy=TimingPolicy(**json.loads(row["policy"])),
        environment=environment,
        outcome=Failed(reason=row["failure"])
        if row["run_s"] is None
        else Samples(run_s=tuple(row["run_s"])),
    )
    if measurement.key != row["key"]:
        raise ValueError(f"its key is {row['key']!r}, but its content's is {measurement.key!r}")
    return measurement
