"""The verb predict, and 'profile learn': latencies from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from millifit.cli import architectures, options
from millifit.cli.output import bars, show, show_table, write_json
from millifit.errors import UsageError

LatencyModel = Annotated[
    Path | None,
    typer.Option(
        "--latency-model", metavar="FILE", help="What 'profile learn' made; else from the store."
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the models are written.")]

_BAR = 16  # characters for the whole network
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def predict(
    model: options.OptionalModel = None,
    target: options.TargetName = None,
    threads: options.Threads = None,
    store: options.Store = None,
    latency_model: LatencyModel = None,
    architecture: architectures.Architecture = None,
    input_shape: options.InputShape = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Predict a network's latency on a target: kernel by kernel, with intervals and their origin.

    \b
    Examples:
    millifit predict net.onnx
    millifit predict net.onnx --target local --threads 2 --json prediction.json
    millifit predict net.onnx --latency-model board.npz
    millifit predict --latency-model cells.npz --architecture codes.txt
    """
    from millifit import pipeline
    from millifit.recipe import resolve_recipe

    if architecture:
        _predict_architectures(architecture, model, latency_model, target, json)
        return
    if model is None:
        raise UsageError("predict what? Name a MODEL, or a network of a space by --architecture.")
    given = {
        "target": target, "threads": threads, "store": store, "input_shape": input_shape,
        "seed": seed,
    }  # fmt: skip
    flags = {key: value for key, value in given.items() if value is not None}
    settings = resolve_recipe(flags={"model": model} | flags)
    found = pipeline.predict(
        model,
        target=settings.target,
        threads=settings.threads,
        store=settings.store,
        latency_model=None if latency_model is None else str(latency_model),
        input_shape=settings.input_shape,
        seed=settings.seed,
        progress=bars(),
    )
    write_json(found, json)
    show_prediction(found)


def _predict_architectures(
    given: Sequence[str],
    model: str | None,
    latency_model: Path | None,
    target: str | None,
    json: Path | None,
) -> None:
    from millifit import pipeline

    if model is not None:
        raise UsageError(f"predict either a model, '{model}', or an --architecture.")
    if latency_model is None:
        raise UsageError(
            "--architecture needs a --latency-model. Make one: "
            "millifit profile learn --space SPACE --out FILE"
        )
    found = pipeline.predict_architectures(
        architectures.codes_of(given), latency_model=str(latency_model), target=target
    )
    write_json(found, json)
    architectures.show_architectures(found)


def learn(
    out: Out,
    target: options.TargetName = None,
    threads: options.Threads = None,
    space: architectures.Space = None,
    sources: architectures.Sources = None,
    store: options.Store = None,
    seed: options.Seed = None,
    json: options.JsonFile = None,
) -> None:
    """Fit latency models to what was measured on a target, and keep them in a file.

    \b
    Examples:
    millifit profile learn --out board.npz
    millifit profile learn --target local --threads 2 --store board.sqlite --out board.npz
    millifit profile learn --target pixel3 --space nasbench201 --out cells.npz
    millifit profile learn --target new --space nasbench201 --from pixel3,1080ti --out cells.npz
    """
    from millifit import pipeline

    if space is not None or sources is not None:
        _learn_architectures(space, sources, out, target, threads, store, seed, json)
        return
    found = pipeline.learn(
        out=str(out),
        target=target or "local",
        threads=threads or 1,
        store=store,
        seed=seed or 0,
        progress=bars(),
    )
    write_json(found, json)
    _show_learnt(found)


def _learn_architectures(
    space: str | None,
    sources: str | None,
    out: Path,
    target: str | None,
    threads: int | None,
    store: str | None,
    seed: int | None,
    json: Path | None,
) -> None:
    from millifit import pipeline

    if space is None:
        raise UsageError("--from names where architectures were measured: add their --space.")
    found = pipeline.learn_architectures(
        out=str(out),
        space=space,
        target=target or "local",
        sources=architectures.names_of(sources),
        threads=threads or 1,
        store=store,
        seed=seed or 0,
        progress=bars(),
    )
    write_json(found, json)
    architectures.show_learnt_architectures(found)


def show_prediction(found: Mapping[str, Any]) -> None:
    """Print the waterfall, the whole network, and what both rest on."""
    from millifit.console import fold
    from millifit.report.chart import milliseconds, span
    from millifit.report.result import Interval

    total_s = float(found["sum_of_kernels_s"])
    rows = [
        (
            fold(kernel["name"], 18),
            f"{kernel['op']} {kernel['precision']}",
            milliseconds(kernel["seconds"], 3),
            milliseconds(kernel["cumulated_s"], 3),
            f"{100 * kernel['share']:.1f} %",
            bar(kernel["cumulated_s"] - kernel["seconds"], kernel["seconds"], total_s),
            f"{_relative(kernel):.0f} %",
            _origin(kernel),
        )
        for kernel in found["kernels"]
    ]
    columns = ("kernel", "operator", "ms", "sum", "share", "", "±", "origin")
    show_table(columns, rows)
    whole = Interval.model_validate(found["latency_s"])
    networks = found["networks_measured"]
    show(
        f"{found['model']} on {found['target']}: {milliseconds(whole.median)} ms ({span(whole)}), "
        f"95 % interval; kernels alone add up to {milliseconds(total_s)} ms, "
        f"{networks} whole network{'' if networks == 1 else 's'} measured",
        "of the time: " + _shares(found["share"]),
    )
    if found["emulated"]:
        show("Emulated device: what was learnt, and what is predicted, means nothing.")
    if found["warning"]:
        show(f"Warning: {found['warning']}")


def bar(start_s: float, seconds: float, total_s: float, width: int = _BAR) -> str:
    """Where on the way from 0 to `total_s` some seconds lie: ``bar(0.5, 0.25, 1, 8)`` is four
    blanks and two full blocks. What is too short to be seen is a thin line.
    """
    before = min(width - 1, int(start_s / total_s * width))
    eighths = max(1, round(seconds / total_s * width * 8))
    full, rest = divmod(eighths, 8)
    blocks = "█" * full + (_EIGHTHS[rest] if rest else "")
    return (" " * before + blocks)[:width].ljust(width)


def _relative(kernel: Mapping[str, Any]) -> float:
    """Half of an interval in percent of the median."""
    return 50 * float(kernel["high_s"] - kernel["low_s"]) / float(kernel["seconds"])


def _origin(kernel: Mapping[str, Any]) -> str:
    guessed = kernel["extrapolated"] and kernel["origin"] == "predicted"
    return "extrapolated" if guessed else str(kernel["origin"])


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items() if share > 0)


def _show_learnt(found: Mapping[str, Any]) -> None:
    rows = [
        (
            row["family"],
            f"{row['working_set_bytes'] / 2**20:.1f}",
            str(row["held_out"]),
            *_held(row),
        )
        for row in found["families"]
    ]
    columns = ("kernels held out", "MiB", "number", "within 5 %", "within 10 %", "error", "covered")
    show_table(columns, rows)
    networks = found["networks"]
    if networks is not None:
        row = ("whole networks", "", str(networks["networks"]), *_held(networks))
        show_table(columns, [row])
    show(
        f"{found['kernels_measured']} kernels and {found['networks_measured']} networks of "
        f"{found['target']} learnt; written to {found['out']}"
    )


def _held(row: Mapping[str, float]) -> Sequence[str]:
    return [f"{100 * row[name]:.0f} %" for name in ("within_5", "within_10", "mape", "coverage_95")]


def add_to(app: typer.Typer, *, panel: str) -> None:
    """Add the verb predict to the command line."""
    app.command(rich_help_panel=panel)(predict)
