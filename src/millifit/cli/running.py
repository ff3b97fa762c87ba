"""The verb that runs what was compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millifit.cli import options
from millifit.cli.output import bars, show_facts, write_json


def run(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="The folder of a bundle or a portfolio.")
    ],
    input_file: Annotated[
        Path | None,
        typer.Option("--input", metavar="X.npy", help="The golden input unless given."),
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", metavar="Y.npy", help="Where the outputs go.")
    ] = None,
    public_key: options.PublicKey = None,
    json: options.JsonFile = None,
) -> None:
    """Run a bundle, or the variant of a portfolio that fits this machine, on samples.

    \b
    Examples:
    millifit run bundles/local --input x.npy --output y.npy
    millifit run portfolio/ --input x.npy --output y.npy --public-key pub.pem
    """
    from millifit import pipeline

    found = pipeline.run(
        bundle, input_file=input_file, output_file=output_file, public_key=public_key,
        progress=bars(),
    )  # fmt: skip
    write_json(found, json)
    show_facts({name: fact for name, fact in found.items() if name != "run_s"})


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file to the command line."""
    app.command(rich_help_panel="From a network to a bundle")(run)
