"""Pareto sets: which points nothing beats, and how much of the space they dominate.

Every objective is minimised; pass ``-accuracy`` to maximise one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def non_dominated(points: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Indices, ascending, of the points that no other point dominates.

    `points` is [N, D]. A point dominates another if it is nowhere worse and somewhere better; of
    equal points the first is kept. ``non_dominated([(1, 3), (2, 2), (2, 3)])`` is ``(0, 1)``.

    Raises ValueError for NaN, which has no order.
    """
    if not len(points):
        return ()
    values = np.asarray(points, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("a point with NaN cannot be compared")
    kept: list[int] = []
    for i, point in enumerate(values):
        no_worse = (values <= point).all(axis=1)
        better = (values < point).any(axis=1)
        twin_before = no_worse[:i] & ~better[:i]
        if not (no_worse & better).any() and not twin_before.any():
            kept.append(i)
    return tuple(kept)


def hypervolume(points: Sequence[Sequence[float]], reference: tuple[float, float]) -> float:
    """Exact area dominated by 2-D `points` [N, 2] and bounded by `reference`.

    Points beyond the reference add nothing. ``hypervolume([(1, 2), (2, 1)], (3, 3))`` is 3.
    """
    area, ceiling = 0.0, float(reference[1])
    for x, y in sorted((float(p[0]), float(p[1])) for p in points):
        if x < reference[0] and y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return area
