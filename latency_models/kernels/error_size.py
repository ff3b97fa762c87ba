"""How large an error is to be expected, from errors on kernels that a model had not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.kernels.matern import Singles
from millifit.latency_models.prediction import Floats

_LEAST_ERROR = 1e-3  # of log seconds: below, an error is luck
_RIDGE = 0.02  # of the rows, as a penalty in units of the features' variance


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSize:
    """The logarithm of an error's size, linear in the features, within the range of what was seen.

    Sizes are relative to each other; a conformal half-width says what they are worth.
    """

    slope: Singles  # [features]
    middle: float
    least: float
    most: float

    def predict(self, x: Singles) -> Floats:
        """Sizes for features ``[n, features]``: ``[n]``, positive."""
        logarithms = (x @ self.slope).astype(np.float64) + self.middle
        sizes: Floats = np.exp(np.clip(logarithms, self.least, self.most))
        return sizes

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="size",
            facts={"middle": self.middle, "least": self.least, "most": self.most},
            arrays={"slope": self.slope},
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The size that `to_state` described."""
        return cls(
            slope=state.array("slope", ndim=1),
            middle=float(state.fact("middle")),
            least=float(state.fact("least")),
            most=float(state.fact("most")),
        )


def fit_error_size(x: Singles, errors: Floats) -> ErrorSize:
    """Learn from errors ``[n]`` on held-out rows ``[n, features]``, by ridge regression."""
    wide = x.astype(np.float64)
    middle, spread = wide.mean(axis=0), wide.std(axis=0)
    z = np.where(spread > 1e-6, (wide - middle) / np.maximum(spread, 1e-6), 0.0)
    size = np.log(np.abs(errors) + _LEAST_ERROR)
    gram = z.T @ z + _RIDGE * len(z) * np.eye(z.shape[1])
    per_spread = np.linalg.solve(gram, z.T @ (size - size.mean()))
    slope = np.where(spread > 1e-6, per_spread / np.maximum(spread, 1e-6), 0.0)
    logarithms = wide @ slope + (size.mean() - middle @ slope)
    least, most = np.quantile(logarithms, [0.02, 0.98])
    return ErrorSize(
        slope=slope.astype(np.float32),
        middle=float(size.mean() - middle @ slope),
        least=float(least),
        most=float(most),
    )
