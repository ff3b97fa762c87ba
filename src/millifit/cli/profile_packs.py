"""The verb profile's commands for what was measured: show, export, import, merge and diff."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millifit.cli import options
from millifit.cli.output import show, show_table, write_json
from millifit.errors import UsageError

if TYPE_CHECKING:
    from millifit.profiler.packs.pack import Pack
    from millifit.profiler.store import Store

_MOST_SHOWN = 20
StoreFile = Annotated[
    Path | None, typer.Option("--store", help="The store; the one in your home unless given.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Argument(metavar="[STORE|PACK]", help="The store in your home unless given."),
]
TargetOrKey = Annotated[
    str | None,
    typer.Option("--target", help="Only this target's, by name or by key; all unless given."),
]


def add_to(profile: typer.Typer) -> None:
    """Add the commands to the verb."""
    profile.command("show")(show_profile)
    profile.command("export")(export)
    profile.command("import")(import_)
    profile.command("merge")(merge_)
    profile.command("diff")(diff)


def show_profile(
    file: ProfileFile = None,
    store: StoreFile = None,
    target: TargetOrKey = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with plots.")
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Show what was measured: by target, operator and precision, and of whole networks."""
    from millifit.profiler.packs.summary import catalog_names, summarize, target_names

    place, pack = _profile_at(file or store, target)
    names = catalog_names()
    lines = summarize(pack, names)
    write_json([asdict(line) for line in lines], json)
    columns = ("target", "what", "measured", "failed", "ms")
    rows = [
        (
            line.target, f"{line.kind} {line.precision}".strip(), str(line.measured),
            str(line.failed), f"{_ms(line.fastest_s)} to {_ms(line.slowest_s)}",
        )
        for line in lines
    ]  # fmt: skip
    show_table(columns, rows)
    networks = f", {len(pack.networks)} networks" if pack.networks else ""
    show(f"{len(pack.kernels)} kernels{networks} in {place}")
    if html is not None:
        from millifit.report.profile_page import write_profile_page

        write_profile_page(pack, html, names=target_names(pack, names), title=place.name)
        show(f"Page written to {html}")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Parquet file to write.")],
    store: StoreFile = None,
    target: TargetOrKey = None,
    json: options.JsonFile = None,
) -> None:
    """Write the measurements to a Parquet file, a pack, that others can import."""
    from millifit.profiler.share import export_parquet

    place, opened = _existing(store)
    count = export_parquet(opened, file, _target_key(target))
    total = count.kernels + count.networks
    facts = {"measurements": total, "kernels": count.kernels, "networks": count.networks}
    write_json({"store": str(place), "file": str(file)} | facts, json)
    show(f"{total} measurements written to {file}")


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A pack, or a table: Parquet or CSV.")
    ],
    store: StoreFile = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN[,...]|FILE.yml",
            help="Which column says what, where its name does not; or one value for all rows.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where all rows of a table were measured.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="In which precision; fp32 unless stated.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Which public table it is.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be right.")
    ] = False,
    trust_units: Annotated[
        bool, typer.Option("--trust-units", help="Import times that look 1000 times off.")
    ] = False,
    json: options.JsonFile = None,
) -> None:
    """Add the measurements of FILE; those that are there already stay as they are.

    FILE is a pack of 'export', a public table (recognised by its columns), or a table of your own
    with one row per operator or network. A column of a field's own name needs no --map.

    \b
    Fields of an operator:
      op  in_hw (or in_h, in_w)  in_ch  out_ch  kernel  stride  groups  out_hw or padding
      dilation  batch  n_inputs  epilogue (add+relu)
    Fields of a whole network:
      network  space  arch  batch
    Fields of both:
      device  runtime  precision  latency_s|ms|us|ns  latency_std_s|ms|us|ns
      energy_j|mj|uj  failure

    \b
    Examples:
    millifit profile import board.parquet
    millifit profile import conv.csv --device phone --map op=conv2d,latency_ms=time
    millifit profile import ops.csv --map ops.yml --skip-bad
    """
    from millifit.pipeline.packs import import_profile
    from millifit.profiler.packs.mapping import parse_mapping
    from millifit.profiler.store import Store, default_store_path

    place = store or default_store_path()
    given = {"device": device, "precision": precision}
    fields = parse_mapping(mapping or []) | {k: v for k, v in given.items() if v is not None}
    found = import_profile(
        file,
        Store(place),
        mapping=fields,
        source=source,
        skip_bad=skip_bad,
        trust_units=trust_units,
    )
    new = found["new_kernels"] + found["new_networks"]
    write_json({"store": str(place), "file": str(file), "new_measurements": new} | found, json)
    for skipped in found["skipped"][:_MOST_SHOWN]:
        show(f"left out row {skipped['row']}: {skipped['reason']}")
    if len(found["skipped"]) > _MOST_SHOWN:
        show(f"left out {len(found['skipped']) - _MOST_SHOWN} more rows")
    for note in found["notes"]:
        show(f"note: {note}")
    show(f"{new} new measurements in {place} {_counts(found)}")


