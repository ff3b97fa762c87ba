"""The verb profile's commands for what was measured: show, export and import."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millifit.cli import options
from millifit.cli.output import show, show_table, write_json
from millifit.errors import UsageError

if TYPE_CHECKING:
    from millifit.profiler.store import Store

StoreFile = Annotated[
    Path | None, typer.Option("--store", help="The store; the one in your home unless given.")
]


def add_to(profile: typer.Typer) -> None:
    """Add the commands to the verb."""
    profile.command("show")(show_store)
    profile.command("export")(export)
    profile.command("import")(import_)


def show_store(store: StoreFile = None, json: options.JsonFile = None) -> None:
    """Show how many measurements there are, by target, operator and precision."""
    from millifit.targets.timing import Failed

    place, opened = _existing(store)
    counts: Counter[tuple[str, str, str]] = Counter()
    failed: Counter[tuple[str, str, str]] = Counter()
    for one in opened.measurements():
        kind = (one.target_key, one.kernel.op, one.kernel.precision)
        counts[kind] += 1
        failed[kind] += isinstance(one.outcome, Failed)
    columns = ("target", "operator", "precision", "kernels", "failed")
    rows = [(*kind, str(counts[kind]), str(failed[kind])) for kind in sorted(counts)]
    write_json([dict(zip(columns, row, strict=True)) for row in rows], json)
    show_table(columns, rows)
    show(f"{sum(counts.values())} measurements in {place}")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Parquet file to write.")],
    store: StoreFile = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Only this target's; all unless given.")
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Write the measurements to a Parquet file that others can import."""
    from millifit.profiler.share import export_parquet
    from millifit.targets.catalog import find_target

    place, opened = _existing(store)
    count = export_parquet(opened, file, find_target(target).key if target else None)
    write_json({"store": str(place), "file": str(file), "measurements": count}, json)
    show(f"{count} measurements written to {file}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Parquet file of 'export'.")],
    store: StoreFile = None,
    json: options.JsonFile = None,
) -> None:
    """Add the measurements of a Parquet file; those that are there already stay as they are."""
    from millifit.profiler.share import import_parquet
    from millifit.profiler.store import Store, default_store_path

    place = store or default_store_path()
    count = import_parquet(file, Store(place))
    write_json({"store": str(place), "file": str(file), "new_measurements": count}, json)
    show(f"{count} new measurements in {place}")


def _existing(path: Path | None) -> tuple[Path, Store]:
    """The store at `path`, which must be there: reading must not create an empty one."""
    from millifit.profiler.store import Store, default_store_path

    place = path or default_store_path()
    if not place.is_file():
        raise UsageError(f"there is no store '{place}'. Measure first: millifit profile MODEL")
    return place, Store(place)
