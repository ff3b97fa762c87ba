"""How long work tells that it is alive: a stage with a title, a total and steps done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Shown by the command line as bars; silent in the Python API unless one is passed."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of `total` steps (None: unknown); call the result with steps done."""
        ...

    def note(self, text: str) -> None:
        """Say one line that stays."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:  # noqa: ARG002 - protocol
        """A stage nobody sees."""
        yield lambda _steps: None

    def note(self, text: str) -> None:
        """A line nobody sees."""


SILENT = Silent()
