"""The V100's convolutions, in the order and the splits of the protocol."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.latency_tables.baselines import Floats
from benchmarks.latency_tables.tables import read

Rows = npt.NDArray[np.intp]

KEY = [
    "op_type", "batch", "in_ch", "in_h", "in_w", "out_ch", "kernel_hw", "stride",
    "elementwise_fused",
]  # fmt: skip
TRAIN, TEST = 10_000, 8_000


def precisions() -> dict[str, pd.DataFrame]:
    """The convolutions that ran, by precision, in ascending order of their configuration."""
    table = read("v100_conv").query("status == 'ok'")
    return {
        str(name): rows.sort_values(KEY).reset_index(drop=True)
        for name, rows in table.groupby("precision")
    }


def split(n: int, *, train: int = TRAIN) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to test on."""
    order = np.random.RandomState(0).permutation(n)
    return order[:train], order[-TEST:]


def baseline_features(rows: pd.DataFrame) -> Floats:
    """The features of the plain trees."""
    numbers = rows[KEY[1:]].to_numpy(float)
    b, ci, h, w, co, k, s = numbers[:, :7].T
    per_group = np.where(rows.op_type == "depthwise_conv_2d", 1, co)
    flops = b * ci * (h / s) * (w / s) * per_group * k * k
    size = b * (ci * h * w + co * (h / s) * (w / s))
    made = (np.log(flops), np.log(size), np.log(flops / size), np.log(ci * per_group * k * k))
    return np.column_stack([numbers, per_group == 1, *made])
