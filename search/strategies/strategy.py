"""What every search strategy is: something to ask for plans and to tell how they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from millifit.compress.plan import Plan
from millifit.search.trial import Trial


class Strategy(Protocol):
    """Proposes plans. The same trials told in the same order give the same proposals."""

    @property
    def reason(self) -> str:
        """Why nothing more is asked; empty while the search goes on."""
        ...

    def ask(self) -> Sequence[Plan]:
        """The plans to try next, the most promising first; empty when the search has ended."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """How the plans last asked for did, in their order; the tail may be missing."""
        ...
