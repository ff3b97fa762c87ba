"""The mobile GPUs' operators and networks, in the order and the splits of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.latency_tables.baselines import Floats
from benchmarks.latency_tables.tables import read

Rows = npt.NDArray[np.intp]

KEY = [
    "op_type", "batch", "in_hw", "in_ch", "out_hw", "out_ch", "kernel_hw", "stride", "groups",
    "n_inputs",
]  # fmt: skip
_TRAIN = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """One device: every operator of every network, and what each network takes as a whole."""

    name: str
    operators: pd.DataFrame  # a row per operator, by network and position
    networks: pd.DataFrame  # a row per network, by name

    @property
    def configurations(self) -> pd.DataFrame:
        """The different operators in ascending order of their key, with their median latency."""
        groups = self.operators.groupby(KEY, dropna=False)
        return groups.agg(
            {"flops": "first", "precision": "first", "latency_s": "median"}
        ).reset_index()


def phones() -> list[Phone]:
    """Every device of the two files."""
    operators, networks = read("mobile_gpu_ops"), read("mobile_e2e_cnns")
    networks = networks[networks.delegate == "gpu"]
    return [
        Phone(
            name=str(name),
            operators=rows.sort_values(["network", "op_index"]).reset_index(drop=True),
            networks=networks[networks.device == name]
            .sort_values("network")
            .reset_index(drop=True),
        )
        for name, rows in operators.groupby("device")
    ]


def split(n: int) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to test on."""
    order = np.random.RandomState(0).permutation(n)
    return order[: int(_TRAIN * n)], order[int(_TRAIN * n) :]


def baseline_features(operators: pd.DataFrame) -> Floats:
    """The features of the plain trees."""
    numbers = operators[KEY[1:]].fillna(0).to_numpy(float)
    hw_in, c_in, hw_out, c_out, k, groups = numbers[:, [1, 2, 3, 4, 5, 7]].T
    size_in, size_out = hw_in**2 * c_in, hw_out**2 * c_out
    flops = operators["flops"].fillna(0).to_numpy(float)
    weights = k**2 * c_in * c_out / np.maximum(groups, 1)
    made = [size_in, size_out, weights, np.log1p(flops), np.log1p(size_in + size_out)]
    kinds = operators["op_type"].to_numpy()
    return np.hstack([numbers, np.stack(made, 1), kinds[:, None] == np.unique(kinds)])
