"""Reading a table of someone else's, and naming what is wrong with it by column and row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_PARQUET = b"PAR1"
_TEXTS = (".csv", ".tsv", ".txt")


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file as columns; texts are plain objects.

    Raises DataError for a file that is neither, is damaged, or has no rows.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        with path.open("rb") as stream:
            is_parquet = stream.read(4) == _PARQUET
        if is_parquet:
            table = pd.read_parquet(path)
        elif path.suffix.lower() in _TEXTS:
            table = pd.read_csv(path, sep=_separator(path), skipinitialspace=True)
        else:
            raise DataError(
                f"'{path}' is neither Parquet nor named .csv or .tsv. Export the table as one of "
                "these."
            )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"'{path}' is empty. Export it again.") from error
    except (OSError, ValueError, pd.errors.ParserError, pa.ArrowException) as error:
        said = str(error).rstrip(".")
        said = str(error).rstrip(".")
        raise DataError(
            f"cannot read '{path}': {said}. It may be cut off: get it again."
        ) from error
    if table.empty:
        raise DataError(f"'{path}' has no rows. Export it again.")
    texts = table.select_dtypes("category").columns
    return table.astype(dict.fromkeys(texts, object))


def _separator(path: Path) -> str:
    """The one that the first line has most of."""
    with path.open(encoding="utf-8") as stream:
        first = stream.readline()
    return max(",;\t", key=first.count)


def texts(table: pd.DataFrame, name: str) -> list[str]:
    """A column as texts, nothing where it has none."""
    column = table[name]
    return [
        "" if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)
    ]


def whole_numbers(table: pd.DataFrame, name: str, default: int | None = None) -> list[int]:
    """A column of positive whole numbers; `default` where one is missing.

    Raises ValueError naming the column and the row.
    """
    import pandas as pd

    values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    missing = table[name].isna().to_numpy()
    if default is not None:
        values = np.where(missing, default, values)
    with np.errstate(invalid="ignore"):
        wrong = ~(values == np.floor(values)) | (values < 1)
    if default is not None:
        wrong &= ~missing
    _refuse(table, name, wrong, "a positive whole number")
    found: list[int] = values.astype(np.int64).tolist()
    return found


def numbers(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """A column of numbers, NaN where there is none. Raises ValueError naming the row of a text."""
    import pandas as pd

    values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    _refuse(table, name, np.isnan(values) & ~table[name].isna().to_numpy(), "a number")
    return values


def _refuse(table: pd.DataFrame, name: str, wrong: npt.NDArray[np.bool_], wanted: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        more = f" ({int(wrong.sum())} rows are wrong)" if wrong.sum() > 1 else ""
        raise ValueError(
            f"column '{name}', row {row + 1}: it should be {wanted}, got "
            f"'{table[name].iloc[row]}'{more}"
        )
