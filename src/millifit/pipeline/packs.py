"""Importing profiles: packs as they are, tables of others once they have been checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millifit.errors import DataError, UsageError
from millifit.latency_models.kernels.features import work
from millifit.profiler.packs.checks import Findings, check
from millifit.profiler.packs.mapped import read_mapped
from millifit.profiler.packs.pack import Pack, add_to_store
from millifit.profiler.packs.parquet import is_pack, read_pack
from millifit.profiler.packs.sheet import Floats, Sheet, Subject
from millifit.profiler.packs.sources import read_source, source_named, source_of
from millifit.profiler.packs.table import read_table
from millifit.profiler.store import Store
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples

if TYPE_CHECKING:
    import pandas as pd

_MOST_NAMED = 5


def import_profile(
    file: Path,
    store: Store,
    *,
    mapping: Mapping[str, str] | None = None,
    source: str | None = None,
    skip_bad: bool = False,
    trust_units: bool = False,
) -> dict[str, Any]:
    """Add what `file` holds to a store: a pack, a table of a known source, or one's own.

    `mapping` says which columns mean what (see `profiler.packs.mapping`), `source` names a known
    table whose columns do not tell. Everything is checked before the first row is stored. Rows
    that no device measured refuse the file, or are left out with `skip_bad`; a column that seems to
    be in another unit refuses it but for `trust_units`. Raises DataError and UsageError with what
    to do; RunFolderError when the store cannot be used.
    """
    mapping = mapping or {}
    if is_pack(file) and not mapping and source is None:
        pack = read_pack(file)
        return _kept(pack, store, source="pack", rows=len(pack))
    table = read_table(file)
    sheet, name = _understood(table, file, mapping, source)
    known = _known(sheet, store)
    findings = check(sheet, _work(sheet), known, profiles=_profiles(known), trust_units=trust_units)
    if findings.doubts and not trust_units:
        raise DataError(
            f"'{file}': {'; '.join(findings.doubts)} Nothing was imported. Name the unit, as in "
            "--map latency_us=COLUMN, or import it as it is with --trust-units."
        )
    if findings.bad and not skip_bad:
        raise DataError(_refusal(file, sheet, findings))
    kernels, networks = sheet.without(findings.bad.keys()).measurements()
    pack = Pack(kernels=tuple(kernels), networks=tuple(networks))
    skipped = [
        {"row": sheet.numbers[row], "reason": reason} for row, reason in findings.bad.items()
    ]
    found = _kept(pack, store, source=name, rows=len(table))
    return found | {"skipped": skipped, "notes": [*findings.doubts, *findings.notes]}


def _understood(
    table: pd.DataFrame, file: Path, mapping: Mapping[str, str], source: str | None
) -> tuple[Sheet, str]:
    """The rows of a table, and as what they were read."""
    own = set(mapping) - {"device", "precision", "runtime"}
    if source is not None and own:
        raise UsageError(f"--as {source} reads a table of known columns: leave --map out.")
    known = source_named(source) if source else None if own else source_of(table)
    if known is None:
        return read_mapped(table, mapping, file), "mapped"
    if mapping:
        raise UsageError(
            f"'{file}' is a table of '{known}', which states its {', '.join(mapping)}: leave "
            f"--{next(iter(mapping))} out."
        )
    return read_source(known, table, file), known


def _work(sheet: Sheet) -> Floats | None:
    """Multiply-adds and bytes moved by row ``[n, 2]``; None for networks."""
    distinct: dict[int, Kernel] = {}
    for subject in sheet.subjects:
        if not isinstance(subject, Kernel):
            return None
        distinct.setdefault(id(subject), subject)
    places = {key: place for place, key in enumerate(distinct)}
    amounts = work(list(distinct.values()))[:, :2]
    by_row: Floats = amounts[np.array([places[id(subject)] for subject in sheet.subjects], np.intp)]
    return by_row


def _known(sheet: Sheet, store: Store) -> dict[tuple[str, object], float]:
    """Medians of what the store has of the sheet's targets, by target and subject."""
    found: dict[tuple[str, object], float] = {}
    for key in sorted({setting.target_key for setting in sheet.settings}):
        for one in store.measurements(key):
            if isinstance(one.outcome, Samples):
                found[key, one.kernel] = one.outcome.median_s
        for network in store.networks(key):
            if isinstance(network.outcome, Samples):
                subject = Subject(
                    network.name, network.space, network.architecture, network.batch, network.calls
                )
                found[key, subject] = network.outcome.median_s
    return found


def _profiles(known: Mapping[tuple[str, object], float]) -> dict[str, tuple[Floats, Floats]]:
    """Work ``[m, 2]`` and seconds ``[m]`` of the kernels that are known, by target."""
    found: dict[str, tuple[list[Kernel], list[float]]] = {}
    for (key, subject), seconds in known.items():
        if isinstance(subject, Kernel):
            kernels, times = found.setdefault(key, ([], []))
            kernels.append(subject)
            times.append(seconds)
    return {key: (work(kernels)[:, :2], np.array(times)) for key, (kernels, times) in found.items()}


def _refusal(file: Path, sheet: Sheet, findings: Findings) -> str:
    named = [
        f"row {sheet.numbers[row]}: {reason}"
        for row, reason in list(findings.bad.items())[:_MOST_NAMED]
    ]
    count = len(findings.bad)
    more = f"; and {count - _MOST_NAMED} more rows" if count > _MOST_NAMED else ""
    return (
        f"'{file}': {'; '.join(named)}{more}. Nothing was imported. Correct the "
        f"{'row' if count == 1 else 'rows'}, or import the rest with --skip-bad."
    )


def _kept(pack: Pack, store: Store, *, source: str, rows: int) -> dict[str, Any]:
    added = add_to_store(pack, store)
    outcomes = [m.outcome for m in pack.kernels] + [m.outcome for m in pack.networks]
    return {
        "source": source,
        "rows": rows,
        "kernels": len(pack.kernels),
        "networks": len(pack.networks),
        "failed": sum(isinstance(outcome, Failed) for outcome in outcomes),
        "new_kernels": added.kernels,
        "new_networks": added.networks,
        "targets": pack.target_keys,
        "skipped": [],
        "notes": [],
    }
