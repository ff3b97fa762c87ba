"""Which columns of somebody's own table say what.

A field is found in the column of its own name, unless a mapping names another column, or one value
for all rows. The fields of a kernel:

==============================  ===================================================================
op                              operator; spellings such as Conv2d or fully_connected are known
in_hw, or in_h and in_w         height and width of the input, px; 1 where absent
in_ch, out_ch                   channels; out_ch is in_ch where absent
kernel, or kernel_h, kernel_w   height and width of the window; 1 where absent
stride, or stride_h, stride_w   1 where absent
out_hw, or out_h and out_w      follow from the padding where absent
padding                         pixels on each side, or same (which is meant where absent), valid
groups, dilation, batch         1 where absent
n_inputs                        of a concatenation
epilogue                        what is fused, "+" between: add+relu
==============================  ===================================================================

Those of a whole network: network (its name), space, arch (its code), batch. Those of both: device,
runtime, precision, and what came out: latency_s, latency_ms, latency_us or latency_ns, whichever
states the unit; latency_std_s, ...; energy_j, energy_mj or energy_uj; failure (any text: the row
has no latency).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from millifit.errors import DataError, UsageError
from millifit.profiler.packs.operators import operator_name, precision_name

if TYPE_CHECKING:
    import pandas as pd

SECONDS: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
JOULES: Mapping[str, float] = {"j": 1.0, "mj": 1e-3, "uj": 1e-6}
PAIRS: Mapping[str, tuple[str, str]] = {
    "in_hw": ("in_h", "in_w"),
    "out_hw": ("out_h", "out_w"),
    "kernel": ("kernel_h", "kernel_w"),
    "stride": ("stride_h", "stride_w"),
}
_NUMBERS = (
    "in_ch", "out_ch", "groups", "dilation", "batch", "n_inputs",
    *PAIRS, *(each for pair in PAIRS.values() for each in pair),
)  # fmt: skip
_TEXTS = (
    "op", "epilogue", "padding", "network", "space", "arch", "failure",
    "device", "runtime", "precision",
)  # fmt: skip
_OUTCOMES = (
    *(f"latency_{unit}" for unit in SECONDS),
    *(f"latency_std_{unit}" for unit in SECONDS),
    *(f"energy_{unit}" for unit in JOULES),
)
FIELDS = (*_TEXTS, *_NUMBERS, *_OUTCOMES)
_UNIT_IN_NAME = re.compile(r"[_ \[(/](s|ms|us|µs|ns|sec|msec|usec|nsec)[\])]?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A table, and the column of each field that it has; one value for all rows is a column too."""

    table: pd.DataFrame
    columns: Mapping[str, str]

    @property
    def own(self) -> str:
        """The names of the table's columns, for a message."""
        return ", ".join(name for name in map(str, self.table.columns) if name[:6] != "--map ")

    def column(self, *fields: str) -> str | None:
        """The column of the first of these fields that the table has."""
        return next((self.columns[name] for name in fields if name in self.columns), None)

    def scaled(self, kind: str, units: Mapping[str, float]) -> tuple[str, float] | None:
        """The column of 'latency' in one of its units, and how much of the base unit one is."""
        found = [(unit, self.columns.get(f"{kind}_{unit}")) for unit in units]
        named = [(unit, column) for unit, column in found if column is not None]
        if len(named) > 1:
            both = " and ".join(f"{kind}_{unit}" for unit, _ in named)
            raise UsageError(
                f"the table has {both}: name the one to use, as --map {kind}_ms=COLUMN."
            )
        for unit, column in named:
            _check_unit(f"{kind}_{unit}", unit, column)
            return column, units[unit]
        return None


def parse_mapping(given: Iterable[str]) -> dict[str, str]:
    """'op=type,latency_ms=time', or YAML files of the same, as field to column or value.

    Raises UsageError naming what is no pair or no field, and DataError for a damaged file.
    """
    pairs: dict[str, str] = {}
    for text in given:
        if text.endswith((".yml", ".yaml")):
            pairs |= _from_yaml(Path(text))
            continue
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, column = (piece.strip() for piece in part.partition("="))
            if not column:
                raise UsageError(f"--map '{part}' should be FIELD=COLUMN, such as latency_ms=time.")
            pairs[name] = column
    for name in pairs:
        if name not in FIELDS:
            raise UsageError(f"--map: there is no field '{name}'. Fields are {', '.join(FIELDS)}.")
    return pairs


def mapped(table: pd.DataFrame, mapping: Mapping[str, str], *, path: Path) -> Mapped:
    """The columns of a table by field; raises UsageError for one that the table does not have."""
    own = {str(name).lower(): str(name) for name in table.columns}
    columns = {name: own[name] for name in FIELDS if name in own and name not in mapping}
    given: dict[str, str | int] = {}
    for name, column in mapping.items():
        if column in table.columns:
            columns[name] = column
        else:
            given[f"--map {name}"] = _value(name, column, list(own.values()), path)
            columns[name] = f"--map {name}"
    for pair, sides in PAIRS.items():  # what is named explicitly is meant
        if pair in mapping:
            columns = {name: each for name, each in columns.items() if name not in sides}
    return Mapped(table=table.assign(**given), columns=columns)


def _value(name: str, text: str, columns: list[str], path: Path) -> str | int:
    """One value for all rows: a number, an operator or a word, where the field takes such."""
    known = name in ("device", "runtime", "network", "space", "padding", "epilogue")
    if name == "op":
        known = operator_name(text)[1]
    elif name == "precision":
        try:
            return precision_name(text)
        except ValueError:
            known = False
    elif name in _NUMBERS and text.isdigit():
        return int(text)
    if not known:
        raise UsageError(
            f"--map {name}={text}: '{path}' has no column '{text}', and it is no value of '{name}' "
            f"either. The columns are {', '.join(columns)}."
        )
    return text


def _from_yaml(path: Path) -> dict[str, str]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the mapping '{path}': {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(value, str | int) for value in content.values()
    ):
        raise DataError(f"'{path}' should have lines such as 'latency_ms: time', FIELD: COLUMN.")
    return {str(name): str(value) for name, value in content.items()}


def _check_unit(field: str, unit: str, column: str) -> None:
    """A column whose name ends in another unit is a mistake."""
    named = _UNIT_IN_NAME.search(column.lower())
    if named is None or column.startswith("--map"):
        return
    says = named[1].removesuffix("ec").replace("µ", "u")
    if says != unit:
        kind = field.rpartition("_")[0]
        raise UsageError(
            f"column '{column}' is in {says} by its name, but is mapped as {field}. "
            f"Use --map {kind}_{says}={column}, or rename the column."
        )
