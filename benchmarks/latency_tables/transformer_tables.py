"""Transformers of hardware-aware search, in the order and the splits of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.latency_tables.baselines import Floats
from benchmarks.latency_tables.tables import read

Rows = npt.NDArray[np.intp]

TRAIN, _TEST_FROM = 1800, 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One task on one device: the architectures in the order they were measured in."""

    device: str
    task: str
    names: tuple[str, ...]
    features: Floats  # [architectures, names]
    latency_s: Floats  # encoder and decoder together


def translations() -> list[Translation]:
    """Every device and task of the file."""
    rows = read("hat_transformers").sort_values(["arch_index", "part"])
    names = tuple(c for c in rows if c.startswith(("encoder_", "decoder_")))
    made = []
    for (device, task), of in rows.groupby(["device", "task"]):
        groups = of.groupby("arch_index")
        made.append(
            Translation(
                device=str(device),
                task=str(task),
                names=names,
                features=groups[list(names)].first().to_numpy(float),
                latency_s=groups.latency_s.sum().to_numpy(),
            )
        )
    return made


def split(n: int, *, train: int = TRAIN) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to test on."""
    order = np.random.RandomState(0).permutation(n)
    return order[:train], order[_TEST_FROM:]


def baseline_features(features: Floats) -> Floats:
    """The features of the plain trees: with products that stand for work."""
    f = features.T
    return np.column_stack([features, f[0] * f[1] * f[2], f[4] * f[5] * f[6], f[5] * f[8]])
