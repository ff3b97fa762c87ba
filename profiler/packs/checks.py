"""What cannot be right in a table: rows that no device measured, and columns in another unit.

Every row is judged by itself, against the other rows of its setting, and against what is known of
the target already. The tests need the work of each row, ``[n, 2]`` of multiply-adds and bytes moved
(see `latency_models.kernels.features.work`); networks, whose work nobody knows, have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from millifit.profiler.packs.sheet import Floats, Setting, Sheet
from millifit.profiler.packs.units import (
    FEWEST_ROWS,
    LEAST_PER_S,
    beside,
    compared,
    other_unit,
    residuals,
)
from millifit.targets.kernel import Kernel

# No device computes or moves more, and none that runs networks is slower and takes this long.
_MOST_MACS_PER_S = 1.5e15
_MOST_BYTES_PER_S = 1e14
_SLOW_S = 10e-3
_SHORTEST_S, _LONGEST_S = 1e-9, 1e5
# Repeated rows may differ by this factor, and by this many times what they usually do.
_CONTRADICTION, _BEYOND_NOISE = 4.0, 8.0
# Decades from the line through all rows of an operator: 1000x is 3.
_ASIDE = 2.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found: `bad` rows (places in the sheet, from 0) each with what is wrong, `doubts`
    about all rows of a setting, such as its unit, and `notes` that are worth knowing.
    """

    bad: Mapping[int, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check(
    sheet: Sheet,
    work: Floats | None,
    known: Mapping[tuple[str, object], float] | None = None,
    *,
    profiles: Mapping[str, tuple[Floats, Floats]] | None = None,
    trust_units: bool = False,
) -> Findings:
    """Judge a sheet: `work` is ``[n, 2]``; `known` are seconds by (target's key, subject).

    `profiles` are work ``[m, 2]`` and seconds ``[m]`` of all kernels that are known of a target, by
    its key: they tell a unit where none of the sheet's kernels is among them. With `trust_units`
    no row is bad for being faster or slower than any device.
    """
    bad = _negative(sheet) | dict(_no_latency(sheet))
    if work is not None and not trust_units:
        bad = _impossible(sheet, work) | bad
    sound = np.array([row not in bad for row in range(len(sheet))], np.bool_) & sheet.timed
    doubts: list[str] = []
    aside: dict[int, str] = {}
    notes: list[str] = []
    for setting, rows in _by_setting(sheet):
        kept = rows[sound[rows]]
        told = compared(sheet, setting, kept, known or {})
        if not told and work is not None and setting.target_key in (profiles or {}):
            told = beside(sheet, setting, kept, work, (profiles or {})[setting.target_key])
        if not told and work is not None:
            told = other_unit(sheet, setting, rows, work, bad)
        doubts += told
        if work is not None:
            aside |= _aside(sheet, kept, work)
        else:
            notes += _far_from_median(sheet, setting, kept)
    bad = _contradictions(sheet, sound) | aside | bad
    if sheet.unknown:
        counts = ", ".join(f"'{name}' ({count} rows)" for name, count in sheet.unknown.items())
        notes.append(f"operators that have no name here keep their own: {counts}")
    return Findings(bad=dict(sorted(bad.items())), doubts=tuple(doubts), notes=tuple(notes))


def _by_setting(sheet: Sheet) -> list[tuple[Setting, npt.NDArray[np.intp]]]:
    found: dict[int, list[int]] = {}
    for row, setting in enumerate(sheet.settings):
        found.setdefault(id(setting), []).append(row)
    return [(sheet.settings[rows[0]], np.array(rows)) for rows in found.values()]


def _no_latency(sheet: Sheet) -> list[tuple[int, str]]:
    """Rows that did not fail, but whose latency is none."""
    seconds = sheet.latency_s
    with np.errstate(invalid="ignore"):
        fits = np.isfinite(seconds) & (seconds >= _SHORTEST_S) & (seconds <= _LONGEST_S)
    found = []
    for row in np.flatnonzero(~fits & sheet.timed).tolist():
        value = float(seconds[row])
        if math.isnan(value):
            said = "it has no latency"
        elif value <= 0 or math.isinf(value):
            said = f"a latency of {value:g} s"
        else:
            said = f"a latency of {value:g} s is absurd"
        found.append((row, said))
    return found


def _negative(sheet: Sheet) -> dict[int, str]:
    """Rows whose energy or standard deviation is less than nothing, or infinite."""
    found = {}
    for name, unit, values in (
        ("an energy", "J", sheet.energy_j),
        ("a standard deviation", "s", sheet.std_s),
    ):
        for row in np.flatnonzero((values < 0) | np.isinf(values)).tolist():
            found[row] = f"{name} of {values[row]:g} {unit}"
    return found


def _impossible(sheet: Sheet, work: Floats) -> dict[int, str]:
    """Rows faster than any device, or so slow for so little work that nothing ran."""
    seconds = np.where(sheet.timed & (sheet.latency_s > 0), sheet.latency_s, np.nan)
    with np.errstate(invalid="ignore"):
        macs_per_s, bytes_per_s = work[:, 0] / seconds, work[:, 1] / seconds
        fast = (macs_per_s > _MOST_MACS_PER_S) | (bytes_per_s > _MOST_BYTES_PER_S)
        slow = (seconds > _SLOW_S) & (np.maximum(macs_per_s, bytes_per_s) < LEAST_PER_S)
    found = {}
    for row in np.flatnonzero(fast | slow).tolist():
        rate = (
            f"{macs_per_s[row]:.1e} multiply-adds and {bytes_per_s[row]:.1e} bytes per second, "
            f"{'more' if fast[row] else 'less'} than any device"
        )
        found[row] = f"a latency of {seconds[row]:g} s means {rate}"
    return found


def _aside(sheet: Sheet, rows: npt.NDArray[np.intp], work: Floats) -> dict[int, str]:
    """Rows far from the line of their operator: some may be in another unit than the rest."""
    found: dict[int, str] = {}
    ops: dict[str, list[int]] = {}
    for row in rows.tolist():
        subject = sheet.subjects[row]
        ops.setdefault(subject.op if isinstance(subject, Kernel) else "", []).append(row)
    for op, mine in ops.items():
        if len(mine) < FEWEST_ROWS:
            continue
        decades = residuals(work[mine], sheet.latency_s[mine])
        for place in np.flatnonzero(np.abs(decades) > _ASIDE).tolist():
            row = mine[place]
            factor = 10 ** float(decades[place])
            found[row] = (
                f"a latency of {sheet.latency_s[row]:g} s is {factor:.2g} times what the other "
                f"rows of '{op}' lead one to expect: is it in another unit?"
            )
    return found


def _contradictions(sheet: Sheet, sound: npt.NDArray[np.bool_]) -> dict[int, str]:
    """Rows of one subject that differ far beyond what repeated rows of this table usually do."""
    groups = [rows[sound[rows]] for rows in sheet.groups()] if len(sheet) else []
    repeated = [rows for rows in groups if len(rows) > 1]
    if not repeated:
        return {}
    spreads = np.array([np.ptp(np.log(sheet.latency_s[rows])) for rows in repeated])
    # The usual spread is that of the others, or a single pair would excuse itself.
    usual = float(np.median(spreads)) if len(repeated) >= FEWEST_ROWS else 0.0
    most = max(math.log(_CONTRADICTION), _BEYOND_NOISE * usual)
    found = {}
    for rows, spread in zip(repeated, spreads, strict=True):
        if spread <= most:
            continue
        low, high = sheet.latency_s[rows].min(), sheet.latency_s[rows].max()
        numbers = _listed([sheet.numbers[row] for row in rows.tolist()])
        for row in rows.tolist():
            found[row] = f"rows {numbers} are one measurement, but say {low:g} s to {high:g} s"
    return found


def _far_from_median(sheet: Sheet, setting: Setting, rows: npt.NDArray[np.intp]) -> list[str]:
    """Whole networks that are thousands of times faster or slower than most of a table."""
    if len(rows) < FEWEST_ROWS:
        return []
    decades = np.abs(np.log10(sheet.latency_s[rows] / np.median(sheet.latency_s[rows])))
    far = rows[decades > _ASIDE]
    if not len(far):
        return []
    numbers = _listed([sheet.numbers[row] for row in far.tolist()])
    said = "networks take less than 1/200 or more than 200 times the median: rows"
    return [f"{setting.target_key}: {len(far)} of {len(rows)} {said} {numbers}"]


def _listed(numbers: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"
