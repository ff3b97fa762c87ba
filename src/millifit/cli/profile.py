"""The verb profile: measure a model's kernels. What is done with them: `profile_packs`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from millifit.cli import options, predicting, profile_packs
from millifit.cli.output import bars, device_said, show_facts, show_tuning, write_json
from millifit.errors import UsageError

_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

Subject = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="An ONNX file, a folder of them, or module:function."),
]
Space = Annotated[
    str | None,
    typer.Option("--space", metavar="NAME", help="A search space, e.g. mobilenet, not a model."),
]
For = Annotated[
    str | None,
    typer.Option("--for", metavar="60s|10m|1h", help="Stop after so long; the best comes first."),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="5%", help="Stop when the median held-out error is at most this."
    ),
]


class ModelOrVerb(TyperGroup):
    """Lets 'profile MODEL' stand for 'profile measure MODEL'."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put 'measure' in front of what is none of the group's own words."""
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["measure", *args]
        return super().parse_args(ctx, args)


profile = typer.Typer(cls=ModelOrVerb, no_args_is_help=True)
profile_packs.add_to(profile)
profile.command("learn")(predicting.learn)


@profile.callback()
def _profile() -> None:
    """Measure what the kernels of models cost on a target; resumes, and never measures twice.

    \b
    Examples:
    millifit profile net.onnx
    millifit profile models/ --for 10m
    millifit profile --space mobilenet --for 15m --until 3%
    millifit profile net.onnx --threads 2 --store board.sqlite
    millifit profile net.onnx --target rpi4 --device pi.local:9391
    millifit profile show
    millifit profile export board.parquet
    millifit profile import board.parquet
    millifit profile import ops.csv --map op=type,latency_ms=time --device phone
    millifit profile diff before.parquet after.parquet
    """


@profile.command("measure")
def measure(
    model: Subject = None,
    space: Space = None,
    seconds: For = None,
    until: Until = None,
    target: options.TargetName = None,
    device: options.Device = None,
    device_token_file: options.DeviceToken = None,
    device_ca: options.DeviceCa = None,
    threads: options.Threads = None,
    store: options.Store = None,
    tune: options.Tune = None,
    precisions: options.Precisions = None,
    input_shape: options.InputShape = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Measure what MODEL, a folder of models or a search space is made of.

    The most useful kernels come first; some whole networks are measured, too. 'profile MODEL' is
    short for it.
    """
    from millifit import pipeline
    from millifit.pipeline.reach import device_access
    from millifit.recipe import resolve_recipe

    if (model is None) == (space is None):
        raise UsageError(
            "name what to profile: an ONNX file, a folder of them, module:function, or --space."
        )
    given = {
        "model": model or space, "target": target, "threads": threads, "store": store,
        "input_shape": input_shape, "tune": tune, "precisions": precisions, "seed": seed,
        "device": device, "device_token_file": device_token_file, "device_ca": device_ca,
    }  # fmt: skip
    settings = resolve_recipe(
        flags={key: value for key, value in given.items() if value is not None}
    )
    found = pipeline.profile(
        model,
        space=space,
        seconds=None if seconds is None else duration_s(seconds),
        until=None if until is None else share(until),
        target=settings.target,
        device=device_access(settings.device, settings.device_token_file, settings.device_ca),
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
    show_facts(_facts(found))


def duration_s(text: str) -> float:
    """Seconds of ``60s``, ``10m``, ``1.5h`` or ``60``; UsageError for others, and for 0."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNIT_S else (text, "s")
    try:
        seconds = float(number) * _UNIT_S[unit]
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--for must be a time above 0 like 60s, 10m or 1h, got '{text}'.")
    return seconds


def share(text: str) -> float:
    """0.05 of ``5%``; UsageError for what is none, or not between 0 and 100 %."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not (text.endswith("%") and 0 < value < 1):
        raise UsageError(f"--until must be an error between 0% and 100% like 5%, got '{text}'.")
    return value


def _facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a person reads: counts in place of the long lists, shares as percentages."""
    held_out, coverage = found["held_out"], found["coverage"]
    facts = {
        name: value
        for name, value in found.items()
        if name not in ("tuning", "networks", "sections", "fit_s", "level_shift")
        and value is not None
    }
    facts["device"] = device_said(found["device"])
    facts["networks"] = len(found["networks"])
    facts["coverage"] = (
        f"{coverage['measured']:.0%} of the time of {coverage['networks']} networks in measured "
        f"kernels, {coverage['families']:.0%} in known families"
    )
    if held_out is not None:
        facts["held_out"] = (
            f"median error {held_out['median']:.1%}, {held_out['within_10']:.0%} within 10 %, "
            f"n={held_out['n']}"
        )
    facts["elapsed_s"] = f"{found['elapsed_s']:.1f} s"
    return facts
