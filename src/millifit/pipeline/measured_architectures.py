"""Networks of a space that a store has, by the targets they were measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from millifit.errors import DataError, MeasurementError, UsageError
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.prediction import Floats
from millifit.pipeline.architectures import encoder
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.store import Store
from millifit.targets.catalog import list_targets
from millifit.targets.runner.environment import code_versions
from millifit.targets.timing import Samples

_SHORTEST = 0.05  # of the median: what is shorter did not run, or is beneath the timer


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A target that a store knows by `key`.

    Batch sizes and runtimes of one `device` are places of their own: "1080ti/batch32" and
    "1080ti/batch1". `compiled_here` says that millifit's own code is measured there.
    """

    name: str
    key: str
    device: str
    compiled_here: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """Architectures in the order that they were measured in, and their `seconds` ``[n]``.

    `left_out` counts by reason what cannot be learnt from.
    """

    place: Place
    encoded: Encoded
    seconds: Floats
    versions: str
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.seconds)


def place_of(name: str, store: Store, space: str, *, threads: int) -> Place:
    """The place of that name with networks of the space.

    MeasurementError naming those that there are; UsageError where a device has several.
    """
    keys = store.network_targets(space)
    found = _matching(name, keys, threads)
    if not found:
        raise MeasurementError(_nothing(name, keys, space, threads))
    if len(found) > 1:
        raise UsageError(
            f"'{name}' has networks of space '{space}' in several settings. Name one of: "
            f"{', '.join(each.key for each in found)}."
        )
    return found[0]


def places(
    names: Sequence[str], store: Store, space: str, *, threads: int, besides: Place
) -> list[Place]:
    """All places of those names, devices or targets, each once; UsageError where one has none."""
    keys = store.network_targets(space)
    found: dict[str, Place] = {}
    for name in names:
        some = [each for each in _matching(name, keys, threads) if each.key != besides.key]
        if not some:
            alone = name in (besides.name, besides.key, besides.device)
            raise UsageError(
                f"--from {name}: that is the target itself. Name others."
                if alone
                else f"--from: {_nothing(name, keys, space, threads)}"
            )
        found |= {each.key: each for each in some}
    return list(found.values())


def measured(store: Store, place: Place, space: str) -> Measured:
    """What the store has of a space on a target, of each architecture the newest.

    Left out are failures, what was measured while the machine drifted, versions other than the
    newest (than the present where millifit compiles the networks), what took next to no time, and
    architectures that are none of the space. MeasurementError where nothing remains.
    """
    doubted = {each.number for each in store.sections(place.key) if each.drifting}
    rows = [each for each in store.networks(place.key) if each.space == space]
    versions = code_versions() if place.compiled_here else rows[-1].versions if rows else ""
    left_out: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for each in rows:
        usable = _usable(each, doubted, versions)
        if isinstance(usable, str):
            left_out[usable] += 1
            continue
        seconds.pop(each.architecture, None)  # the newest stands where it was measured
        seconds[each.architecture] = usable.median_s
    shortest = _SHORTEST * float(np.median(list(seconds.values()) or [0.0]))
    codes = [code for code, each in seconds.items() if each >= shortest]
    left_out["next to no time"] = len(seconds) - len(codes)
    readable = _of_space(space, codes)
    left_out["not of the space"] = len(codes) - len(readable)
    if not readable:
        raise MeasurementError(
            f"target '{place.name}' has no network of space '{space}' to learn from; left out are "
            f"{', '.join(f'{n} ({reason})' for reason, n in left_out.items() if n)}."
        )
    encoded = encoder(space)(readable)
    return Measured(
        place=place,
        encoded=encoded,
        seconds=np.array([seconds[code] for code in readable], np.float64),
        versions=versions,
        left_out={reason: n for reason, n in left_out.items() if n},
    )


def _usable(each: NetworkMeasurement, doubted: set[int], versions: str) -> Samples | str:
    """The samples of a network, or why nothing can be learnt from it."""
    if not isinstance(each.outcome, Samples):
        return "failed"
    if each.section in doubted:
        return "measured while the machine drifted"
    return each.outcome if each.versions == versions else "other versions"


def _of_space(space: str, codes: list[str]) -> list[str]:
    """The codes that can be read and have no choice of another space."""
    if not codes:
        return []
    try:
        known = encoder(space)(codes).known
    except DataError:
        return [code for half in _halves(codes) for code in _of_space(space, half)]
    return [code for code, well in zip(codes, known, strict=True) if well]


def _halves(codes: list[str]) -> list[list[str]]:
    """Both halves; none of a single code, which is the one that cannot be read."""
    middle = len(codes) // 2
    return [codes[:middle], codes[middle:]] if middle else []


def _matching(name: str, keys: Mapping[str, int], threads: int) -> list[Place]:
    """The places that a name stands for: a key, a target of the catalog, or else a device."""
    ours = _catalog(threads)
    found = [key for key in keys if name == key or name in ours.get(key, ())]
    return [
        Place(name=ours[key][0], key=key, device=ours[key][0], compiled_here=True)
        if key in ours
        else Place(name=key, key=key, device=_device(key))
        for key in found or [key for key in keys if _device(key) == name]
    ]


def _catalog(threads: int) -> dict[str, list[str]]:
    """The names of the targets that millifit compiles for, by their keys; equal ones share one."""
    names: dict[str, list[str]] = {}
    for each in list_targets():
        names.setdefault(each.with_threads(threads).key, []).append(each.name)
    return names


def _device(key: str) -> str:
    """The device of a readable key: "1080ti/batch32" is of "1080ti"."""
    return key.split("/")[0]


def _nothing(name: str, keys: Mapping[str, int], space: str, threads: int) -> str:
    said = f"there are no networks of space '{space}' on target '{name}'."
    if not keys:
        return f"{said} No target has any: measure some, or import them."
    ours = _catalog(threads)
    named = ", ".join(f"{ours.get(key, [key])[0]} ({n})" for key, n in keys.items())
    return f"{said} These targets have some: {named}."
