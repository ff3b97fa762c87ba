"""Tables of architectures that are known by their code: NAS-Bench-201 and Once-for-all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from millifit.profiler.packs.settings import Place, settings
from millifit.profiler.packs.sheet import Sheet, Subject, shared
from millifit.profiler.packs.table import numbers, texts, whole_numbers

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("source_key", "arch_index", "arch", "device_class", "latency_resolution_s")

Space = Literal["nasbench201", "ofa"]


def architecture_sheet(table: pd.DataFrame, source: str) -> Sheet:
    """All rows: networks of no known calls. What a timer rounds to is among a row's facts."""
    space: Space = "ofa" if "resolution" in table.columns else "nasbench201"
    subjects = shared(
        Subject(name=f"{space}-{index}", space=space, architecture=code, batch=batch)
        for index, code, batch in zip(
            texts(table, "arch_index"),
            texts(table, "arch"),
            whole_numbers(table, "batch", 1),
            strict=True,
        )
    )
    place = Place(parts=("device",), batched=True)
    return Sheet.of(source, subjects, settings(table, place), numbers(table, "latency_s"))
