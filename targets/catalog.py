"""Targets by name: the machine at hand, those that ship with millifit, and the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic

from millifit.errors import UnknownTarget, UsageError
from millifit.files import write_atomically
from millifit.targets.detect import detect_local
from millifit.targets.target import Gpu, Target

_SHIPPED = Path(__file__).with_name("catalog.toml")
_LOCAL = "local"
_KEYS = tuple(f.name for f in dataclasses.fields(Target) if f.name != "name")
_VECTOR_BITS = (128, 256, 512)


def default_user_file() -> Path:
    """Where the user's own targets are: $XDG_CONFIG_HOME/millifit/targets.toml."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "millifit" / "targets.toml"


def find_target(name: str, *, threads: int = 1, user_file: Path | None = None) -> Target:
    """The target of that name running `threads` threads.

    Raises UnknownTarget with the names there are, UsageError for more threads than cores or a
    user file that makes no sense.
    """
    if name == _LOCAL:
        return detect_local(threads=threads)
    targets = {target.name: target for target in _listed(user_file)}
    if name not in targets:
        known = [_LOCAL, *targets]
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UnknownTarget(f"no target '{name}'.{hint} There are: {', '.join(known)}.")
    target = targets[name]
    if not 1 <= threads <= target.cores:
        raise UsageError(f"{threads} threads on '{name}': choose 1 to {target.cores}, its cores.")
    return target.with_threads(threads)


def list_targets(user_file: Path | None = None) -> tuple[Target, ...]:
    """All targets: 'local' first, then those that ship, then the user's."""
    return (detect_local(), *_listed(user_file))


def add_target(target: Target, user_file: Path | None = None) -> None:
    """Append a target to the user's file. Raises UsageError if it is invalid or its name taken."""
    path = user_file or default_user_file()
    taken = {_LOCAL, *(known.name for known in _listed(path))}
    if target.name in taken:
        raise UsageError(f"{path}: a target '{target.name}' exists. Choose another name.")
    table = {
        key: value
        for key, value in json.loads(json.dumps(dataclasses.asdict(target))).items()
        if key != "name" and value is not None
    }
    _target(target.name, table, path)
    name = json.dumps(target.name)
    lines = [f"[{name}]", *_toml({k: v for k, v in table.items() if k != "gpu"})]
    if "gpu" in table:
        lines += ["", f"[{name}.gpu]", *_toml(table["gpu"])]
    before = path.read_text(encoding="utf-8").rstrip() + "\n\n" if path.exists() else ""
    write_atomically(path, before + "\n".join(lines) + "\n")


def _toml(table: Mapping[str, Any]) -> list[str]:
    """The lines of a table: JSON's strings, integers, truths and lists of strings are TOML's."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]


def _listed(user_file: Path | None) -> tuple[Target, ...]:
    shipped = _read(_SHIPPED)
    path = user_file or default_user_file()
    own = _read(path) if path.exists() else ()
    taken = {_LOCAL, *(target.name for target in shipped)}
    for target in own:
        if target.name in taken:
            raise UsageError(f"{path}: '{target.name}' is a name of millifit's own. Rename it.")
    return (*shipped, *own)


def _read(path: Path) -> tuple[Target, ...]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as refused:
        raise UsageError(f"{path} cannot be read: {refused.strerror}.") from refused
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise UsageError(f"{path} is not valid TOML: {broken}.") from broken
    return tuple(_target(name, table, path) for name, table in tables.items())


@functools.cache
def _adapter() -> pydantic.TypeAdapter[Target]:
    return pydantic.TypeAdapter(Target)


def _target(name: str, table: Any, path: Path) -> Target:
    """The checked target of one table of a file."""

    def wrong(key: str, problem: str) -> UsageError:
        return UsageError(f"{path}: target '{name}', '{key}': {problem}.")

    if not isinstance(table, dict):
        raise UsageError(f"{path}: '{name}' is no table. Write [{name}] and its keys below.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"{path}: '{name}' is no name: use letters, digits, '.', '_' and '-'.")
    for key in table:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            raise wrong(key, f"unknown key{f', did you mean {close[0]}' if close else ''}")
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
    if not table.get("precisions", True):
        raise wrong("precisions", "must name at least one precision")
    for precision in table.get("precisions", ()):
        if precision not in target.supported:
            known = ", ".join(target.supported)
            raise wrong("precisions", f"'{precision}' needs another device; this one has {known}")
    return target


def _check_gpu(gpu: Gpu, wrong: Callable[[str, str], UsageError]) -> None:
    for key in ("compute_units", "subgroup", "max_threads", "shared_bytes"):
        if getattr(gpu, key) < 1:
            raise wrong(f"gpu.{key}", "must be 1 or more")
    if (gpu.api == "cuda") != bool(re.fullmatch(r"sm_\d+a?", gpu.arch)):
        raise wrong("gpu.arch", "must be sm_ and a number for CUDA, and is left out for OpenCL")
