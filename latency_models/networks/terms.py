"""The terms of a network's overhead: what two networks must share to err alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from millifit.latency_models.archive import State
from millifit.latency_models.familiarity import Familiarity
from millifit.latency_models.networks.gaussian_process import squared_exponential
from millifit.latency_models.networks.sums import NetworkSums
from millifit.latency_models.prediction import Floats

# Lengths of the smooth function, in standard deviations of the measured networks' features.
_LENGTHS = (1.0, 3.0)
_SMALLEST_DEVIATION = 0.3
# The middle of the networks where none was measured: 50 calls of 100 us.
_MIDDLE = (np.log(50.0), np.log(1e-4))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coordinates:
    """What the terms see of n networks."""

    overhead: Floats  # [n] calls over seconds, about 1 for a network in the middle
    shares: Floats  # [n, families] of seconds
    overheads: Floats  # [n, families] each family's part of `overhead`
    unfamiliar: Floats  # [n] share of seconds of families that no measured network has
    place: Floats  # [n, 2] logarithms of calls and of seconds per call, standardised

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        names = ("overhead", "shares", "overheads", "unfamiliar", "place")
        return State(kind="coordinates", arrays={name: getattr(self, name) for name in names})

    @classmethod
    def from_state(cls, state: State) -> Coordinates:
        """The coordinates that `to_state` described."""
        return cls(
            overhead=state.array("overhead", ndim=1),
            shares=state.array("shares", ndim=2),
            overheads=state.array("overheads", ndim=2),
            unfamiliar=state.array("unfamiliar", ndim=1),
            place=state.array("place", ndim=2),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Terms:
    """Six terms, each a covariance of networks: a scale, overhead of calls, the scale and the
    overhead of each family, and a smooth function's two parts.
    """

    families: tuple[str, ...]
    middle: Floats  # of the logarithms of calls and of seconds per call, [2]
    deviation: Floats  # [2]
    familiarity: Familiarity

    @classmethod
    def of(cls, sums: NetworkSums, *, families: Sequence[str]) -> Terms:
        """The terms for networks like these."""
        place = _place(sums)
        middle, deviation = np.array(_MIDDLE), np.ones(2)
        if len(place):
            middle = np.median(place, axis=0)
            deviation = np.maximum(place.std(axis=0), _SMALLEST_DEVIATION)
        standard = (place - middle) / deviation
        return cls(
            families=tuple(families),
            middle=middle,
            deviation=deviation,
            familiarity=Familiarity.of(standard if len(standard) else np.zeros((1, 2))),
        )

    def coordinates(self, sums: NetworkSums) -> Coordinates:
        """What the terms see of networks."""
        relative = np.exp(self.middle[1] - sums.log_seconds_per_call)
        # A call's overhead is added to its seconds, but the process is of logarithms.
        overhead = np.log1p(relative) / np.log(2)
        return Coordinates(
            overhead=overhead,
            shares=sums.seconds_shares,
            overheads=sums.calls_shares * overhead[:, None],
            unfamiliar=np.maximum(0.0, 1 - sums.seconds_shares.sum(axis=1)),
            place=(_place(sums) - self.middle) / self.deviation,
        )

    def parts(self, a: Coordinates, b: Coordinates) -> Floats:
        """The covariance of every term at variance 1: ``[6, len(a), len(b)]``."""
        return np.stack(
            [
                np.ones((len(a.overhead), len(b.overhead))),
                np.outer(a.overhead, b.overhead),
                a.shares @ b.shares.T,
                a.overheads @ b.overheads.T,
                *(squared_exponential(a.place, b.place, length=each) for each in _LENGTHS),
            ]
        )

    def covariance(self, a: Coordinates, b: Coordinates, variances: Floats) -> Floats:
        """``[len(a), len(b)]``, given the variance of every term."""
        covariance: Floats = np.tensordot(variances, self.parts(a, b), axes=1)
        return covariance

    def variance(self, a: Coordinates, variances: Floats) -> Floats:
        """Of each network by itself, ``[len(a)]``."""
        ones = np.ones(len(a.overhead))
        shares = (a.shares**2).sum(axis=1) + a.unfamiliar**2
        own = [ones, a.overhead**2, shares, (a.overheads**2).sum(axis=1), ones, ones]
        variance: Floats = variances @ np.stack(own)
        return variance

    def outside(self, a: Coordinates) -> Floats:
        """How far networks are from all that were measured, in standard deviations ``[len(a)]``;
        a share of families that none of them has counts tenfold.
        """
        return np.maximum(self.familiarity.outside(a.place), 10 * a.unfamiliar)

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="network terms",
            facts={"families": list(self.families)},
            arrays={"middle": self.middle, "deviation": self.deviation},
            parts={"familiarity": self.familiarity.to_state()},
        )

    @classmethod
    def from_state(cls, state: State) -> Terms:
        """The terms that `to_state` described."""
        return cls(
            families=tuple(str(family) for family in state.fact("families")),
            middle=state.array("middle", ndim=1),
            deviation=state.array("deviation", ndim=1),
            familiarity=Familiarity.from_state(state.part("familiarity")),
        )


def _place(sums: NetworkSums) -> Floats:
    return np.stack([np.log(sums.calls), sums.log_seconds_per_call], axis=1)
