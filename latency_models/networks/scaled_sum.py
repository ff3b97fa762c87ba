"""From kernels to whole networks: a sum, scaled by what measured networks taught.

``network = scale * (sum of kernels) + calls * call_s``: in a network a kernel finds other data in
the caches than when timed alone, and every call costs something. Both unknowns start from a prior
and are updated with every network that was measured (Bayesian linear regression).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from millifit.errors import MeasurementError
from millifit.latency_models.prediction import Floats, Prediction
from millifit.targets.timing import Failed

# Errors of kernels that one model predicted go the same way to this extent.
_SHARED_ERROR = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkObservation:
    """A network that was measured: what its kernels added up to, and what it took."""

    kernels_s: float
    kernels_sd_s: float
    calls: int
    measured_s: float

    def __post_init__(self) -> None:
        seconds = (self.kernels_s, self.measured_s)
        if not all(math.isfinite(s) and s > 0 for s in seconds) or self.calls < 1:
            raise ValueError(f"needs positive seconds and calls, got {seconds} and {self.calls}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkModel:
    """What is believed of scale and seconds per call; a value that `updated` replaces.

    The prior: a network takes what its kernels take, give or take 15 %, and a call costs 0.2 us,
    give or take as much. `network_sd` is how far one network's ratio strays from another's.
    """

    scale: float = 1.0
    call_s: float = 0.2e-6
    # of (scale, call_s): variance, covariance, variance
    covariance: tuple[float, float, float] = (0.15**2, 0.0, 0.2e-6**2)
    network_sd: float = 0.02

    def predict(self, prices: Sequence[Prediction | Failed]) -> Prediction:
        """The whole network's seconds from the price of every call, equal kernels repeated.

        The interval holds the kernels' uncertainty, the residual's, and what networks differ by.
        Raises MeasurementError where a kernel has no price.
        """
        total_s, total_sd_s = sum_of_kernels(prices)
        made = [price for price in prices if isinstance(price, Prediction)]
        h = np.array([total_s, len(made)])
        middle = float(h @ self._mean())
        variance = float(h @ self._covariance() @ h)
        variance += (self.scale * total_sd_s) ** 2 + (self.network_sd * middle) ** 2
        spread = math.exp(1.96 * math.sqrt(variance) / middle)
        return Prediction(
            median_s=middle,
            low_s=middle / spread,
            high_s=middle * spread,
            origin="unknown" if any(p.origin == "unknown" for p in made) else "predicted",
            extrapolated=any(p.extrapolated for p in made),
        )

    def updated(self, observation: NetworkObservation) -> Self:
        """The model after a network was measured (one step of a Kalman filter)."""
        mean, covariance = self._mean(), self._covariance()
        h = np.array([observation.kernels_s, float(observation.calls)])
        noise = (self.network_sd * observation.measured_s) ** 2
        noise += (self.scale * observation.kernels_sd_s) ** 2
        gain = covariance @ h / (h @ covariance @ h + noise)
        moved = mean + gain * (observation.measured_s - h @ mean)
        left = covariance - np.outer(gain, h @ covariance)
        return dataclasses.replace(
            self,
            scale=float(moved[0]),
            call_s=max(0.0, float(moved[1])),
            covariance=(float(left[0, 0]), float(left[0, 1]), float(left[1, 1])),
        )

    def _mean(self) -> Floats:
        return np.array([self.scale, self.call_s])

    def _covariance(self) -> Floats:
        scale, both, call = self.covariance
        return np.array([[scale, both], [both, call]])


def observe(prices: Sequence[Prediction | Failed], measured_s: float) -> NetworkObservation:
    """A measured network, with the price of every one of its calls."""
    total_s, total_sd_s = sum_of_kernels(prices)
    return NetworkObservation(
        kernels_s=total_s, kernels_sd_s=total_sd_s, calls=len(prices), measured_s=measured_s
    )


def sum_of_kernels(prices: Sequence[Prediction | Failed]) -> tuple[float, float]:
    """The sum of all prices and its standard deviation, in seconds.

    Raises MeasurementError naming the reason where a kernel has no price, and for no kernels.
    """
    made = []
    for price in prices:
        if isinstance(price, Failed):
            raise MeasurementError(
                f"a kernel of the network has no latency on this target: {price.reason}. "
                "Choose another precision or width for its layer, or measure again."
            )
        made.append(price)
    if not made:
        raise MeasurementError("a network without kernels has no latency.")
    deviations = np.array([p.standard_deviation_s for p in made])
    predicted = np.array([p.origin != "measured" for p in made])
    # Samples of different kernels are independent; mistakes of one model are not.
    variance = float(np.sum(deviations**2))
    shared = deviations[predicted]
    variance += _SHARED_ERROR * (float(shared.sum()) ** 2 - float(np.sum(shared**2)))
    return float(sum(p.median_s for p in made)), math.sqrt(variance)
