"""A run in a process of its own: ``python run_fit.py RECIPE.yaml [EVENT [COUNT]]``.

Prints every stage and note. With an event it kills itself (SIGKILL): when a stage whose title
starts with EVENT has made COUNT steps, or when the file of that name is about to be put in place.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roofline import RooflineTimer

from millifit.errors import MillifitError
from millifit.pipeline import fit
from millifit.progress import Advance
from millifit.recipe import resolve_recipe


class Deadly:
    """Progress that prints, and kills the process at an event."""

    def __init__(self, event: str, count: int) -> None:
        self._event = event
        self._count = count

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        print("stage", title, total, flush=True)
        done = 0
        armed = bool(self._event) and title.startswith(self._event)

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if armed and done >= self._count:
                die()

        if armed and self._count == 0:
            die()
        yield advance

    def note(self, text: str) -> None:
        print("note", text, flush=True)


def die() -> None:
    """End at once, as when the power fails."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_placing(name: str) -> None:
    """From now on the process does not survive putting a file of that name in place."""
    place = Path.replace

    def deadly(self: Path, target: str | Path) -> Path:
        if Path(target).name == name:
            die()
        return place(self, target)

    Path.replace = deadly  # type: ignore[method-assign]


def main(recipe: str, event: str = "", count: str = "0") -> int:
    die_before_placing(event)
    try:
        fit(resolve_recipe(Path(recipe)), Deadly(event, int(count)), timer=RooflineTimer())
    except MillifitError as error:
        print("error", error, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
