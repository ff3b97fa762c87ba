"""Verbs that ship a network: compile, verify, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millifit.cli import options
from millifit.cli.output import (
    bars,
    device_said,
    show,
    show_bundles,
    show_facts,
    show_tuning,
    write_json,
)
from millifit.errors import CompileError, UsageError


def compile_bundles(
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the bundles into.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="NAME[,NAME...]", help="For which targets; local unless given."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="Of all layers that can have it, e.g. fp16; else fp32."),
    ] = None,
    portfolio: Annotated[
        bool,
        typer.Option("--portfolio", help="Make OUT one bundle of all; a device runs its best."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY.pem", help="Sign with this private Ed25519 key."),
    ] = None,
    threads: options.Threads = None,
    tune: options.Tune = None,
    device: options.Device = None,
    device_token_file: options.DeviceToken = None,
    device_ca: options.DeviceCa = None,
    store: options.Store = None,
    input_shape: options.InputShape = None,
    json: options.JsonFile = None,
) -> None:
    """Generate code: a bundle for each target, runnable with the TVM runtime alone.

    \b
    Examples:
    millifit compile small.onnx --out bundles/
    millifit compile small.onnx --target pixel4-cpu,pixel4-gpu,rpi4,h100 --out bundles/
    millifit compile small.onnx --target h100 --precision fp16 --out bundles/
    millifit compile small.onnx --target local,x86-avx2,rpi4 --portfolio --out portfolio/
    millifit compile small.onnx --tune 30 --out bundles/
    millifit compile small.onnx --target rpi4 --device pi.local:9391 --tune 60 --out bundles/
    """
    from millifit import pipeline
    from millifit.pipeline.reach import device_access
    from millifit.recipe import resolve_recipe

    given = {
        "model": model, "threads": threads, "input_shape": input_shape, "tune": tune,
        "store": store, "precisions": precision, "device": device,
        "device_token_file": device_token_file, "device_ca": device_ca,
    }  # fmt: skip
    settings = resolve_recipe(flags={k: v for k, v in given.items() if v is not None})
    if settings.precisions is not None and len(settings.precisions) != 1:
        raise UsageError(f"--precision {precision}: name one precision for the whole network.")
    found = pipeline.compile_model(
        model,
        targets=_names(target or ["local"]),
        threads=settings.threads,
        out=out,
        input_shape=settings.input_shape,
        precision="fp32" if settings.precisions is None else settings.precisions[0],
        store=settings.store,
        tune=settings.tune,
        device=device_access(settings.device, settings.device_token_file, settings.device_ca),
        portfolio=portfolio,
        key=key,
        progress=bars(),
    )
    write_json(found, json)
    for bundle in found["bundles"]:
        show_tuning(bundle["tuning"])
    if found["bundles"]:
        show_bundles(found["bundles"])
        show(f"{'Portfolio' if portfolio else 'Bundles'}: {out}")
    if found["failed"]:
        raise CompileError(_said(found["failed"], len(found["bundles"])))


def _names(given: list[str]) -> list[str]:
    """Names of targets, given one by one or with commas between them."""
    names = [name.strip() for names in given for name in names.split(",")]
    if not all(names):
        raise UsageError(f"--target {','.join(given)}: a name is missing between the commas.")
    return names


def _said(failed: list[dict[str, str]], done: int) -> str:
    """Whose bundles are missing, and why: a reason once for all that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for each in failed:
        by_reason.setdefault(each["reason"], []).append(each["target"])
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    many = f"{len(failed)} of {len(failed) + done} targets were not compiled"
    return "\n".join((f"{many}:", *reasons)) if len(reasons) > 1 else f"{many}: {reasons[0]}"


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of a bundle.")],
    model: Annotated[
        str | None, typer.Option("--model", help="The ONNX file that it must agree with.")
    ] = None,
    device: options.Device = None,
    device_token_file: options.DeviceToken = None,
    device_ca: options.DeviceCa = None,
    public_key: options.PublicKey = None,
    data: options.Data = None,
    mean: options.Mean = None,
    std: options.Std = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Check a bundle on its device: hashes, golden output, accuracy and latency.

    \b
    Examples:
    millifit verify runs/demo/bundle
    millifit verify bundles/local --model small.onnx --data val.npz --json certificate.json
    millifit verify bundles/rpi4 --device pi.local:9391
    millifit verify bundles/local --public-key pub.pem
    """
    from millifit import pipeline
    from millifit.pipeline.reach import device_access
    from millifit.recipe import resolve_recipe

    given = {
        "data": data, "mean": mean, "std": std, "seed": seed, "device": device,
        "device_token_file": device_token_file, "device_ca": device_ca,
    }  # fmt: skip
    settings = resolve_recipe(
        flags={"model": model or str(bundle)} | {k: v for k, v in given.items() if v is not None}
    )
    found = pipeline.verify(
        bundle,
        data=settings.data,
        mean=settings.mean,
        std=settings.std,
        model=model,
        device=device_access(settings.device, settings.device_token_file, settings.device_ca),
        public_key=public_key,
        seed=settings.seed,
        progress=bars(),
    )
    write_json(found, json)
    facts = {name: fact for name, fact in found.items() if name != "environment"}
    show_facts(facts | {"device": device_said(found["device"])})


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its result.json.")],
    html: Annotated[
        Path | None, typer.Option("--html", help="The page; RUN/report.html unless given.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all trials as CSV.")] = None,
    json: options.JsonFile = None,
) -> None:
    """Write the report of a run: one self-contained HTML page, CSV and JSON.

    \b
    Examples:
    millifit report runs/demo
    millifit report runs/demo --html demo.html --csv trials.csv --json result.json
    """
    from millifit.console import result_table
    from millifit.report import export_csv, export_json, parse_result, read_plain, write_report

    plain = read_plain(run)
    result = parse_result(plain, source=str(run))
    folder = run if run.is_dir() else run.parent
    page = write_report(plain, html or folder / "report.html")
    if csv is not None:
        export_csv(plain, csv)
    if json is not None:
        export_json(plain, json)
    show(result_table(result), f"Report: {page}")


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    panel = "From a network to a bundle"
    app.command("compile", rich_help_panel=panel)(compile_bundles)
    app.command(rich_help_panel=panel)(verify)
    app.command(rich_help_panel=panel)(report)
