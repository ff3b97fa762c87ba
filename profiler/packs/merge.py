"""Merging packs: one measurement per key, and what the packs disagree about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Pack
from millifit.targets.timing import Samples

_Measured = TypeVar("_Measured", Measurement, NetworkMeasurement)

# Medians further apart than this contradict each other, where their intervals do not touch either.
_CONTRADICTION = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A measurement that several packs have, differently: `kept` is the number of the pack whose
    was kept (from 0), because it `has`: "a time", "more samples", "a later date" or "come first".
    """

    name: str
    target_key: str
    kept: int
    has: str
    median_s: tuple[float | None, ...]
    contradict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The pack that several became, and the choices that had to be made."""

    pack: Pack
    choices: tuple[Choice, ...]


def merge(packs: Sequence[Pack]) -> Merged:
    """All measurements of several packs, one of each key; sections are numbered anew."""
    packs = _numbered_apart(packs)
    kernels, one = _merged([pack.kernels for pack in packs])
    networks, other = _merged([pack.networks for pack in packs])
    sections = tuple(section for pack in packs for section in pack.sections)
    return Merged(
        pack=Pack(kernels=tuple(kernels), networks=tuple(networks), sections=sections),
        choices=(*one, *other),
    )


def _numbered_apart(packs: Sequence[Pack]) -> list[Pack]:
    """Two packs have sections of the same numbers that are not the same sections."""
    found, past = [], 0
    for pack in packs:
        numbers = {section.number: past + n for n, section in enumerate(pack.sections, start=1)}
        past += len(numbers)
        found.append(
            Pack(
                kernels=tuple(_moved(m, numbers) for m in pack.kernels),
                networks=tuple(_moved(m, numbers) for m in pack.networks),
                sections=tuple(replace(s, number=numbers[s.number]) for s in pack.sections),
            )
        )
    return found


def _moved(measurement: _Measured, numbers: dict[int, int]) -> _Measured:
    if measurement.section is None:
        return measurement
    return replace(measurement, section=numbers.get(measurement.section))


def _merged(packs: Sequence[Sequence[_Measured]]) -> tuple[list[_Measured], list[Choice]]:
    found: dict[str, list[tuple[int, _Measured]]] = {}
    for number, measurements in enumerate(packs):
        for measurement in measurements:
            found.setdefault(measurement.key, []).append((number, measurement))
    kept, choices = [], []
    for same in found.values():
        number, best = max(same, key=lambda pair: (*_worth(pair[1]), -pair[0]))
        kept.append(best)
        if any(other.outcome != best.outcome for _, other in same):
            choices.append(_choice(number, best, [m for _, m in same]))
    return kept, choices


def _worth(measurement: Measurement | NetworkMeasurement) -> tuple[bool, int, float]:
    """A time before a failure, then more samples, then a later date."""
    outcome = measurement.outcome
    samples = len(outcome.run_s) if isinstance(outcome, Samples) else 0
    return samples > 0, samples, measurement.taken_at_s or -math.inf


def _choice(number: int, best: _Measured, same: Sequence[_Measured]) -> Choice:
    worth = [_worth(m) for m in same if m is not best]
    reasons = ("a time", "more samples", "a later date")
    differ = (
        reason
        for place, reason in enumerate(reasons)
        if any(_worth(best)[place] != other[place] for other in worth)
    )
    samples = [m.outcome for m in same if isinstance(m.outcome, Samples)]
    return Choice(
        name=_name(best),
        target_key=best.target_key,
        kept=number,
        has=next(differ, "come first"),
        median_s=tuple(
            m.outcome.median_s if isinstance(m.outcome, Samples) else None for m in same
        ),
        contradict=_contradict(samples),
    )


def _name(measurement: Measurement | NetworkMeasurement) -> str:
    if isinstance(measurement, NetworkMeasurement):
        return measurement.name
    return f"{measurement.kernel.op} {measurement.kernel.precision}"


def _contradict(samples: Sequence[Samples]) -> bool:
    if len(samples) < 2:
        return False
    medians = [each.median_s for each in samples]
    lowest_high = min(each.interval_s[1] for each in samples)
    highest_low = max(each.interval_s[0] for each in samples)
    return max(medians) > _CONTRADICTION * min(medians) and highest_low > lowest_high
