"""A TOML file of targets: one table each, every key a field of `Target`.

::

    [my-board]
    like = "rpi5"                # everything that is not said here is as there
    cores = 2

    [my-board.gpu]               # where kernels run on a GPU
    api = "opencl"
    ...

`like` names a target that ships with millifit, 'local', or a table above in the same file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from millifit.errors import UsageError
from millifit.targets.target import Gpu, Target

Table = Mapping[str, Any]
Tables = dict[str, Table]
Wrong = Callable[[str, str], UsageError]

_KEYS = tuple(f.name for f in dataclasses.fields(Target) if f.name != "name")
_GPU_KEYS = tuple(f.name for f in dataclasses.fields(Gpu))
_VECTOR_BITS = (128, 256, 512)


def read_tables(path: Path, known: Callable[[str], Table | None]) -> Tables:
    """The tables of a file by name, whole: those with `like` have what they left out.

    `known` gives the table of a target that is not in the file. Raises UsageError naming the file,
    the target and the key.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as refused:
        raise UsageError(f"{path} cannot be read: {refused.strerror}.") from refused
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise UsageError(f"{path} is not valid TOML: {broken}.") from broken
    tables: Tables = {}
    for name, table in found.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: '{name}' is no table. Write [{name}] and its keys below.")
        tables[name] = _whole(name, table, lambda other: tables.get(other) or known(other), path)
    return tables


def _whole(name: str, table: Table, known: Callable[[str], Table | None], path: Path) -> Table:
    """The table with what it left out of the one it is like."""
    if "like" not in table:
        return table
    base = known(str(table["like"]))
    if base is None:
        raise _wrong(path, name)(
            "like",
            f"there is no target '{table['like']}' before it. Name one that ships with millifit "
            "('millifit targets list'), 'local', or a table above this one",
        )
    return changed(base, {key: value for key, value in table.items() if key != "like"})


def changed(base: Table, changes: Table) -> Table:
    """A table with some keys changed; those of the GPU one by one."""
    made = {**{key: value for key, value in base.items() if key != "source"}, **changes}
    if isinstance(base.get("gpu"), Mapping) and isinstance(changes.get("gpu"), Mapping):
        made["gpu"] = {**base["gpu"], **changes["gpu"]}
    return made


def plain_table(target: Target) -> Table:
    """The table that describes a target in full."""
    plain = json.loads(json.dumps(dataclasses.asdict(target)))
    return {key: value for key, value in plain.items() if key != "name" and value is not None}


def toml_of(name: str, table: Table) -> str:
    """A table as it stands in a file."""
    quoted = json.dumps(name)
    lines = [f"[{quoted}]", *_toml({k: v for k, v in table.items() if k != "gpu"})]
    if "gpu" in table:
        lines += ["", f"[{quoted}.gpu]", *_toml(table["gpu"])]
    return "\n".join(lines) + "\n"


def _toml(table: Table) -> list[str]:
    """The lines of a table: JSON's strings, integers, truths and lists of strings are TOML's."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]


@functools.cache
def _adapter() -> pydantic.TypeAdapter[Target]:
    return pydantic.TypeAdapter(Target)


def _wrong(path: Path | str, name: str) -> Wrong:
    def made(key: str, problem: str) -> UsageError:
        return UsageError(f"{path}: target '{name}', '{key}': {problem}.")

    return made


def checked_target(name: str, table: Table, where: Path | str) -> Target:
    """The target of a whole table. Raises UsageError naming `where` it stands, it and the key."""
    wrong = _wrong(where, name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"{where}: '{name}' is no name: use letters, digits, '.', '_' and '-'.")
    _check_keys(table, _KEYS, wrong)
    if isinstance(table.get("gpu"), Mapping):
        _check_keys(table["gpu"], _GPU_KEYS, lambda key, problem: wrong(f"gpu.{key}", problem))
    try:
        # Strictness from JSON takes lists for tuples, but no "4" for 4.
        text = json.dumps({"name": name, **table}, default=str)
        target = _adapter().validate_json(text, strict=True)
    except pydantic.ValidationError as invalid:
        first = invalid.errors()[0]
        raise wrong(".".join(map(str, first["loc"])), first["msg"]) from invalid
    if target.vector_bits not in _VECTOR_BITS:
        raise wrong("vector_bits", f"{target.vector_bits} is none of {_VECTOR_BITS}")
    for key in ("vector_registers", "cores", "l1_bytes", "l2_bytes"):
        if getattr(target, key) < 1:
            raise wrong(key, "must be 1 or more")
    if target.l3_bytes < 0:
        raise wrong("l3_bytes", "must be 0 or more")
    if not 1 <= target.threads <= target.cores:
        raise wrong("threads", f"must be 1 to {target.cores}, the cores")
    if target.gpu is not None:
        _check_gpu(target.gpu, wrong)
    _check_precisions(target, table, wrong)
    return target


def _check_keys(table: Table, keys: Sequence[str], wrong: Wrong) -> None:
    for key in table:
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            raise wrong(key, f"unknown key{f', did you mean {close[0]}' if close else ''}")


def _check_gpu(gpu: Gpu, wrong: Wrong) -> None:
    for key in ("compute_units", "subgroup", "max_threads", "shared_bytes"):
        if getattr(gpu, key) < 1:
            raise wrong(f"gpu.{key}", "must be 1 or more")
    if (gpu.api == "cuda") != bool(re.fullmatch(r"sm_\d+a?", gpu.arch)):
        raise wrong("gpu.arch", "must be sm_ and a number for CUDA, and is left out for OpenCL")


def _check_precisions(target: Target, table: Table, wrong: Wrong) -> None:
    if not table.get("precisions", True):
        raise wrong("precisions", "must name at least one precision")
    for precision in table.get("precisions", ()):
        if precision not in target.supported:
            known = ", ".join(target.supported)
            raise wrong("precisions", f"'{precision}' needs another device; this one has {known}")
