"""Where the rows of a public table were measured, from its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from millifit.profiler.packs.sheet import NOT_STATED, Setting
from millifit.profiler.packs.table import texts

if TYPE_CHECKING:
    import pandas as pd

_FACTS = {"device_name": "device", "runtime": "runtime", "device_class": "class"}
_STATED = (*_FACTS, "core_set", "threads", "latency_resolution_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which columns make a target's key, joined by "/".

    The column `detail`, where it says anything else than the one before it, is joined to that by
    "-": ``pixel4/cpu-2large/int8`` has it behind the delegate. `batched` puts the batch behind
    the device: ``1080ti/batch32``; it is left out where it is not stated.
    """

    parts: tuple[str, ...]
    detail: str = ""
    batched: bool = False
    policy: str = NOT_STATED


def settings(table: pd.DataFrame, place: Place) -> list[Setting]:
    """One setting per row; equal ones are one object."""
    named = [*place.parts, *([place.detail] if place.detail else [])]
    stated = [name for name in _STATED if name in table.columns]
    columns = list(dict.fromkeys([*named, *stated, *(["batch"] if place.batched else [])]))
    made: dict[tuple[str, ...], Setting] = {}
    rows = zip(*(texts(table, name) for name in columns), strict=True)
    return [
        made.get(row) or made.setdefault(row, _setting(dict(zip(columns, row, strict=True)), place))
        for row in rows
    ]


def _setting(row: dict[str, str], place: Place) -> Setting:
    parts = []
    for name in place.parts:
        part = row[name]
        if name == "delegate" and place.detail and row[place.detail] != part:
            part = f"{part}-{row[place.detail]}"
        parts.append(part)
    if place.batched and row["batch"]:
        parts.append(f"batch{float(row['batch']):g}")
    facts = {_FACTS.get(name, name): value for name, value in row.items() if name != "batch"}
    facts = {name: value for name, value in facts.items() if value} | {"policy": place.policy}
    return Setting(
        target_key="/".join(parts),
        versions=row.get("runtime") or NOT_STATED,
        facts=tuple(sorted(facts.items())),
    )
