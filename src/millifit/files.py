"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from millifit.errors import RunFolderError


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write `content` to `path`: a reader, a crash or a full disk never sees half a file.

    The folder is created where it is missing. Raises RunFolderError when the disk is full or the
    place cannot be written; what stood at `path` before is then untouched.
    """
    raw = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunFolderError(
            f"cannot write '{path}': {error.strerror or error}. Free some space, or name a folder "
            "that you may write to."
        ) from error
    except BaseException:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder within `folder`, to make things in that are then moved into place.

    It is gone afterwards, and so is `folder` where it was made for it and holds nothing. Raises
    RunFolderError where nothing can be written.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
    except OSError as error:
        raise RunFolderError(
            f"cannot write into '{folder}': {error.strerror}. Name a folder that you may write to."
        ) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
