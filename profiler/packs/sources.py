"""Which tables are known by their columns, and what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from millifit.errors import DataError, UsageError
from millifit.profiler.packs import architectures, convolutions, mobile, transformers
from millifit.profiler.packs.sheet import Sheet

if TYPE_CHECKING:
    import pandas as pd

Source = Literal[
    "mobile-gpu-ops", "mobile-cnns", "gpu-convolutions", "architectures", "transformers"
]
"""Tables that `read_source` understands:

=================  ==================================================================
mobile-gpu-ops     fused operators on phones' GPUs (qed-usc/mobile-ml-benchmark)
mobile-cnns        whole networks on phones' CPUs and GPUs (the same source)
gpu-convolutions   convolutions on a server GPU (alibaba/lightweight-neural-architecture-search)
architectures      NAS-Bench-201 or Once-for-all networks on many devices (HayeonLee/HELP)
transformers       encoders and decoders (mit-han-lab/hardware-aware-transformers)
=================  ==================================================================
"""
_COLUMNS: Mapping[Source, tuple[str, ...]] = {
    "mobile-gpu-ops": mobile.OPERATOR_COLUMNS,
    "mobile-cnns": mobile.NETWORK_COLUMNS,
    "gpu-convolutions": convolutions.COLUMNS,
    "architectures": architectures.COLUMNS,
    "transformers": transformers.COLUMNS,
}


def source_of(table: pd.DataFrame) -> Source | None:
    """The source that has a table's columns; None where no source has them."""
    found: list[Source] = [
        name for name, columns in _COLUMNS.items() if set(columns) <= set(table.columns)
    ]
    return found[0] if found else None


def source_named(name: str) -> Source:
    """The source of that name; UsageError where there is none."""
    for source in get_args(Source):
        if source == name:
            return source  # type: ignore[no-any-return]
    raise UsageError(f"there is no source '{name}'; known are {', '.join(get_args(Source))}.")


def read_source(source: Source, table: pd.DataFrame, path: Path) -> Sheet:
    """The rows of a table of that source, read from `path`.

    Raises DataError naming a column that is missing, or a row that makes no sense.
    """
    missing = [name for name in _COLUMNS[source] if name not in table.columns]
    if missing:
        raise DataError(
            f"'{path}' has no column '{missing[0]}', as a table of '{source}' has. Its columns "
            f"are {', '.join(map(str, table.columns))}."
        )
    try:
        match source:
            case "mobile-gpu-ops":
                return mobile.mobile_op_sheet(table, path.name)
            case "mobile-cnns":
                return mobile.mobile_network_sheet(table, path.name, path.parent)
            case "gpu-convolutions":
                return convolutions.convolution_sheet(table, path.name)
            case "architectures":
                return architectures.architecture_sheet(table, path.name)
            case "transformers":
                return transformers.transformer_sheet(table, path.name)
    except (ValueError, KeyError) as error:
        raise DataError(f"'{path}': {error}. Nothing was imported.") from error
