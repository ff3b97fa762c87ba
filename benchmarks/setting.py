"""Where and with what a benchmark ran: kept with every result."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from millifit.files import write_atomically
from millifit.targets.runner.environment import describe_environment

_ROOT = Path(__file__).resolve().parent.parent


def data_folder() -> Path | None:
    """The folder of real models and data: MILLIFIT_DATA, or ../shared/data; None where absent."""
    folder = Path(os.environ.get("MILLIFIT_DATA", _ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def setting(seed: int) -> dict[str, Any]:
    """Machine, versions, seed and commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - git of the PATH
        cwd=_ROOT, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "commit": commit, "seed": seed, "environment": describe_environment()}


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON where a path is given."""
    if path is not None:
        write_atomically(path, json.dumps(result, indent=1) + "\n")
        print(f"written: {path}")
