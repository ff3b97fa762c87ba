"""Verbs about devices: doctor and targets; profile and predict are added to them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from millifit.cli import options, predicting
from millifit.cli.output import show, show_facts, show_table, write_json
from millifit.cli.profile import profile
from millifit.errors import TargetError, UsageError

targets = typer.Typer(no_args_is_help=True)

UserFile = Annotated[
    Path | None, typer.Option("--file", help="Your catalog; the one in your home unless given.")
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
    millifit targets add my_board.toml
    millifit targets check local
    """


@targets.command("list")
def list_all(file: UserFile = None, json: options.JsonFile = None) -> None:
    """List all targets: this machine, those that ship, and yours."""
    from millifit.targets.catalog import list_targets

    found = list_targets(file)
    write_json([dataclasses.asdict(target) for target in found], json)
    rows = [(t.name, t.mcpu, str(t.vector_bits), t.dot_product, str(t.cores), t.cpu) for t in found]
    show_table(("name", "code for", "bits", "int8 by", "cores", "device"), rows)


@targets.command("show")
def show_one(name: Name, file: UserFile = None, json: options.JsonFile = None) -> None:
    """Show all that is known about a target."""
    from millifit.targets.catalog import find_target

    facts = dataclasses.asdict(find_target(name, user_file=file))
    write_json(facts, json)
    show_facts({key: _text(value) for key, value in facts.items()})


@targets.command("add")
def add(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="TOML with a table per target.")],
    file: UserFile = None,
    json: options.JsonFile = None,
) -> None:
    """Add the targets of a TOML file to your catalog."""
    from millifit.targets.catalog import add_target, list_targets

    if not source.is_file():
        raise UsageError(f"there is no file '{source}'. Name a TOML file of targets.")
    shipped = {target.name for target in list_targets(Path(os.devnull))}
    new = [target for target in list_targets(source) if target.name not in shipped]
    if not new:
        raise UsageError(f"'{source}' has no target. Write [name] and its keys below.")
    for target in new:
        add_target(target, file)
    write_json([dataclasses.asdict(target) for target in new], json)
    show(f"Added: {', '.join(target.name for target in new)}")


@targets.command("check")
def check(name: Name, file: UserFile = None, json: options.JsonFile = None) -> None:
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
