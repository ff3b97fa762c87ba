"""Runs in processes of their own: ``python run_fit.py RECIPE.yaml[,RECIPE.yaml] EVENT...``.

For every event the recipes are fitted in new processes, at once, that are stopped by it:

- ``TITLE:COUNT`` kills (SIGKILL) when a stage whose title starts so has made COUNT steps
- ``FILE`` kills when the file or folder of that name is about to be put in place
- ``limit:BYTES`` lets no file grow beyond that size, as on a full disk
- ``-`` stops nothing

Prints every stage and note, and how each process ended.
"""

from __future__ import annotations

import importlib
import os
import resource
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

_SLOW_TO_IMPORT = (
    "millifit.report", "millifit.targets.schedules.rules", "onnxruntime", "sklearn.ensemble",
)  # fmt: skip


class Deadly:
    """Progress that prints, and kills the process at an event."""

    def __init__(self, event: str, count: int) -> None:
        self._event = event
        self._count = count

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        print("stage", title, total, flush=True)
        done = 0
        armed = title.startswith(self._event)

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


def run(recipe: str, event: str) -> int:
    """Fit the recipe until the event; the exit code."""
    name, _, count = event.partition(":")
    if name == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(count), resource.RLIM_INFINITY))
    die_before_placing(name)
    try:
        fit(resolve_recipe(Path(recipe)), Deadly(name, int(count or 0)), timer=RooflineTimer())
    except MillifitError as error:
        print("error", error, flush=True)
        return error.exit_code
    return 0


def main(recipes: str, *events: str) -> None:
    for name in _SLOW_TO_IMPORT:
        importlib.import_module(name)  # once, for all children
    for event in events:
        children = [start(recipe, event) for recipe in recipes.split(",")]
        for child in children:
            _, status = os.waitpid(child, 0)
            print("ended", event, os.waitstatus_to_exitcode(status), flush=True)


def start(recipe: str, event: str) -> int:
    """A process that runs a recipe until the event; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(run(recipe, event))
    return child


if __name__ == "__main__":
    main(*sys.argv[1:])
