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
    """Print names and values; nested values are left to the JSON."""
    plain = {key: value for key, value in facts.items() if not isinstance(value, dict | list)}
    show_table(("", ""), [(key, str(value)) for key, value in plain.items()])


def write_json(value: object, path: Path | None) -> None:
    """Write `value` to `path`, where one was given."""
    if path is not None:
        write_atomically(path, json.dumps(value, indent=2, default=str) + "\n")