def merge_(
    files: Annotated[
        list[Path], typer.Argument(metavar="STORE|PACK...", help="What to merge; the first is A.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The pack to write.")],
    json: options.JsonFile = None,
) -> None:
    """Merge packs and stores into one pack.

    Of a measurement that several have, the one with more samples is kept, then the later one.
    """
    from millifit.profiler.packs.merge import merge
    from millifit.profiler.packs.parquet import write_pack

    merged = merge([_profile_at(file)[1] for file in files])
    write_pack(merged.pack, to)
    write_json(
        {
            "file": str(to),
            "kernels": len(merged.pack.kernels),
            "networks": len(merged.pack.networks),
            "choices": [asdict(choice) for choice in merged.choices],
        },
        json,
    )
    apart = [choice for choice in merged.choices if choice.contradict]
    for choice in apart[:_MOST_SHOWN]:
        medians = ", ".join(_ms(median) for median in choice.median_s)
        where = f"{choice.name} on {choice.target_key}"
        show(f"contradiction: {where}: {medians} ms; kept {files[choice.kept]}: {choice.has}")
    if merged.choices:
        show(f"{len(merged.choices)} measurements differ, {len(apart)} of them contradict")
    show(f"{len(merged.pack)} measurements written to {to}")


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A store or a pack.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="A store or a pack.")],
    target: TargetOrKey = None,
    json: options.JsonFile = None,
) -> None:
    """Show which kernels changed by more than the noise, and by how much.

    At most 5 % of what is called changed is expected to be chance.
    """
    from millifit.profiler.compare import compare

    found = compare(_profile_at(before, target)[1], _profile_at(after, target)[1])
    changed = [change for change in found.changes if change.changed]
    facts = asdict(found)
    facts["changes"] = [
        {name: value for name, value in change.items() if name != "subject"}
        for change in facts["changes"]
    ]
    families = found.families()
    facts["families"] = {
        family: {"common": n, "changed": k, "median_ratio": ratio}
        for family, (n, k, ratio) in families.items()
    }
    write_json(facts, json)
    for family, (n, k, ratio) in families.items():
        show(f"{family}: median {_slower(ratio)}, {k} of {n} changed")
    if changed:
        rows = [
            (c.name, c.family, _ms(c.before_s), _ms(c.after_s), f"{c.ratio:.3f}",
             f"{c.low:.3f}-{c.high:.3f}")
            for c in changed[:_MOST_SHOWN]
        ]  # fmt: skip
        show_table(("changed", "family", "before ms", "after ms", "ratio", "95 %"), rows)
    counts = f"{len(changed)} of {len(found.changes)} changed; noise between the two "
    counts += f"{found.noise:.1%}; only in {before.name}: {found.only_before}, only in "
    show(f"{counts}{after.name}: {found.only_after}")


def _profile_at(path: Path | None, target: str | None = None) -> tuple[Path, Pack]:
    """What a store or a pack holds; UsageError where there is no such file."""
    from millifit.profiler.packs.pack import pack_of
    from millifit.profiler.packs.parquet import is_pack, read_pack

    key = _target_key(target)
    if path is not None and is_pack(path):
        pack = read_pack(path)
        return path, pack if key is None else pack.of_target(key)
    place, store = _existing(path)
    if place.suffix == ".parquet":
        return place, read_pack(place)  # it is none: says what is wrong
    return place, pack_of(store, key)


def _existing(path: Path | None) -> tuple[Path, Store]:
    """The store at `path`, which must be there: reading must not create an empty one."""
    from millifit.profiler.store import Store, default_store_path

    place = path or default_store_path()
    if not place.is_file():
        raise UsageError(f"there is no store '{place}'. Measure first: millifit profile MODEL")
    return place, Store(place)


def _target_key(target: str | None) -> str | None:
    """A target's key by its name; what is no name is a key, as tables of others have them."""
    from millifit.errors import UnknownTarget
    from millifit.targets.catalog import find_target

    if target is None:
        return None
    try:
        return find_target(target).key
    except UnknownTarget:
        if "/" in target or len(target) == 16:
            return target
        raise


def _counts(found: Mapping[str, Any]) -> str:
    kinds = ((found["kernels"], "kernels"), (found["networks"], "networks"))
    parts = [f"{count} {kind}" for count, kind in kinds if count]
    targets = len(found["targets"])
    parts.append(f"{targets} target{'s' if targets != 1 else ''}")
    if found["failed"]:
        parts.append(f"{found['failed']} failed")
    return f"({found['rows']} rows: {', '.join(parts)})"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.4g}"


def _slower(ratio: float) -> str:
    if round(ratio, 2) == 1 or round(1 / ratio, 2) == 1:
        return "unchanged"
    return f"{ratio:.2f}x slower" if ratio >= 1 else f"{1 / ratio:.2f}x faster"
