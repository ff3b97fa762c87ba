"""The verb profile: measure a model's kernels. What is done with them: `profile_packs`."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from millifit.cli import options, profile_packs
from millifit.cli.output import bars, show_facts, show_tuning, write_json


class ModelOrVerb(TyperGroup):
    """Lets 'profile MODEL' stand for 'profile measure MODEL'."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put 'measure' in front of what is none of the group's own words."""
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["measure", *args]
        return super().parse_args(ctx, args)


profile = typer.Typer(cls=ModelOrVerb, no_args_is_help=True)
profile_packs.add_to(profile)


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
