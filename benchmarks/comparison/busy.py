"""How many threads work while networks are timed: neither side may have more than it was given."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

# A thread with less of its process's processor time than this has not taken part.
_LEAST_SHARE = 0.03


class BusyThreads:
    """Counts the busy threads of every contender; give `look` to the timing as `on_round`.

    A contender is a child process of its own, and they are started in order. The operating system
    says what processor time each thread of a process took: between the first look and the last, a
    busy one took at least 3 % of its process's.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._first: list[dict[int, float]] = []
        self._last: list[dict[int, float]] = []

    def look(self, _round: int) -> None:
        """Note the processor time of all threads of all contenders."""
        children = sorted(psutil.Process().children(), key=lambda child: child.create_time())
        workers = [c for c in children if "millifit.targets.runner.worker" in c.cmdline()]
        self._last = [_seconds_by_thread(each) for each in workers[-len(self._names) :]]
        self._first = self._first or self._last

    def count(self) -> dict[str, int]:
        """The number of busy threads by contender; empty where nothing was seen."""
        found = {}
        for name, first, last in zip(self._names, self._first, self._last, strict=False):
            spent = [seconds - first.get(thread, 0.0) for thread, seconds in last.items()]
            total = sum(spent)
            found[name] = sum(each >= _LEAST_SHARE * total for each in spent) if total > 0 else 0
        return found


def _seconds_by_thread(process: psutil.Process) -> dict[int, float]:
    try:
        return {t.id: t.user_time + t.system_time for t in process.threads()}
    except psutil.Error:
        return {}
