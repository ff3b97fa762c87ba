"""The Parquet schema of packs.

One row is one measurement; its `subject` is a kernel or a network. Version 1, without networks and
sections, is read as well. What is structured is JSON text; what is the same in many rows is stored
once by Parquet's dictionaries. Sections stand in the metadata of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from millifit.errors import DataError
from millifit.files import write_atomically
from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Pack
from millifit.profiler.section import Section
from millifit.targets.kernel import Kernel
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy

_VERSION = 2
_VERSION_NAME, _SECTIONS_NAME = b"millifit.pack", b"millifit.sections"
_FIRST = [
    pa.field("key", pa.string()),
    pa.field("target_key", pa.string()),
    pa.field("versions", pa.string()),
    pa.field("kernel", pa.string()),  # JSON, as are network, policy and environment
    pa.field("policy", pa.string()),
    pa.field("environment", pa.string()),
    pa.field("run_s", pa.list_(pa.float64())),  # seconds per run; null where it failed
    pa.field("failure", pa.string()),
]
_SINCE_2 = [
    pa.field("subject", pa.string()),
    pa.field("network", pa.string()),
    pa.field("energy_j", pa.float64()),
    pa.field("section", pa.int64()),
    pa.field("taken_at_s", pa.float64()),
]
_Row = Mapping[str, Any]
_Measured = TypeVar("_Measured", Measurement, NetworkMeasurement)


def is_pack(path: Path) -> bool:
    """Whether a file is Parquet with the columns of a pack; False where it cannot be read."""
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False
    return {field.name for field in _FIRST[:4]} <= set(names)


def write_pack(pack: Pack, path: Path) -> None:
    """Write a pack to `path`; it is there whole or not at all.

    Raises RunFolderError where the file cannot be written.
    """
    sections = json.dumps([asdict(section) for section in pack.sections])
    metadata = {_VERSION_NAME: str(_VERSION).encode(), _SECTIONS_NAME: sections.encode()}
    rows = [_kernel_row(m) for m in pack.kernels] + [_network_row(m) for m in pack.networks]
    fields = [*_FIRST, *_SINCE_2]
    columns = {f.name: pa.array([row[f.name] for row in rows], f.type) for f in fields}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, pa.schema(fields, metadata)), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def read_pack(path: Path) -> Pack:
    """The pack in a file of this version or an earlier one, every row checked.

    Raises DataError for a file that is no pack, is damaged or was written by a newer version, and
    names the row and what is wrong with it.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"cannot read '{path}' as Parquet: {error}. Export it again from its store."
        ) from error
    metadata = table.schema.metadata or {}
    version = _version(path, metadata)
    fields = _FIRST if version == 1 else [*_FIRST, *_SINCE_2]
    wrong = [
        f"'{field.name}' should be {field.type}"
        for field in fields
        if field.name not in table.column_names or table.schema.field(field.name).type != field.type
    ]
    if wrong:
        raise DataError(
            f"'{path}' is no table of measurements: {', '.join(wrong)}. "
            "Use a file that `millifit` exported."
        )
    kernels: list[Measurement] = []
    networks: list[NetworkMeasurement] = []
    for number, row in enumerate(table.select([f.name for f in fields]).to_pylist(), start=1):
        if row.get("subject") == "network":
            networks.append(_checked(path, number, row, _network_from))
        else:
            kernels.append(_checked(path, number, row, _kernel_from))
    return Pack(
        kernels=tuple(kernels),
        networks=tuple(networks),
        sections=_sections(path, metadata.get(_SECTIONS_NAME, b"[]")),
    )


def _version(path: Path, metadata: Mapping[bytes, bytes]) -> int:
    given = metadata.get(_VERSION_NAME, b"1")
    if not given.isdigit() or int(given) < 1:
        raise DataError(f"'{path}' states the version {given!r}. Export it again from its store.")
    if int(given) > _VERSION:
        raise DataError(
            f"'{path}' was written by a newer millifit (version {int(given)} of packs, this one "
            f"reads up to {_VERSION}). Upgrade millifit."
        )
    return int(given)


def _sections(path: Path, text: bytes) -> tuple[Section, ...]:
    try:
        return tuple(Section(**plain) for plain in json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"'{path}': its sections are damaged ({error}). Export it again."
        ) from error


def _checked(path: Path, number: int, row: _Row, read: Callable[[_Row], _Measured]) -> _Measured:
    try:
        return read(row)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError(
            f"'{path}', row {number}: {error}. Nothing was imported; remove the row, or export the "
            "file again."
        ) from error


