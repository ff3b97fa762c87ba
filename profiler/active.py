"""What to measure next: the kernels from which the prediction of networks gains the most.

A kernel that is measured says something of those alike. What is expected to be left of the error of
kernel j is ``error[j] * (1 - likeness of j to the nearest measured kernel)``; a batch is chosen one
by one so that the sum of that over all kernels falls the most. The sum is submodular, so choosing
greedily is within 1 - 1/e of the best batch (Nemhauser, Wolsey and Fisher 1978), and never takes
twenty kernels that say the same. Everything is an array here: who predicts, and what a kernel is,
is not this file's business.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_MOST_ALIKE = 1500  # of a larger family a sample stands for all


def first_kernels(families: Sequence[Hashable], size: Floats, weight: Floats) -> list[int]:
    """Of every family the largest, the smallest, the most wanted and the middle one, in this order.

    Indices into `families`, whose kernels have `size` and `weight` ``[n]``; heavier families first.
    """
    members: dict[Hashable, list[int]] = {}
    for number, family in enumerate(families):
        members.setdefault(family, []).append(number)
    ordered = sorted(members.values(), key=lambda rows: -float(weight[rows].sum()))
    turns = [[_extremes(rows, size, weight)[turn] for rows in ordered] for turn in range(4)]
    return list(dict.fromkeys(row for turn in turns for row in turn))


def next_kernels(
    x: Floats,
    families: Sequence[Hashable],
    error: Floats,
    *,
    measured: Flags,
    allowed: Flags,
    count: int,
    rng: np.random.Generator,
) -> list[int]:
    """Up to `count` of the `allowed` kernels, the one that helps the most first.

    `x` ``[n, features]`` says which kernels are alike, `error` ``[n]`` what a kernel that nothing
    is known of adds to the error of networks, and `measured` ``[n]`` which are known.
    """
    members: dict[Hashable, list[int]] = {}
    for number, family in enumerate(families):
        members.setdefault(family, []).append(number)
    contests = [
        _Family(np.array(rows), x, error, measured, allowed, rng) for rows in members.values()
    ]
    chosen: list[int] = []
    while len(chosen) < count and contests:
        best = max(contests, key=lambda family: family.gain)
        if best.gain <= 0:
            break
        chosen.append(best.take())
    return chosen


class _Family:
    """The kernels of one family: how alike they are, and what is left of their error."""

    def __init__(
        self,
        rows: npt.NDArray[np.intp],
        x: Floats,
        error: Floats,
        measured: Flags,
        allowed: Flags,
        rng: np.random.Generator,
    ) -> None:
        if len(rows) > _MOST_ALIKE:
            known = rows[measured[rows]][:_MOST_ALIKE]
            others = rows[~measured[rows]]
            room = min(len(others), max(_MOST_ALIKE - len(known), _MOST_ALIKE // 2))
            rows = np.concatenate([known, rng.choice(others, room, replace=False)])
        self._rows = rows
        self._error = error[rows]
        self._allowed = allowed[rows] & ~measured[rows]
        self._alike = _likeness(x[rows], measured[rows])  # [members, members]
        self._covered = (self._alike * measured[rows]).max(axis=1, initial=0.0)
        more = np.maximum(self._alike - self._covered, 0.0)  # [candidate, kernel]
        # What a kernel gains only falls as others are chosen: old gains are upper bounds.
        self._most: Floats = np.where(self._allowed, more @ self._error, 0.0)

    @property
    def gain(self) -> float:
        """By how much the next one would lower the error; 0 where there is none."""
        return float(self._most[self._best()])

    def take(self) -> int:
        """Choose the next one; returns its row."""
        best = self._best()
        self._most[best] = 0.0
        self._covered = np.maximum(self._covered, self._alike[best])
        return int(self._rows[best])

    def _best(self) -> int:
        """The member that gains the most; its entry in `_most` is exact."""
        while True:
            best = int(self._most.argmax())
            bound = self._most[best]
            gain = np.maximum(self._alike[best] - self._covered, 0.0) @ self._error
            if bound <= 0 or gain >= bound * (1 - 1e-9):
                return best
            self._most[best] = gain


def _likeness(x: Floats, measured: Flags) -> Floats:
    """1 for a kernel and itself, less with distance: ``[n, n]``.

    Half way to 0 at the distance that kernels typically have to the nearest measured one: coarse at
    first, finer the more is measured.
    """
    spread = x.std(axis=0)
    z = x[:, spread > 0] / spread[spread > 0]
    squares = (z**2).sum(axis=1)
    distance2 = np.maximum(squares[:, None] + squares - 2 * z @ z.T, 0.0)
    np.fill_diagonal(distance2, 0.0)
    if measured.any() and not measured.all():
        width2 = float(np.median(distance2[~measured][:, measured].min(axis=1)))
    else:
        width2 = float(np.median(distance2))
    alike: Floats = np.exp2(-distance2 / max(width2, 1e-9))
    return alike


def _extremes(rows: Sequence[int], size: Floats, weight: Floats) -> tuple[int, int, int, int]:
    by_size = sorted(rows, key=lambda row: float(size[row]))
    wanted = max(rows, key=lambda row: float(weight[row]))
    return by_size[-1], by_size[0], wanted, by_size[len(by_size) // 2]
