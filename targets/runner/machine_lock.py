"""One timing at a time on a machine: two runs that time at once would measure each other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from millifit.errors import MeasurementError


def lock_path() -> Path:
    """The file that stands for the machine: one per user, in the folder for temporary files."""
    return Path(tempfile.gettempdir()) / f"millifit-{os.getuid()}.lock"


@contextmanager
def exclusive(on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the machine while the body runs; `on_wait` is called once if another run holds it.

    The operating system lets go of the lock when the process ends, however it ends. Not reentrant:
    a process that holds the machine and asks again waits for itself.
    """
    path = lock_path()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise MeasurementError(
            f"cannot open '{path}', which keeps two timings apart: {error.strerror}. "
            "Remove the file, or set TMPDIR to a folder that you may write to."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # closing releases the lock
