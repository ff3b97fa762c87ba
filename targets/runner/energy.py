"""Energy as the processor counts it: RAPL, where the system lets it be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaplDomain:
    """A counter of microjoules that starts again from 0 after `range_uj`."""

    name: str
    counter: Path
    range_uj: int


def rapl_domains(root: Path = _POWERCAP) -> tuple[RaplDomain, ...]:
    """The processor packages and their memory, as far as they can be read; none is an answer.

    Cores and the graphics unit are parts of a package and are not counted again.
    """
    found = []
    for folder in sorted(root.glob("intel-rapl*:*")):
        name = _text(folder / "name")
        range_uj = _text(folder / "max_energy_range_uj")
        counts = name is not None and (name.startswith("package") or name == "dram")
        if counts and range_uj is not None and _text(folder / "energy_uj") is not None:
            counter = folder / "energy_uj"
            found.append(RaplDomain(name=str(name), counter=counter, range_uj=int(range_uj)))
    return tuple(found)


class Rapl:
    """Adds up what some domains draw, also beyond the end of their counters.

    A counter may end once between two calls of `drawn_j`, which is minutes under full load.
    """

    def __init__(self, domains: Sequence[RaplDomain]) -> None:
        self._domains = tuple(domains)
        self._last_uj: dict[Path, int] = {}
        self._drawn_uj = 0

    def drawn_j(self) -> float | None:
        """Joules since the first call; None where there is no counter, or one cannot be read."""
        if not self._domains:
            return None
        for domain in self._domains:
            text = _text(domain.counter)
            if text is None:
                return None
            now_uj = int(text)
            drawn_uj = now_uj - self._last_uj.get(domain.counter, now_uj)
            self._drawn_uj += drawn_uj if drawn_uj >= 0 else drawn_uj + domain.range_uj
            self._last_uj[domain.counter] = now_uj
        return self._drawn_uj * 1e-6


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
