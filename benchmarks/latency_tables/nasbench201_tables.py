"""NAS-Bench-201 on many devices, in the order and the splits of the protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.latency_tables.baselines import Floats, ridge
from benchmarks.latency_tables.tables import read

Rows = npt.NDArray[np.intp]

_OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_EDGES = 6
_SHORTEST_S = 0.5e-3
_TRAIN = 900
_DRAWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One device with one batch size: seconds of every architecture, by its number."""

    key: str
    device: str
    device_class: str
    latency_s: Floats
    resolution_s: float | None  # of the timer, where values are rounded

    @property
    def usable(self) -> Rows:
        """The architectures that take long enough to be architectures at all."""
        return np.flatnonzero(self.latency_s >= _SHORTEST_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The architectures, and what they take in every setting."""

    architectures: tuple[str, ...]
    settings: Mapping[str, Setting]

    @property
    def operators(self) -> npt.NDArray[np.intp]:
        """The number of the operator on every edge: ``[architectures, 6]``."""
        found = [
            [_OPERATORS.index(name) for name in re.findall(r"(\w+)~\d", text)]
            for text in self.architectures
        ]
        return np.array(found, np.intp)

    def others(self, key: str) -> dict[str, Setting]:
        """The settings of every other device than that of `key`."""
        device = self.settings[key].device
        return {name: each for name, each in self.settings.items() if each.device != device}


def table() -> Table:
    """The whole table."""
    rows = read("nasbench201_latency").sort_values(["source_key", "arch_index"])
    settings = {str(key): _setting(str(key), of) for key, of in rows.groupby("source_key")}
    names = rows.groupby("arch_index").arch.first()
    return Table(architectures=tuple(names), settings=settings)


def _setting(key: str, rows: pd.DataFrame) -> Setting:
    first = rows.iloc[0]
    resolution = first.latency_resolution_s
    return Setting(
        key=key,
        device=str(first.device),
        device_class=str(first.device_class),
        latency_s=rows.latency_s.to_numpy(float),
        resolution_s=None if pd.isna(resolution) else float(resolution),
    )


def split(n: int, *, train: int = _TRAIN, seed: int = 0) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to test on."""
    order = np.random.RandomState(seed).permutation(n)
    return order[:train], order[train:]


def draws() -> range:
    """The seeds of the draws of ten samples."""
    return range(_DRAWS)


def one_hot(operators: npt.NDArray[np.intp]) -> Floats:
    """Operators ``[n, 6]`` as ``[n, 30]``."""
    chosen = operators[:, :, None] == np.arange(len(_OPERATORS))
    return chosen.astype(float).reshape(len(operators), _EDGES * len(_OPERATORS))


def proxies(found: Table) -> dict[str, Floats]:
    """What a ridge on 900 architectures makes of every setting: log milliseconds, standardised."""
    edges, order = one_hot(found.operators), split(len(found.architectures))[0]
    made = {}
    for key, setting in found.settings.items():
        latency_ms = setting.latency_s * 1e3
        logs = np.log(np.maximum(ridge(edges[order], latency_ms[order], edges), 0.5))
        made[key] = (logs - logs.mean()) / logs.std()
    return made
