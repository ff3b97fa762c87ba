"""A pack: measurements as a value, whatever they are kept in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.section import Section
from millifit.profiler.store import Store

_Measured = TypeVar("_Measured", Measurement, NetworkMeasurement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Kernels and whole networks, of one target or of many, and the sections they were taken in."""

    kernels: tuple[Measurement, ...] = ()
    networks: tuple[NetworkMeasurement, ...] = ()
    sections: tuple[Section, ...] = ()

    def __len__(self) -> int:
        return len(self.kernels) + len(self.networks)

    @property
    def target_keys(self) -> list[str]:
        """The targets that anything was measured on, sorted."""
        return sorted({m.target_key for m in self.kernels} | {m.target_key for m in self.networks})

    def of_target(self, target_key: str) -> Pack:
        """What was measured on one target."""
        return Pack(
            kernels=tuple(m for m in self.kernels if m.target_key == target_key),
            networks=tuple(m for m in self.networks if m.target_key == target_key),
            sections=tuple(s for s in self.sections if s.target_key == target_key),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """How many measurements of a pack were new to a store."""

    kernels: int
    networks: int


def pack_of(store: Store, target_key: str | None = None) -> Pack:
    """What a store holds, or what it holds of one target."""
    return Pack(
        kernels=tuple(store.measurements(target_key)),
        networks=tuple(store.networks(target_key)),
        sections=tuple(store.sections(target_key)),
    )


def add_to_store(pack: Pack, store: Store) -> Added:
    """Keep a pack's measurements; what is there already stays as it is.

    Sections are numbered on behind those of the store; only those are kept that something new was
    measured in. Raises RunFolderError when the store cannot be used.
    """
    kernels, networks = list(pack.kernels), list(pack.networks)
    if pack.sections:
        known = set(store.get(m.key for m in kernels))
        known_networks = {m.key for m in store.networks()}
        fresh = [m for m in kernels if m.key not in known]
        fresh_networks = [m for m in networks if m.key not in known_networks]
        used = {m.section for m in fresh} | {m.section for m in fresh_networks}
        numbers = _renumbered(pack.sections, used, store)
        kernels = [_in_section(m, numbers) for m in kernels]
        networks = [_in_section(m, numbers) for m in networks]
    return Added(kernels=store.add(*kernels), networks=store.add_networks(*networks))


def _renumbered(sections: Iterable[Section], used: set[int | None], store: Store) -> dict[int, int]:
    """Sections that are used, added to a store: their old numbers and their new ones."""
    numbers = {}
    for section in sections:
        if section.number in used:
            begun = store.begin_section(
                section.target_key,
                section.versions,
                began_s=section.began_s,
                environment=section.environment,
            )
            store.judge(replace(section, number=begun.number))
            numbers[section.number] = begun.number
    return numbers


def _in_section(measurement: _Measured, numbers: dict[int, int]) -> _Measured:
    number = measurement.section
    return replace(measurement, section=None if number is None else numbers.get(number))
