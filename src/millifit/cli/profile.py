"""The verb profile: measure a model's kernels, and share what was measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from millifit.cli import options
from millifit.cli.output import bars, show, show_facts, show_table, show_tuning, write_json
from millifit.errors import UsageError

if TYPE_CHECKING:
    from millifit.profiler.store import Store

StoreFile = Annotated[
    Path | None, typer.Option("--store", help="The store; the one in your home unless given.")
]


class ModelOrVerb(TyperGroup):
    """Lets 'profile MODEL' stand for 'profile measure MODEL'."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put 'measure' in front of what is none of the group's own words."""
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["measure", *args]
        return super().parse_args(ctx, args)


profile = typer.Typer(cls=ModelOrVerb, no_args_is_help=True)


@profile.callback()
def _profile() -> None:
    """Measure what a model's kernels cost on a target; resumes, and never measures twice.

    \b
    Examples:
    millifit profile net.onnx
    millifit profile net.onnx --threads 2 --store board.sqlite
    millifit profile show
    millifit profile export board.parquet
    millifit profile import board.parquet
    """


@profile.command("measure")
def measure(
    model: options.Model,
    target: options.TargetName = None,
    threads: options.Threads = None,
    store: options.Store = None,
    tune: options.Tune = None,
    precisions: options.Precisions = None,
    input_shape: options.InputShape = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Measure the kernels of MODEL in several precisions; 'profile MODEL' is short for it."""
    from millifit import pipeline
    from millifit.recipe import resolve_recipe

    given = {
        "target": target, "threads": threads, "store": store, "input_shape": input_shape,
        "tune": tune, "precisions": precisions, "seed": seed,
    }  # fmt: skip
    flags = {key: value for key, value in given.items() if value is not None}
    settings = resolve_recipe(flags={"model": model} | flags)
    found = pipeline.profile(
        model,
        target=settings.target,
        threads=settings.threads,
        store=settings.store,
        input_shape=settings.input_shape,
        progress=bars(),
        seed=settings.seed,
        tune=settings.tune,
        precisions=settings.precisions,
    )
    write_json(found, json)
    show_tuning(found["tuning"])
    show_facts({name: value for name, value in found.items() if name != "tuning"})


@profile.command("show")
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


@profile.command("export")
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


@profile.command("import")
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