def _kernel_row(measurement: Measurement) -> dict[str, object]:
    return _row(measurement) | {
        "subject": "kernel",
        "kernel": json.dumps(measurement.kernel.to_dict()),
        "network": None,
        "policy": _policy_text(measurement.policy),
    }


def _network_row(measurement: NetworkMeasurement) -> dict[str, object]:
    kernels = list(measurement.repeats)
    numbers = {kernel: number for number, kernel in enumerate(kernels)}
    network = {
        "name": measurement.name,
        "space": measurement.space,
        "architecture": measurement.architecture,
        "batch": measurement.batch,
        "kernels": [kernel.to_dict() for kernel in kernels],
        "order": [numbers[kernel] for kernel in measurement.calls],
        "kernel_policy": asdict(measurement.kernel_policy),
    }
    return _row(measurement) | {
        "subject": "network",
        "kernel": None,
        "network": json.dumps(network),
        "policy": _policy_text(measurement.policy),
    }


def _row(measurement: Measurement | NetworkMeasurement) -> dict[str, object]:
    """What kernels and networks have in common."""
    outcome = measurement.outcome
    return {
        "key": measurement.key,
        "target_key": measurement.target_key,
        "versions": measurement.versions,
        "environment": json.dumps(dict(measurement.environment), sort_keys=True),
        "run_s": list(outcome.run_s) if isinstance(outcome, Samples) else None,
        "failure": outcome.reason if isinstance(outcome, Failed) else None,
        "energy_j": outcome.energy_j if isinstance(outcome, Samples) else None,
        "section": measurement.section,
        "taken_at_s": measurement.taken_at_s,
    }


def _kernel_from(row: _Row) -> Measurement:
    _need(row, "kernel")
    return _same_key(
        row,
        Measurement(
            kernel=Kernel.from_dict(json.loads(row["kernel"])),
            target_key=row["target_key"],
            versions=row["versions"],
            policy=_kernel_policy(row["policy"]),
            environment=_environment(row["environment"]),
            outcome=_outcome(row),
            section=row.get("section"),
            taken_at_s=row.get("taken_at_s"),
        ),
    )


def _network_from(row: _Row) -> NetworkMeasurement:
    _need(row, "network")
    plain = json.loads(row["network"])
    kernels = [Kernel.from_dict(kernel) for kernel in plain["kernels"]]
    return _same_key(
        row,
        NetworkMeasurement(
            name=plain["name"],
            space=plain["space"],
            architecture=plain["architecture"],
            batch=plain["batch"],
            calls=tuple(kernels[number] for number in plain["order"]),
            kernel_policy=TimingPolicy(**plain["kernel_policy"]),
            target_key=row["target_key"],
            versions=row["versions"],
            policy=_network_policy(row["policy"]),
            environment=_environment(row["environment"]),
            outcome=_outcome(row),
            section=row["section"],
            taken_at_s=row["taken_at_s"],
        ),
    )


def _need(row: _Row, subject: str) -> None:
    for name in ("target_key", "versions", subject, "policy", "environment"):
        if row[name] is None:
            raise ValueError(f"'{name}' is missing")


def _outcome(row: _Row) -> Samples | Failed:
    if (row["run_s"] is None) == (row["failure"] is None):
        raise ValueError("it needs either 'run_s' or 'failure'")
    if row["run_s"] is None:
        return Failed(reason=row["failure"])
    return Samples(run_s=tuple(row["run_s"]), energy_j=row.get("energy_j"))


def _same_key(row: _Row, measurement: _Measured) -> _Measured:
    if measurement.key != row["key"]:
        raise ValueError(f"its key is {row['key']!r}, but its content's is {measurement.key!r}")
    return measurement


# Few policies and environments in many rows.
@lru_cache
def _policy_text(policy: TimingPolicy | NetworkTimingPolicy) -> str:
    return json.dumps(asdict(policy))


@lru_cache
def _kernel_policy(text: str) -> TimingPolicy:
    return TimingPolicy(**json.loads(text))


@lru_cache
def _network_policy(text: str) -> NetworkTimingPolicy:
    return NetworkTimingPolicy(**json.loads(text))


@lru_cache
def _environment(text: str) -> Mapping[str, str]:
    environment = json.loads(text)
    if not isinstance(environment, dict) or not all(
        isinstance(fact, str) for fact in environment.values()
    ):
        raise ValueError("'environment' should be a JSON object of texts")
    return environment
