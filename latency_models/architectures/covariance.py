"""Covariances of log seconds: how much two measurements have in common, and why.

What they share is a sum of terms. Those of the architectures: ``linear``, more or less cost of
what both contain; ``shape``, resemblance in all features. Those of the device's state, for
measurements whose place in the order of measuring is known: ``slow`` and ``quick``, states that
come and go within long and short stretches; ``cycle``, a state that returns, such as heat under a
thermostat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from millifit.latency_models.prediction import Floats

Term = Literal["linear", "shape", "slow", "quick", "cycle"]

ARCHITECTURE_TERMS: tuple[Term, ...] = ("linear", "shape")
STATE_TERMS: tuple[Term, ...] = ("slow", "quick", "cycle")

PARAMETERS: dict[Term, tuple[str, ...]] = {
    "linear": ("variance",),
    "shape": ("variance", "reach"),
    "slow": ("variance", "reach"),
    "quick": ("variance", "reach"),
    "cycle": ("variance", "period", "width", "reach"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Networks as the terms see them: features ``[n, f]``, relative costs ``[n, f + 1]`` and, where
    known, places in the order of measuring ``[n]``.
    """

    features: Floats
    relative: Floats
    order: Floats | None = None

    @classmethod
    def of(cls, x: Floats, seconds: Floats, *, reference_s: float, order: Floats | None) -> Self:
        """From standardised features ``[n, f]`` and the `seconds` ``[n]`` that they should cost.

        A cost in seconds is a share of its network's seconds, in units where `reference_s` has 1.
        """
        width = np.sqrt(x.shape[1])
        units = np.column_stack([np.ones(len(x)), x]) / width
        return cls(
            features=x / width, relative=units * (reference_s / seconds)[:, None], order=order
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What the terms need to know of pairs of measurements, each ``[n, m]``.

    `products` of relative costs, squared distances `apart` of features, and steps `between` them
    in the order of measuring (None: it is not known, or not to be used).
    """

    products: Floats
    apart: Floats
    between: Floats | None = None

    @classmethod
    def of(cls, one: Subjects, other: Subjects) -> Self:
        """Each of `one` with each of the `other`."""
        squares = (one.features**2).sum(axis=1)[:, None] + (other.features**2).sum(axis=1)
        between = None
        if one.order is not None and other.order is not None:
            between = np.abs(np.subtract.outer(one.order, other.order))
        return cls(
            products=one.relative @ other.relative.T,
            apart=np.maximum(squares - 2 * one.features @ other.features.T, 0.0),
            between=between,
        )

    @classmethod
    def with_itself(cls, subjects: Subjects) -> Self:
        """Each subject with itself only: ``[n]`` instead of ``[n, n]``."""
        zeros = np.zeros(len(subjects.features))
        return cls(products=(subjects.relative**2).sum(axis=1), apart=zeros, between=zeros)


def covariance(term: Term, logs: Sequence[float] | Floats, pairs: Pairs) -> Floats:
    """One term of the covariance ``[n, m]``; `logs` are logarithms of its `PARAMETERS`."""
    values = np.exp(np.asarray(logs, np.float64))
    found: Floats
    match term:
        case "linear":
            found = values[0] * pairs.products
        case "shape":
            found = values[0] * np.exp(-pairs.apart / values[1])
        case "slow" | "quick":
            found = values[0] * np.exp(-_between(pairs) / values[1])
        case "cycle":
            # Periodic kernel times an exponential one: the cycle may lose its phase.
            phase = np.sin(np.pi * _between(pairs) / values[1]) / values[2]
            found = values[0] * np.exp(-2 * phase**2 - _between(pairs) / values[3])
    return found


def slopes(term: Term, logs: Sequence[float] | Floats, pairs: Pairs, value: Floats) -> list[Floats]:
    """Derivatives of a term to the logarithm of each of its parameters, given its `value`."""
    values = np.exp(np.asarray(logs, np.float64))
    match term:
        case "linear":
            return [value]
        case "shape":
            return [value, value * pairs.apart / values[1]]
        case "slow" | "quick":
            return [value, value * _between(pairs) / values[1]]
        case "cycle":
            angle = np.pi * _between(pairs) / values[1]
            squared = (np.sin(angle) / values[2]) ** 2
            return [
                value,
                value * 2 * angle * np.sin(2 * angle) / values[2] ** 2,
                value * 4 * squared,
                value * _between(pairs) / values[3],
            ]


def _between(pairs: Pairs) -> Floats:
    if pairs.between is None:
        raise ValueError("a term of the device's state needs the order of measuring")
    return pairs.between
