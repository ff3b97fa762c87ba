"""Architectures on the command line: what they are given as, and how answers are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from millifit.cli.output import show, show_table
from millifit.errors import UsageError

Architecture = Annotated[
    list[str] | None,
    typer.Option(
        "--architecture",
        metavar="CODE|FILE",
        help="A network of a space, not a model; repeatable. A file has one code per line.",
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        "--space", metavar="NAME", help="Learn architectures of a space, e.g. nasbench201."
    ),
]
Sources = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="A[,B...]",
        help="With --space: targets or devices to learn from, where this one has few networks.",
    ),
]

_CODE_WIDTH = 36  # a line of 80 characters holds the rest, too


def names_of(sources: str | None) -> list[str]:
    """The names between commas; UsageError where there are none."""
    names = [name.strip() for name in (sources or "").split(",") if name.strip()]
    if sources is not None and not names:
        raise UsageError("--from names no target.")
    return names


def codes_of(given: Sequence[str]) -> list[str]:
    """The codes given, files replaced by what is in their lines; UsageError for an empty file."""
    codes: list[str] = []
    for each in given:
        if not _is_file(each):
            codes.append(each.strip())
            continue
        try:
            lines = Path(each).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"'{each}' cannot be read as lines of text: {error}.") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise UsageError(f"'{each}' is empty: write one architecture per line.")
        codes += found
    return codes


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a code may be longer than any name of a file
        return False


def show_architectures(found: Mapping[str, Any]) -> None:
    """Print a row for each architecture."""
    from millifit.console import fold
    from millifit.report.chart import milliseconds

    rows = []
    for each in found["architectures"]:
        whole = each["latency_s"]
        half = 50 * (whole["high"] - whole["low"]) / whole["median"]
        rows.append(
            (
                fold(each["architecture"], _CODE_WIDTH),
                milliseconds(whole["median"], 3),
                f"{milliseconds(whole['low'], 3)}–{milliseconds(whole['high'], 3)}",
                f"{half:.0f} %",
                "extrapolated"
                if each["extrapolated"] and each["origin"] == "predicted"
                else each["origin"],
            )
        )
    show_table(("architecture", "ms", "95 % interval", "±", "origin"), rows)
    show(
        f"{found['space']} on {found['target']}: learnt from {found['networks_measured']} networks"
        + (f" and those of {', '.join(found['from'])}" if found["from"] else "")
    )


def show_learnt_architectures(found: Mapping[str, Any]) -> None:
    """Print how far the model was off on what it had not seen."""
    held = found["held_out"]
    if held is not None:
        columns = ("networks held out", "within 5 %", "within 10 %", "error", "covered", "rank")
        shares = (f"{100 * held[name]:.0f} %" for name in ("within_5", "within_10"))
        row = (
            str(held["networks"]),
            *shares,
            f"{100 * held['mape']:.1f} %",
            f"{100 * held['coverage_95']:.0f} %",
            f"{held['spearman']:.3f}",
        )
        show_table(columns, [row])
    left_out = ", ".join(f"{reason} ({n})" for reason, n in found["left_out"].items())
    if left_out:
        show(f"left out: {left_out}")
    if found["likeness"]:
        nearest = sorted(found["likeness"].items(), key=lambda each: -each[1])[:3]
        show("most like: " + ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in nearest))
    others = f", with those of {', '.join(found['from'])}," if found["from"] else ""
    show(
        f"{found['networks_measured']} networks of {found['space']} on {found['target']}{others} "
        f"learnt; written to {found['out']}"
    )
