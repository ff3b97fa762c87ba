"""The search spaces that millifit knows, one per file."""

from __future__ import annotations

from millifit.errors import UsageError
from millifit.search.space import SearchSpace
from millifit.search.spaces.mobilenet import MobileNetSpace

NAMES = ("mobilenet",)


def find_space(name: str) -> SearchSpace:
    """The space of that name; UsageError naming those that there are."""
    match name:
        case "mobilenet":
            return MobileNetSpace()
    raise UsageError(f"there is no search space '{name}'. Choose one of: {', '.join(NAMES)}.")
