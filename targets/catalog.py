"""Targets by name: the machine at hand, those that ship with millifit, and the user's own."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from millifit.errors import UnknownTarget, UsageError
from millifit.files import write_atomically
from millifit.targets import detect_gpu
from millifit.targets.detect import detect_local
from millifit.targets.target import Target
from millifit.targets.target_file import (
    Table,
    Tables,
    changed,
    checked_target,
    plain_table,
    read_tables,
    toml_of,
)

_SHIPPED = Path(__file__).with_name("catalog.toml")
_LOCAL = "local"


def default_user_file() -> Path:
    """Where the user's own targets are: $XDG_CONFIG_HOME/millifit/targets.toml."""
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "millifit" / "targets.toml"


def find_target(name: str, *, threads: int = 1, user_file: Path | None = None) -> Target:
    """The target of that name running `threads` threads.

    Raises UnknownTarget with the names there are, UsageError for more threads than cores or a
    user file that makes no sense, TargetError for a GPU that this machine has not.
    """
    if name == _LOCAL:
        return detect_local(threads=threads)
    if name in detect_gpu.NAMES:
        return detect_gpu.detect_gpu_target(name, threads=threads)
    targets = {target.name: target for target in _listed(user_file)}
    if name not in targets:
        raise _unknown(name, targets)
    target = targets[name]
    if not 1 <= threads <= target.cores:
        raise UsageError(f"{threads} threads on '{name}': choose 1 to {target.cores}, its cores.")
    return target.with_threads(threads)


def _unknown(name: str, targets: Mapping[str, Target]) -> UnknownTarget:
    known = [_LOCAL, *detect_gpu.NAMES, *targets]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return UnknownTarget(f"no target '{name}'.{hint} There are: {', '.join(known)}.")


def list_targets(user_file: Path | None = None) -> tuple[Target, ...]:
    """All targets: 'local' first, then those that ship, then the user's.

    This machine's GPUs are not among them: only their drivers know, see `detect_gpu.gpu_targets`.
    """
    return (detect_local(), *_listed(user_file))


def read_targets(path: Path) -> tuple[Target, ...]:
    """The targets of a file of the user's; UsageError naming the file and what is wrong with it."""
    shipped = _shipped()
    tables = read_tables(path, lambda name: _table(name, shipped))
    for name in tables:
        if name in (_LOCAL, *detect_gpu.NAMES, *shipped):
            raise UsageError(f"{path}: '{name}' is a name of millifit's own. Rename it.")
    return tuple(checked_target(name, table, path) for name, table in tables.items())


def like_target(
    like: str, name: str, changes: Mapping[str, str], user_file: Path | None = None
) -> Target:
    """A new target that is another one but for `changes`, given as text: ``{"cores": "6"}``.

    A key of the GPU is written ``gpu.compute_units``, a list ``+dotprod,+fullfp16``. Raises
    UsageError for a change that makes no sense.
    """
    base = find_target(like, user_file=user_file)
    table = changed(plain_table(base), {"source": f"like {like}", **_nested(changes)})
    if "precisions" not in changes:  # those that the changed device has
        table = {key: value for key, value in table.items() if key != "precisions"}
    return checked_target(name, table, "--set")


def _nested(changes: Mapping[str, str]) -> Table:
    table: dict[str, Any] = {}
    for key, text in changes.items():
        first, dot, rest = key.partition(".")
        if dot:
            table.setdefault(first, {})[rest] = _value(rest, text)
        else:
            table[first] = _value(first, text)
    return table


def _value(key: str, text: str) -> Any:
    """What a person wrote for a key: a number, a truth, a list, or the text itself."""
    if key in ("features", "precisions") and not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def add_target(target: Target, user_file: Path | None = None) -> None:
    """Append a target to the user's file. Raises UsageError if it is invalid or its name taken."""
    add_targets((target,), user_file)


def add_targets(new: Iterable[Target], user_file: Path | None = None) -> None:
    """Append targets to the user's file, all of them or, with UsageError, none."""
    path = user_file or default_user_file()
    taken = {_LOCAL, *detect_gpu.NAMES, *(known.name for known in _listed(path))}
    text = path.read_text(encoding="utf-8").rstrip() if path.exists() else ""
    for target in new:
        if target.name in taken:
            raise UsageError(f"{path}: a target '{target.name}' exists. Choose another name.")
        table = plain_table(target)
        checked_target(target.name, table, path)
        text = "\n\n".join(filter(None, (text, toml_of(target.name, table).rstrip())))
        taken.add(target.name)
    write_atomically(path, text + "\n")


def _listed(user_file: Path | None) -> tuple[Target, ...]:
    shipped = tuple(checked_target(name, table, _SHIPPED) for name, table in _shipped().items())
    path = user_file or default_user_file()
    return (*shipped, *(read_targets(path) if path.exists() else ()))


def _shipped() -> Tables:
    return read_tables(_SHIPPED, lambda _name: None)


def _table(name: str, shipped: Tables) -> Table | None:
    """The table of a target that is in no file of the user's."""
    if name in (_LOCAL, *detect_gpu.NAMES):
        return plain_table(find_target(name))
    return shipped.get(name)
