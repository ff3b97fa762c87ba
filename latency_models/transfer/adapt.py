"""A new device's latency model from a handful of measurements, given other devices' profiles.

Devices of one family spend their time alike: seconds are close to those of a relative, times a
speed, plus small changes of what each feature costs. So the seconds of the new device are linear in

    the relatives' own predictions, a constant, and the features of the subject,

with a prior that is a mixture: "like this relative", for each of them and for their mean, and
closely or loosely so. Ten measurements weigh the hypotheses by their evidence
(`transfer_posterior`), and nothing has to choose one. How loosely a device may resemble its
relatives is learnt from them: their own differences make the covariance, and predicting each from
ten of its samples and the others' profiles sets the width of the intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.model import LatencyModel
from millifit.latency_models.prediction import ORIGINS, Floats, Predictions
from millifit.latency_models.transfer.basis import Basis, Source, Subjects, fit_basis
from millifit.latency_models.transfer.calibration import interval_width
from millifit.latency_models.transfer.posterior import (
    MixturePrior,
    Posterior,
    estimate,
    posterior,
    relatives_prior,
)

_MOST = 200
_UNKNOWN_HALF_WIDTH = float(np.log(10.0))

Batch = TypeVar("Batch", bound=Subjects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relatives(Generic[Batch]):
    """What some devices' profiles say about a device that is not among them."""

    basis: Basis[Batch]
    prior: MixturePrior
    width: float

    def adapt(self, batch: Batch, seconds: Floats) -> TransferModel[Batch]:
        """The model of a new device of which some subjects took `seconds` ``[n]``.

        Ten are enough where one of the relatives is near; meant for up to 200, beyond which a
        model of the device's own is better. Raises ValueError for none, for more, or for seconds
        that are not positive.
        """
        seconds = np.asarray(seconds, np.float64)
        if not 1 <= len(seconds) <= _MOST or len(batch) != len(seconds):
            raise ValueError(
                f"needs 1 to {_MOST} measurements and their subjects, got {len(seconds)} and "
                f"{len(batch)}"
            )
        if not np.all(seconds > 0) or not np.all(np.isfinite(seconds)):
            raise ValueError("seconds must be positive and finite")
        return TransferModel(
            basis=self.basis,
            learnt=posterior(self.basis.evaluate(batch).columns, seconds, self.prior),
            width=self.width,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferModel(Generic[Batch]):
    """A device's seconds as its relatives' predictions, a constant and its features' own costs."""

    basis: Basis[Batch]
    learnt: Posterior
    width: float

    def predict(self, batch: Batch) -> Predictions:
        """A prediction for each subject, with its 95 % interval.

        ``unknown`` is what every relative calls so; ``extrapolated`` is what lies outside of all
        that the relatives measured: its interval grows with the distance.
        """
        evaluated = self.basis.evaluate(batch)
        seconds, scale = estimate(evaluated.columns, self.learnt)
        half = self.width * scale * (1.0 + evaluated.outside)
        unknown = evaluated.unknown
        return Predictions.around(
            np.log(seconds),
            np.where(unknown, np.maximum(half, _UNKNOWN_HALF_WIDTH), half),
            origin=np.where(unknown, ORIGINS.index("unknown"), ORIGINS.index("predicted")).astype(
                np.uint8
            ),
            extrapolated=unknown | (evaluated.outside > 0),
        )

    @property
    def likeness(self) -> dict[str, float]:
        """How much of the belief says "like this device", for each of the relatives' devices; the
        rest of 1 is on "like their mean".
        """
        shares: dict[str, float] = {}
        for device, share in zip(self.basis.devices, self.learnt.weights, strict=False):
            shares[device] = shares.get(device, 0.0) + float(share)
        return shares

    def to_state(self) -> State:
        """Plain arrays, the relatives' models as parts; `from_state` is the inverse."""
        learnt = self.learnt
        return State(
            kind="transfer",
            facts={"width": self.width, "noise_variance": learnt.noise_variance},
            arrays={
                "coefficients": learnt.coefficients,
                "covariance": learnt.covariance,
                "centre": learnt.centre,
                "weights": learnt.weights,
            },
            parts={"basis": self.basis.to_state()},
        )

    @classmethod
    def from_state(
        cls,
        state: State,
        *,
        features: Callable[[Batch], Floats],
        read_model: Callable[[State], LatencyModel[Batch]],
    ) -> Self:
        """The model that `to_state` described.

        `features` is what it was fitted with; `read_model` makes a relative's model of its state
        (``CostSurface.from_state`` for architectures).
        """
        return cls(
            basis=Basis.from_state(state.part("basis"), features=features, read_model=read_model),
            learnt=Posterior(
                coefficients=state.array("coefficients", ndim=1),
                covariance=state.array("covariance", ndim=2),
                centre=state.array("centre", ndim=1),
                noise_variance=float(state.fact("noise_variance")),
                weights=state.array("weights", ndim=1),
            ),
            width=float(state.fact("width")),
        )


def fit_relatives(
    sources: Sequence[Source[Batch]], *, features: Callable[[Batch], Floats], seed: int
) -> Relatives[Batch]:
    """What is common to some devices, to be adapted to new ones.

    `features` gives ``[n, f]`` numbers of a batch, to which a new device may attach costs that its
    relatives do not explain. Profiles may be of different subjects, of 20 or more each. Raises
    ValueError for no sources.
    """
    rng = np.random.default_rng(seed)
    basis, reference = fit_basis(sources, features, rng)
    return Relatives(
        basis=basis,
        prior=relatives_prior(reference, len(sources)),
        width=interval_width(basis, sources, reference, rng),
    )


def fit_transfer_model(
    batch: Batch,
    seconds: Floats,
    *,
    sources: Sequence[Source[Batch]],
    features: Callable[[Batch], Floats],
    seed: int,
) -> TransferModel[Batch]:
    """The model of a new device from a few measurements and other devices' profiles.

    `fit_relatives` with `Relatives.adapt`; see there.
    """
    return fit_relatives(sources, features=features, seed=seed).adapt(batch, seconds)
