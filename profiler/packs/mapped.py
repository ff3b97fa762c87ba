"""A table of somebody's own as kernels or networks, seen through a mapping of its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from millifit.errors import DataError, UsageError
from millifit.profiler.packs.mapping import JOULES, PAIRS, SECONDS, Mapped, mapped
from millifit.profiler.packs.operators import (
    Operator,
    kernels_of,
    operator_name,
    precision_name,
)
from millifit.profiler.packs.sheet import NOT_STATED, Floats, Setting, Sheet, Subject, shared
from millifit.profiler.packs.table import numbers, texts, whole_numbers
from millifit.targets.kernel import Kernel
from millifit.targets.target import Precision

if TYPE_CHECKING:
    import pandas as pd


def read_mapped(table: pd.DataFrame, mapping: Mapping[str, str], path: Path) -> Sheet:
    """The rows of a table read from `path`: kernels where it has operators, else networks.

    Raises UsageError where a mapping is missing or wrong, and DataError naming the column and row
    of a value that makes no sense.
    """
    seen = mapped(table, mapping, path=path)
    try:
        return _sheet(seen, path)
    except ValueError as error:
        raise DataError(f"'{path}': {error}. Nothing was imported.") from error


def _sheet(seen: Mapped, path: Path) -> Sheet:
    latency = _scaled(seen, "latency", SECONDS)
    if latency is None:
        raise UsageError(
            f"no column of '{path}' is known to hold the latency: say which, and its unit, as in "
            f"--map latency_ms=COLUMN. The columns are {seen.own}."
        )
    unknown: Counter[str] = Counter()
    subjects: Sequence[Kernel | Subject]
    if seen.column("op") is not None:
        subjects, unknown = _kernels(seen)
    elif seen.column("network", "arch") is not None:
        subjects = _networks(seen)
    else:
        raise UsageError(
            f"no column of '{path}' says which operator or network a row is about: name it, as in "
            "--map op=COLUMN, --map op=conv2d for all rows, or --map network=COLUMN."
        )
    failure = seen.column("failure")
    return Sheet.of(
        path.name,
        subjects,
        _settings(seen, path),
        latency,
        std_s=_scaled(seen, "latency_std", SECONDS),
        energy_j=_scaled(seen, "energy", JOULES),
        failures=() if failure is None else texts(seen.table, failure),
        unknown=unknown,
    )


def _scaled(seen: Mapped, kind: str, units: Mapping[str, float]) -> Floats | None:
    found = seen.scaled(kind, units)
    return None if found is None else numbers(seen.table, found[0]) * found[1]


def _kernels(seen: Mapped) -> tuple[list[Kernel], Counter[str]]:
    column = seen.column("op")
    assert column is not None
    given = texts(seen.table, column)
    if not all(given):
        raise ValueError(f"column '{column}', row {given.index('') + 1}: no operator")
    named = {name: operator_name(name) for name in set(given)}
    in_ch = _whole(seen, "in_ch", required=True)
    in_h, in_w = _pair(seen, "in_hw", 1)
    out_h, out_w = _pair(seen, "out_hw", 0)
    kernel_h, kernel_w = _pair(seen, "kernel", 1)
    stride_h, stride_w = _pair(seen, "stride", 1)
    rows = zip(
        given, _precisions(seen), _texts(seen, "epilogue"), _paddings(seen),
        in_ch, _whole(seen, "out_ch", in_ch), in_h, in_w, out_h, out_w,
        kernel_h, kernel_w, stride_h, stride_w,
        _whole(seen, "batch", 1), _whole(seen, "groups", 1), _whole(seen, "dilation", 1),
        _whole(seen, "n_inputs", 1),
        strict=True,
    )  # fmt: skip
    fields = (
        "precision", "epilogue", "padding", "in_ch", "out_ch", "in_h", "in_w", "out_h", "out_w",
        "kernel_h", "kernel_w", "stride_h", "stride_w", "batch", "groups", "dilation", "n_inputs",
    )  # fmt: skip
    kernels = kernels_of(
        Operator(op=named[op][0], **dict(zip(fields, values, strict=True))) for op, *values in rows
    )
    return kernels, Counter(name for name in given if not named[name][1])


def _networks(seen: Mapped) -> list[Subject]:
    codes = _texts(seen, "arch")
    names = _texts(seen, "network") if seen.column("network") else codes
    spaces, batches = _texts(seen, "space"), _whole(seen, "batch", 1)
    if not all(names):
        raise ValueError(f"row {names.index('') + 1}: no name of a network")
    rows = zip(names, spaces, codes, batches, strict=True)
    return shared(Subject(*row) for row in rows)


def _settings(seen: Mapped, path: Path) -> list[Setting]:
    devices, runtimes = _texts(seen, "device"), _texts(seen, "runtime")
    if not all(devices):
        raise UsageError(
            f"'{path}' does not say on which device row {devices.index('') + 1} was measured: "
            "add --device NAME, or --map device=COLUMN."
        )
    precisions: Sequence[str] = _precisions(seen)
    if seen.column("op", "precision") is None:  # a network's is not known where nobody says it
        precisions = [""] * len(devices)
    return shared(
        Setting(
            target_key="/".join(part for part in (device, runtime, precision) if part),
            versions=runtime or NOT_STATED,
            facts=(("device", device), ("policy", NOT_STATED)),
        )
        for device, runtime, precision in zip(devices, runtimes, precisions, strict=True)
    )


def _precisions(seen: Mapped) -> list[Precision]:
    """What is stated, else fp32."""
    given = _texts(seen, "precision")
    known: dict[str, Precision] = {"": "fp32"}
    for row, name in enumerate(given, start=1):
        if name not in known:
            try:
                known[name] = precision_name(name)
            except ValueError as error:
                raise ValueError(f"column 'precision', row {row}: {error}") from error
    return [known[name] for name in given]


def _paddings(seen: Mapped) -> list[int]:
    words = {"": -1, "same": -1, "valid": 0}
    found = []
    for row, text in enumerate(_texts(seen, "padding"), start=1):
        word = text.strip().lower().removesuffix(".0")
        if word not in words and not word.isdigit():
            raise ValueError(
                f"column '{seen.column('padding')}', row {row}: padding should be a number of "
                f"pixels, 'same' or 'valid', got '{text}'"
            )
        found.append(words[word] if word in words else int(word))
    return found


def _texts(seen: Mapped, field: str) -> list[str]:
    column = seen.column(field)
    return [""] * len(seen.table) if column is None else texts(seen.table, column)


def _whole(
    seen: Mapped, field: str, default: int | list[int] = 1, *, required: bool = False
) -> list[int]:
    column = seen.column(field)
    if column is not None:
        return whole_numbers(seen.table, column, None if required else 1)
    if required:
        raise UsageError(
            f"no column says '{field}': name it, as in --map {field}=COLUMN. The columns are "
            f"{seen.own}."
        )
    return default if isinstance(default, list) else [default] * len(seen.table)


def _pair(seen: Mapped, field: str, default: int) -> tuple[list[int], list[int]]:
    """Both sides: from a column each, or from one for both; `default` where there is none."""
    found = []
    for side in PAIRS[field]:
        column = seen.column(side, field)
        if column is None:
            found.append([default] * len(seen.table))
        elif default:
            found.append(whole_numbers(seen.table, column, default))
        else:
            given = numbers(seen.table, column)
            whole = whole_numbers(seen.table, column, 1)
            found.append(np.where(np.isnan(given), default, whole).tolist())
    return found[0], found[1]
