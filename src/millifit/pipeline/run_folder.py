"""A run folder: what a run has found so far, so that it can be killed and go on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millifit.errors import RunFolderError
from millifit.files import write_atomically

_IDENTITY = "identity.json"
# What a run writes before it has found anything, and what else it reads back.
_BEFORE_BASELINE = ("baseline.onnx", "input.npy", "baseline", "tuning.json")
_READ_BACK = (
    *_BEFORE_BASELINE,
    *("baseline.json", "int8.onnx", "sensitivity.json", "stages.json", "trials"),
    *("trials.jsonl", "finals.jsonl", "result.json"),
)


class RunFolder:
    """A folder that belongs to one run. Files in it are whole or absent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> Any:
        """The content of a JSON file, or None where it was not written yet."""
        file = self.path / name
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"'{file}' cannot be read ({error}). Remove it to have it made again."
            ) from error

    def write(self, name: str, value: object) -> Path:
        """Write a JSON file, atomically."""
        return write_atomically(self.path / name, json.dumps(value, indent=1) + "\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The records appended to a file; a last one that was cut off by a crash is left out."""
        file = self.path / name
        if not file.exists():
            return []
        try:
            content = file.read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"'{file}' cannot be read ({error}). Remove it to have it made again."
            ) from error
        records = []
        for line in content.splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a record to a file, durably. Raises RunFolderError where that is impossible."""
        whole = [*self.lines(name), dict(record)]
        write_atomically(self.path / name, "".join(json.dumps(each) + "\n" for each in whole))


@contextmanager
def open_run(path: Path, identity: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Open the folder of a run, new or interrupted, for this process alone.

    `identity` is all that decides the outcome. Raises RunFolderError where the folder cannot be
    written, is in use, or holds a run of another identity.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"cannot write the run folder '{path}': {error.strerror}. Choose another with --run."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"run folder '{path}' is in use by another run. Wait for it, or choose another "
                "with --run."
            ) from error
        folder = RunFolder(path)
        held = folder.read(_IDENTITY)
        wanted = json.loads(json.dumps(identity))
        if held is None:
            foreign = [name for name in _READ_BACK if (path / name).exists()]
            if foreign:
                raise RunFolderError(
                    f"folder '{path}' has a '{foreign[0]}' that no run made. Choose another with "
                    "--run."
                )
            folder.write(_IDENTITY, wanted)
        elif held != wanted and not (path / "baseline.json").exists():
            # Nothing was found yet: a model or data that were refused have been mended.
            for name in _BEFORE_BASELINE:
                _remove(path / name)
            folder.write(_IDENTITY, wanted)
        elif held != wanted:
            known = held if isinstance(held, dict) else {}
            keys = sorted(set(known) | set(wanted))
            changed = ", ".join(key for key in keys if known.get(key) != wanted.get(key))
            raise RunFolderError(
                f"run folder '{path}' holds another run (different: {changed}). "
                "Choose another with --run, or remove it."
            )
        yield folder
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
