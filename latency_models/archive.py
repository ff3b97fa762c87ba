"""Fitted models as files: plain arrays and JSON in one .npz, so that loading one runs no code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.files import write_atomically

Array = npt.NDArray[Any]

_FORMAT = "millifit latency model"
_VERSION = 1
_HEADER = "header"
_LARGEST_BYTES = 2**30
_AGAIN = "Save the model again with this millifit."


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a model has learnt: JSON values, arrays of numbers, and the states of its parts.

    `kind` names the type of model it is of.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    parts: Mapping[str, State] = field(default_factory=dict)

    def array(self, name: str, *, ndim: int | None = None) -> Array:
        """One array, with so many dimensions; DataError naming it where it is not so."""
        found = self.arrays.get(name)
        if found is None:
            raise DataError(f"the saved {self.kind} has no '{name}'. {_AGAIN}")
        if ndim is not None and found.ndim != ndim:
            raise DataError(
                f"'{name}' of the saved {self.kind} has {found.ndim} dimensions, not {ndim}. "
                f"{_AGAIN}"
            )
        return found

    def fact(self, name: str) -> Any:
        """One JSON value; DataError naming it where it is missing."""
        if name not in self.facts:
            raise DataError(f"the saved {self.kind} has no '{name}'. {_AGAIN}")
        return self.facts[name]

    def part(self, name: str, *, kind: str | None = None) -> State:
        """The state of one part, of that kind; DataError where it is not so."""
        found = self.parts.get(name)
        if found is None or (kind is not None and found.kind != kind):
            raise DataError(f"the saved {self.kind} has no {kind or 'part'} '{name}'. {_AGAIN}")
        return found


def write_state(state: State, path: Path) -> None:
    """Write a state to `path`, whole or not at all. ValueError for arrays that hold objects."""
    arrays: dict[str, Array] = {}
    header = {"format": _FORMAT, "version": _VERSION, "state": _flattened(state, arrays)}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{_HEADER: text}, **arrays)  # type: ignore[arg-type]  # stubs
    write_atomically(path, buffer.getvalue())


def read_state(path: Path) -> State:
    """The state in a file that `write_state` wrote.

    Nothing in the file is executed. Raises DataError where it is no such file, damaged, written by
    a newer version, or would unpack to more than 1 GiB.
    """
    try:
        with zipfile.ZipFile(path) as members:
            unpacked = sum(member.file_size for member in members.infolist())
        if unpacked > _LARGEST_BYTES:
            raise DataError(f"'{path}' would unpack to {unpacked / 2**30:.1f} GiB. {_AGAIN}")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
        _check_version(path, header)
        return _nested(header["state"], arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' is no saved latency model: {error}. {_AGAIN}") from error


def _check_version(path: Path, header: Mapping[str, Any]) -> None:
    if header["format"] != _FORMAT:
        raise ValueError("it is of another format")
    if header["version"] > _VERSION:
        raise DataError(
            f"'{path}' was written by a newer millifit (version {header['version']}, this one "
            f"reads up to {_VERSION}). Upgrade millifit, or save the model again."
        )


def _flattened(state: State, arrays: dict[str, Array]) -> dict[str, Any]:
    """The state as JSON, its arrays put into `arrays` under the numbers that stand for them."""
    names = {}
    for name, array in state.arrays.items():
        value = np.asarray(array)
        if value.dtype.hasobject:
            raise ValueError(f"'{name}' of {state.kind} holds objects, not numbers")
        names[name] = f"a{len(arrays)}"
        arrays[names[name]] = value
    parts = {name: _flattened(part, arrays) for name, part in state.parts.items()}
    return {"kind": state.kind, "facts": dict(state.facts), "arrays": names, "parts": parts}


def _nested(plain: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    return State(
        kind=str(plain["kind"]),
        facts=dict(plain["facts"]),
        arrays={name: arrays[number] for name, number in plain["arrays"].items()},
        parts={name: _nested(part, arrays) for name, part in plain["parts"].items()},
    )
