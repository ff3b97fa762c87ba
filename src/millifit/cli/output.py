"""Where answers go: tables to standard output, progress to standard error, JSON to files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from millifit.files import write_atomically
from millifit.progress import Progress


def bars() -> Progress:
    """Progress for a person, on standard error."""
    from rich.console import Console

    from millifit.console import Bars

    return Bars(Console(stderr=True))


def show(*renderables: object) -> None:
    """Print tables and lines on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    for renderable in renderables:
        console.print(renderable)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a plain table."""
    from millifit.console import plain_table

    show(plain_table(columns, rows))


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values; seconds as milliseconds, an empty list not at all."""
    rows = [(key, _readable(key, value)) for key, value in facts.items() if value not in ([], {})]
    show_table(("", ""), rows)


def _readable(key: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, dict) and {"median", "low", "high"} <= set(value):
        low, median, high = (value[name] * 1e3 for name in ("low", "median", "high"))
        return f"{median:.4g} ms ({low:.4g}-{high:.4g})"
    if isinstance(value, dict):
        unit = key if key.endswith("_s") else ""
        return ", ".join(f"{name} {_readable(unit or name, each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(_readable(key, each) for each in value)
    if isinstance(value, float):
        return f"{value * 1e3:.4g} ms" if key.endswith("_s") else f"{value:.6g}"
    return str(value)


def device_said(device: Mapping[str, Any]) -> str:
    """What measured, in a line: ``"Raspberry Pi 5 (aarch64, remote)"``."""
    marks = [device["machine"], device["reach"]]
    if device["gpu"]:
        marks.insert(0, device["gpu"])
    if device["emulated"]:
        marks.append("emulated: its times mean nothing")
    return f"{device['cpu']} ({', '.join(marks)})"


def show_tuning(report: Mapping[str, Any] | None) -> None:
    """Print the kernels that beat their rule, if any were tuned."""
    if report is None or not report["tuned"]:
        return
    rows = [
        (
            row["op"],
            row["precision"],
            "x".join(map(str, row["shape"])),
            ", ".join(f"{name} {value}" for name, value in row["choice"].items()),
            f"{row['by_rule_s'] * 1e3:.4g}",
            f"{row['tuned_s'] * 1e3:.4g}",
            f"{row['gain']:.2f}",
        )
        for row in sorted(report["tuned"], key=lambda row: -row["gain"])
    ]
    show_table(("operator", "precision", "output", "choice", "rule ms", "tuned ms", "gain"), rows)


def show_bundles(bundles: Sequence[Mapping[str, Any]]) -> None:
    """Print what was compiled for each target."""
    rows = [
        (
            bundle["target"],
            f"{bundle['size_bytes'] / 1e6:.2f}",
            f"{bundle['planned_memory_bytes'] / 1e6:.2f}",
            str(bundle["kernels"]),
            str(len(bundle["without_rule"])),
            f"{bundle['seconds']:.1f}",
        )
        for bundle in bundles
    ]
    columns = ("target", "MB", "memory MB", "kernels", "without rule", "s")
    show_table(columns, rows)


def write_json(value: object, path: Path | None) -> None:
    """Write `value` to `path`, where one was given."""
    if path is not None:
        write_atomically(path, json.dumps(value, indent=2, default=str) + "\n")
