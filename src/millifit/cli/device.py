"""Verbs about devices: doctor and targets; profile and predict are added to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millifit.cli import options, predicting
from millifit.cli.output import show, show_facts, show_table, write_json
from millifit.cli.profile import profile
from millifit.errors import TargetError, UsageError

if TYPE_CHECKING:
    from millifit.targets.target import Target

targets = typer.Typer(no_args_is_help=True)

UserFile = Annotated[
    Path | None, typer.Option("--file", help="Your catalog; the one in your home unless given.")
]
ReadFile = Annotated[
    Path | None,
    typer.Option("--file", exists=True, help="Your catalog; the one in your home unless given."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of 'millifit targets list'.")]


def doctor(json: options.JsonFile = None) -> None:
    """Say what this machine can do, what is missing, and how to get it.

    \b
    Examples:
    millifit doctor
    millifit doctor --json doctor.json
    """
    from millifit.doctor import examine

    checks = examine()
    write_json(checks, json)
    rows = [(c["check"], c["state"], c["detail"]) for c in checks]
    show_table(("check", "state", "detail"), rows)
    lacking = [c for c in checks if c["state"] == "missing"]
    for check in checks:
        if check["remedy"]:
            show(f"{check['check']}: {check['remedy']}")
    if lacking:
        raise TargetError(f"missing: {', '.join(c['check'] for c in lacking)}.")


@targets.callback()
def _targets() -> None:
    """List, show, add and check the devices that code can be generated for.

    \b
    Examples:
    millifit targets list
    millifit targets show rpi4
    millifit targets add my-phone --like pixel4-cpu --set cores=6 --set l2_bytes=524288
    millifit targets check my-phone
    """


@targets.command("list")
def list_all(file: ReadFile = None, json: options.JsonFile = None) -> None:
    """List all targets: this machine and its GPUs, those that ship, and yours."""
    from millifit.targets.catalog import list_targets
    from millifit.targets.detect_gpu import gpu_targets

    local, *others = list_targets(file)
    found = [local, *gpu_targets(), *others]
    write_json([dataclasses.asdict(target) for target in found], json)
    columns = ("name", "kind", "reached", "computes in", "device")
    show_table(columns, [_row(target) for target in found])


def _row(target: Target) -> tuple[str, ...]:
    """Weight-only precisions are left out: they compute in fp32, everywhere."""
    gpu = target.gpu
    return (
        target.name,
        gpu.api if gpu else "emulated" if target.emulated else "cpu",
        "here" if target.reach == "local" else "--device",
        " ".join(p for p in target.precisions if p not in ("w8", "w4")),
        gpu.name if gpu else target.cpu,
    )


@targets.command("show")
def show_one(name: Name, file: ReadFile = None, json: options.JsonFile = None) -> None:
    """Show all that is known about a target, and where it is known from."""
    from millifit.targets.catalog import find_target

    facts = dataclasses.asdict(find_target(name, user_file=file))
    write_json(facts, json)
    gpu = facts.pop("gpu") or {}
    facts |= {f"gpu.{key}": value for key, value in gpu.items()}
    show_facts({key: _text(value) for key, value in facts.items()})


@targets.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE|NAME", help="TOML of targets, or the new name for --like."),
    ],
    like: Annotated[
        str | None, typer.Option("--like", metavar="TARGET", help="The target it resembles.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What differs; may be given again."),
    ] = None,
    file: UserFile = None,
    json: options.JsonFile = None,
) -> None:
    """Add targets to your catalog: those of a TOML file, or one that is like another.

    \b
    Examples:
    millifit targets add boards.toml
    millifit targets add my-phone --like pixel4-cpu --set cores=6 --set "cpu=My phone"
    millifit targets add a10 --like a100 --set gpu.arch=sm_86 --set gpu.compute_units=72
    """
    from millifit.targets.catalog import add_targets, like_target, read_targets

    if like is not None:
        new: tuple[Target, ...] = (like_target(like, source, _changes(changes or []), file),)
    elif changes:
        raise UsageError("--set changes a target that --like names. Give --like TARGET, too.")
    elif not Path(source).is_file():
        raise UsageError(
            f"there is no file '{source}'. Name a TOML file of targets, or say what the new "
            f"target is like: millifit targets add {source} --like TARGET"
        )
    else:
        new = read_targets(Path(source))
    if not new:
        raise UsageError(f"'{source}' has no target. Write [name] and its keys below.")
    add_targets(new, file)
    write_json([dataclasses.asdict(target) for target in new], json)
    show(f"Added: {', '.join(target.name for target in new)}")


def _changes(given: list[str]) -> dict[str, str]:
    found = {}
    for change in given:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {change}: write KEY=VALUE, e.g. --set cores=6.")
        found[key] = value
    return found


@targets.command("check")
def check(name: Name, file: ReadFile = None, json: options.JsonFile = None) -> None:
    """Check that code can be generated for a target."""
    from millifit.doctor import code_generation
    from millifit.targets.catalog import find_target

    found = code_generation(find_target(name, user_file=file))
    write_json(dataclasses.asdict(found), json)
    if found.state != "ok":
        raise TargetError(f"target '{name}': {found.detail}. {found.remedy}.")
    show(f"{name}: {found.detail}")


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    panel = "Devices"
    app.command(rich_help_panel=panel)(doctor)
    app.add_typer(targets, name="targets", rich_help_panel=panel)
    app.add_typer(profile, name="profile", rich_help_panel=panel)
    predicting.add_to(app, panel=panel)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
