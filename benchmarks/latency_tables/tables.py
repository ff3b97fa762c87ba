"""Where the measured tables are, and how they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

_ROOT = Path(__file__).resolve().parent.parent.parent


def table_folder() -> Path | None:
    """MILLIFIT_DEVICE_DATA, or ../shared/device_data; None where absent."""
    default = _ROOT.parent / "shared" / "device_data"
    folder = Path(os.environ.get("MILLIFIT_DEVICE_DATA", default))
    return folder if folder.is_dir() else None


def read(name: str) -> pd.DataFrame:
    """One table, its text columns as plain text. FileNotFoundError where it is absent."""
    folder = table_folder()
    if folder is None:
        raise FileNotFoundError("no measured tables at hand: set MILLIFIT_DEVICE_DATA")
    table = pd.read_parquet(folder / f"{name}.parquet")
    return table.astype(dict.fromkeys(table.select_dtypes("category"), object))
