"""Once-for-all networks, in the order and the splits of the protocol."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.latency_tables.baselines import Floats
from benchmarks.latency_tables.tables import read

Rows = npt.NDArray[np.intp]

TRAIN, TEST = 900, 2500
_KERNELS, _EXPANSIONS, _DEEPEST = (3, 5, 7), (3, 4, 6), 4


def settings() -> dict[str, pd.DataFrame]:
    """The rows of every setting in the order of the architectures."""
    rows = read("ofa_latency").sort_values(["source_key", "arch_index"])
    return {str(key): of.reset_index(drop=True) for key, of in rows.groupby("source_key")}


def split(n: int, *, train: int = TRAIN) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to test on."""
    order = np.random.RandomState(0).permutation(n)
    return order[:train], order[-TEST:]


def one_hot(architectures: pd.Series) -> Floats:
    """Kernel and expansion of every live block, plain and times the area of the input."""
    return np.array([_row(text) for text in architectures], float)


def _row(text: str) -> list[float]:
    parts = {
        name: [int(value) for value in values.split(",")]
        for name, values in (part.split("=") for part in text.split(";"))
    }
    live = [block < depth for depth in parts["d"] for block in range(_DEEPEST)]
    cell = [
        float(k == kernel and e == expansion and on)
        for k, e, on in zip(parts["ks"], parts["e"], live, strict=True)
        for kernel in _KERNELS
        for expansion in _EXPANSIONS
    ]
    area = parts["r"][0] ** 2 / 224**2
    return cell + [area] + [area * each for each in cell]
