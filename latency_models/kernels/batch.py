"""Kernels encoded once, so that models price them by the million."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from millifit.latency_models.kernels.columns import columns_of, family_of
from millifit.latency_models.kernels.coordinates import Coordinates, Hashes
from millifit.latency_models.kernels.features import features_of, terms_of
from millifit.latency_models.prediction import Flags, Floats
from millifit.targets.kernel import Kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBatch:
    """Some kernels, in order, as models see them.

    Row i is of the family ``names[family[i]]``, e.g. ``"conv2d fp32"``: of kernels that one
    regressor predicts.
    """

    features: npt.NDArray[np.float32]  # [n, FEATURES]
    terms: Floats  # [n, 8]: see `features.terms_of`
    names: tuple[str, ...]
    family: npt.NDArray[np.intp]  # [n]
    coordinates: Coordinates
    vector_lanes: int

    @classmethod
    def of(cls, kernels: Sequence[Kernel], *, vector_lanes: int = 8) -> Self:
        """Encode kernels; `vector_lanes` float32 values fit into a vector register of the device.

        Equal kernels that are one object are looked at once.
        """
        columns = columns_of(kernels)
        known: dict[int, str] = {}
        families = [known.get(id(k)) or known.setdefault(id(k), family_of(k)) for k in kernels]
        names = tuple(dict.fromkeys(families))
        number = {name: n for n, name in enumerate(names)}
        return cls(
            features=features_of(columns, vector_lanes=vector_lanes).astype(np.float32),
            terms=terms_of(columns),
            names=names,
            family=np.array([number[name] for name in families], np.intp),
            coordinates=Coordinates.of(kernels),
            vector_lanes=vector_lanes,
        )

    def __len__(self) -> int:
        return len(self.family)

    @property
    def identities(self) -> Hashes:
        """One number per kernel, equal for equal kernels, in any process: ``[n]``."""
        return self.coordinates.identities

    @property
    def work(self) -> Floats:
        """Multiply-adds, bytes moved, and ones: ``[n, 3]``."""
        return self.terms[:, :3]

    def take(self, rows: npt.NDArray[np.intp] | Flags) -> KernelBatch:
        """Some kernels, by number or by flag."""
        return KernelBatch(
            features=self.features[rows],
            terms=self.terms[rows],
            names=self.names,
            family=self.family[rows],
            coordinates=self.coordinates.take(rows),
            vector_lanes=self.vector_lanes,
        )

    def members(self) -> dict[str, npt.NDArray[np.intp]]:
        """The rows of every family that has any."""
        order = np.argsort(self.family, kind="stable")
        counts = np.bincount(self.family, minlength=len(self.names))
        parts = np.split(order, np.cumsum(counts)[:-1]) if len(self.names) else []
        return {name: part for name, part in zip(self.names, parts, strict=True) if part.size}
