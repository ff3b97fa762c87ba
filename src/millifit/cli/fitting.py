"""Verbs that look for a network within a budget: fit, search, compress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millifit.cli import options
from millifit.cli.output import bars, show, show_table, write_json
from millifit.errors import BudgetInfeasible

if TYPE_CHECKING:
    from millifit.recipe import Recipe


def fit(
    model: options.OptionalModel = None,
    recipe: options.RecipeFile = None,
    demo: options.Demo = None,
    data: options.Data = None,
    calibration: options.Calibration = None,
    mean: options.Mean = None,
    std: options.Std = None,
    input_shape: options.InputShape = None,
    target: options.TargetName = None,
    device: options.Device = None,
    device_token_file: options.DeviceToken = None,
    device_ca: options.DeviceCa = None,
    threads: options.Threads = None,
    budget: options.BudgetText = None,
    max_drop: options.MaxDrop = None,
    precisions: options.Precisions = None,
    prune: options.Prune = None,
    epochs: options.Epochs = None,
    trials: options.Trials = None,
    run: options.RunFolder = None,
    store: options.Store = None,
    tune: options.Tune = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Profile, search, compress, compile, verify and report, in one go.

    The same command continues a run that was stopped. Exit code 3 says
    that the budget cannot be met, why, and what could be.

    \b
    Examples:
    millifit fit --demo
    millifit fit net.onnx --data images/ --budget 60% --max-drop 1.0
    millifit fit net.onnx --data val.npz --mean 127.5 --std 127.5 --budget 8ms --threads 2
    millifit fit my.nets:tiny --data my.data:digits --run runs/tiny
    millifit fit net.onnx --data images/ --budget 60% --tune 60
    millifit fit net.onnx --data images/ --target rpi4 --device pi.local:9391
    millifit fit --recipe runs/tiny/recipe.yaml
    """
    flags = {
        "model": model, "demo": demo, "data": data, "calibration": calibration, "mean": mean,
        "std": std, "input_shape": input_shape, "target": target, "device": device,
        "device_token_file": device_token_file, "device_ca": device_ca, "threads": threads,
        "budget": budget, "max_drop": max_drop, "prune": prune, "epochs": epochs,
        "precisions": precisions, "trials": trials, "run": run, "store": store, "tune": tune,
        "seed": seed,
    }  # fmt: skip
    settings = _recipe(recipe, flags)
    from millifit import pipeline

    found = pipeline.fit(settings, bars())
    write_json(found, json)
    from millifit.console import result_table
    from millifit.report import parse_result

    show(result_table(parse_result(found)), f"Report: {settings.run}/report.html")
    if not found["met"]:
        raise BudgetInfeasible(f"the budget {settings.budget} was not met; see the report.")


def search(
    model: options.OptionalModel = None,
    recipe: options.RecipeFile = None,
    demo: options.Demo = None,
    data: options.Data = None,
    calibration: options.Calibration = None,
    mean: options.Mean = None,
    std: options.Std = None,
    input_shape: options.InputShape = None,
    target: options.TargetName = None,
    device: options.Device = None,
    device_token_file: options.DeviceToken = None,
    device_ca: options.DeviceCa = None,
    threads: options.Threads = None,
    budget: options.BudgetText = None,
    max_drop: options.MaxDrop = None,
    precisions: options.Precisions = None,
    prune: options.Prune = None,
    epochs: options.Epochs = None,
    trials: options.Trials = None,
    run: options.RunFolder = None,
    store: options.Store = None,
    tune: options.Tune = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Find the Pareto front under a budget; the best plan goes to plan.json in the run folder.

    \b
    Examples:
    millifit search net.onnx --data images/ --budget 60%
    millifit search net.onnx --data val.npz --budget 8ms --run runs/net --json front.json
    """
    flags = {
        "model": model, "demo": demo, "data": data, "calibration": calibration, "mean": mean,
        "std": std, "input_shape": input_shape, "target": target, "device": device,
        "device_token_file": device_token_file, "device_ca": device_ca, "threads": threads,
        "budget": budget, "max_drop": max_drop, "prune": prune, "epochs": epochs,
        "precisions": precisions, "trials": trials, "run": run, "store": store, "tune": tune,
        "seed": seed,
    }  # fmt: skip
    settings = _recipe(recipe, flags)
    from millifit import pipeline

    found = pipeline.search(settings, bars())
    write_json(found, json)
    _show_front(found)
    show(f"Plan: {settings.run}/plan.json")


def compress(
    model: options.Model,
    plan: Annotated[Path, typer.Option("--plan", help="plan.json of a search.")],
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")],
    data: options.Data = None,
    calibration: options.Calibration = None,
    mean: options.Mean = None,
    std: options.Std = None,
    input_shape: options.InputShape = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Apply a plan: the result is ONNX with QuantizeLinear and DequantizeLinear.

    \b
    Examples:
    millifit compress net.onnx --plan runs/net/plan.json --data images/ --out small.onnx
    millifit compress my.nets:tiny --plan plan.json --data my.data:digits --out tiny.onnx
    """
    flags = {
        "model": model, "data": data, "calibration": calibration, "mean": mean,
        "std": std, "input_shape": input_shape, "epochs": epochs, "seed": seed,
    }  # fmt: skip
    settings = _recipe(None, flags)
    from millifit import pipeline

    found = pipeline.compress(
        model,
        plan,
        data=settings.data,
        calibration=settings.calibration,
        mean=settings.mean,
        std=settings.std,
        input_shape=settings.input_shape,
        epochs=settings.epochs,
        out=out,
        seed=settings.seed,
        progress=bars(),
    )
    write_json(found, json)
    show(f"Compressed network: {out}")


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    panel = "From a network to a bundle"
    for verb in (fit, search, compress):
        app.command(rich_help_panel=panel)(verb)


def _recipe(file: Path | None, flags: dict[str, Any]) -> Recipe:
    from millifit.recipe import resolve_recipe

    return resolve_recipe(file, {key: value for key, value in flags.items() if value is not None})


def _show_front(found: dict[str, Any]) -> None:
    from millifit.report.network_charts import TRIAL_COLUMNS, trial_row
    from millifit.report.result import Trial

    trials = [Trial.model_validate(trial) for trial in found["front"]]
    show_table(TRIAL_COLUMNS[:7], [trial_row(trial)[:7] for trial in trials])
