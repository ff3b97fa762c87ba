"""Whether a column of latencies is in another unit than it is read in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from millifit.profiler.packs.sheet import Floats, Setting, Sheet

# What runs networks computes or moves at least so much.
LEAST_PER_S = 1e6
FEWEST_ROWS = 8
# Calling a kernel takes longer than the first and, on any device, less than the second.
_FASTEST_CALL_S, _SLOWEST_CALL_S = 30e-9, 2e-3
# What computes so much is large, and its calls are not that short.
_BIG_PER_S, _BIG_CALL_S = 2e12, 200e-9
_UNEXPLAINED, _SOME = 0.2, 0.05


def other_unit(
    sheet: Sheet,
    setting: Setting,
    rows: npt.NDArray[np.intp],
    work: Floats,
    bad: Mapping[int, str],
) -> list[str]:
    """Whether all rows of a setting look 1000 times too fast or too slow."""
    with np.errstate(invalid="ignore"):
        rows = rows[sheet.timed[rows] & (sheet.latency_s[rows] > 0)]
        rows = rows[np.isfinite(sheet.latency_s[rows])]
    if len(rows) < FEWEST_ROWS:
        return []
    seconds = sheet.latency_s[rows]
    rates = work[rows] / seconds[:, None]
    best = np.quantile(rates, 0.99, axis=0)
    judged = float(np.mean([row in bad for row in rows.tolist()]))
    fast = judged > 0.5 and float(np.median(rates.max(axis=1))) > LEAST_PER_S
    slow = judged > 0.5 and not fast
    # Where the best rows' rates leave most of a row's time unexplained, it is the call that costs.
    calls = np.max(work[rows] / best, axis=1) / seconds < _UNEXPLAINED
    quick_s = float(np.quantile(seconds, 0.05))
    if fast or quick_s < _FASTEST_CALL_S or (best[0] > _BIG_PER_S and quick_s < _BIG_CALL_S):
        said = f"a kernel takes {np.median(seconds):.1e} s here, and the best rows compute "
        said += f"{best[0]:.1e} multiply-adds per second"
        return [f"{setting.target_key}: {said}; {_units(1e3)}"]
    if slow or (float(seconds.min()) > _SLOWEST_CALL_S and calls.mean() > _SOME):
        said = f"even the smallest kernels take {np.min(seconds):.1e} s"
        return [f"{setting.target_key}: {said}; {_units(1e-3)}"]
    return []


def _units(factor: float) -> str:
    if factor > 1:
        return "it looks 1000 times too fast or more: is the column in a larger unit?"
    return "it looks 1000 times too slow or more: is the column in a smaller unit?"


def compared(
    sheet: Sheet,
    setting: Setting,
    rows: npt.NDArray[np.intp],
    known: Mapping[tuple[str, object], float],
) -> list[str]:
    """Whether the target is known, and its times are 1000 times these, or a thousandth."""
    pairs = [(known.get((setting.target_key, sheet.subjects[row])), row) for row in rows.tolist()]
    ratios = [math.log10(sheet.latency_s[row] / before) for before, row in pairs if before]
    if not ratios:
        return []
    middle = float(np.median(ratios))
    decades = round(middle / 3) * 3
    if decades == 0 or abs(middle - decades) > 0.5:
        return []
    said = f"{len(ratios)} rows are known already, and take {10**middle:.3g} times as long here"
    return [f"{setting.target_key}: {said}; {_units(10.0**-decades)}"]


def beside(
    sheet: Sheet,
    setting: Setting,
    rows: npt.NDArray[np.intp],
    work: Floats,
    profile: tuple[Floats, Floats],
) -> list[str]:
    """Whether the rows are 1000 times, or a thousandth, of what the target's other kernels say."""
    if len(rows) < FEWEST_ROWS or len(profile[1]) < FEWEST_ROWS:
        return []
    expected = _line(*profile)(work[rows])
    middle = float(np.median(np.log10(sheet.latency_s[rows]) - expected))
    decades = round(middle / 3) * 3
    if decades == 0 or abs(middle - decades) > 0.7:
        return []
    said = f"by the {len(profile[1])} kernels that are known of it, rows take {10**middle:.2g} "
    return [f"{setting.target_key}: {said}times as long; {_units(10.0**-decades)}"]


def residuals(work: Floats, seconds: Floats) -> Floats:
    """Decades ``[n]`` between seconds and the line through all of them on the log of their work."""
    left: Floats = np.log10(seconds) - _line(work, seconds)(work)
    return left


def _line(work: Floats, seconds: Floats) -> Callable[[Floats], Floats]:
    """The line of least absolute deviation from log work to log seconds (both of base 10).

    It does not fall below what the fastest rows take: that is what calling a kernel costs.
    """
    design, y = _design(work), np.log10(seconds)
    weights = np.ones(len(y))
    line = np.zeros(design.shape[1])
    for _ in range(12):
        root = np.sqrt(weights)[:, None]
        line, *_ = np.linalg.lstsq(design * root, y * root[:, 0], rcond=None)
        weights = 1.0 / np.maximum(np.abs(y - design @ line), 0.05)
    floor = float(np.quantile(y, 0.02))

    def predicted(other: Floats) -> Floats:
        found: Floats = np.maximum(_design(other) @ line, floor)
        return found

    return predicted


def _design(work: Floats) -> Floats:
    return np.column_stack([np.log10(np.maximum(work, 1.0)), np.ones(len(work))])
