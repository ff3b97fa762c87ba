"""Putting a finished folder in place of another."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


def replace_folder(staging: Path, path: Path) -> None:
    """Put a finished folder in place; a reader sees the old one or the new one.

    Both must lie on the same file system. Raises OSError where that fails; the old one then stays.
    """
    staging.chmod(0o755)
    if not path.exists():
        staging.replace(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    path.replace(old / "was")
    staging.replace(path)
    shutil.rmtree(old, ignore_errors=True)
