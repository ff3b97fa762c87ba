"""Winograd's minimal filtering F(m, 3): transforms of inputs, weights and outputs (1509.09308).

``y = A^T [(G g) * (B^T d)]`` computes m outputs of a 3-tap filter g from m + 2 inputs d with m + 2
multiplications, as the Toom-Cook evaluation of polynomials at the points 0, ±p_1, ... and infinity.
The points come in pairs ±p, so that each pair shares its even and odd terms.

How exact the result is depends on the points alone. With 0, ±3/4, ±3/2 and infinity F(4x4, 3x3)
in float32 is within 3e-6 of the exact result at 256 input channels (largest error over largest
value, weights transformed in float64); with the usual 0, ±1, ±2 it is 1.1e-5, and the direct sum
has 2e-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millifit.targets.schedules import tir

_POINTS = {2: (1.0,), 4: (0.75, 1.5)}
TAPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """F(m, 3) for m = 2 or 4."""

    outputs: int

    @property
    def points(self) -> tuple[float, ...]:
        """The positive ones of the finite points; their negatives and 0 belong to them."""
        return _POINTS[self.outputs]

    @property
    def inputs(self) -> int:
        """m + 2: inputs of a tile in one dimension, and products."""
        return self.outputs + TAPS - 1

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """G ``[m + 2, 3]``; the order of the points is 0, p_1, -p_1, p_2, ..., infinity."""
        finite = [0.0]
        for point in self.points:
            finite += [point, -point]
        rows = []
        for i, point in enumerate(finite):
            others = math.prod(point - other for j, other in enumerate(finite) if j != i)
            rows.append([point**power / others for power in range(TAPS)])
        rows.append([0.0] * (TAPS - 1) + [1.0])
        return np.array(rows)

    def transformed_weights(self, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``G g G^T`` of weights ``[O, I, 3, 3]``: ``[O, I, m + 2, m + 2]``."""
        return np.asarray(np.einsum("ia,ocab,jb->ocij", self.weights, weight, self.weights))

    def of_inputs(
        self, values: Sequence[tir.Expr], lanes: int, name: str
    ) -> tuple[list[tir.Statement], list[tir.Expr]]:
        """``B^T d`` of m + 2 vectors: the bindings it takes, and m + 2 expressions."""
        squares = [point**2 for point in self.points]
        everything = _product(squares)
        written: list[tir.Statement] = []
        results = [_combine(everything, values[0::2], lanes)]
        for i, point in enumerate(self.points):
            others = _product(squares[:i] + squares[i + 1 :])
            for part, start in (("even", 2), ("odd", 1)):
                terms = values[start : start + 2 * len(others) : 2]
                named, variable = tir.bind(
                    f"{name}_{part}{i}", _combine(others, terms, lanes), "float32", lanes
                )
                written.append(named)
                values_of = variable if part == "even" else variable * _const(point, lanes)
                if part == "even":
                    even = values_of
                else:
                    results += [even + values_of, even - values_of]
        results.append(_combine(everything, values[1::2], lanes))
        return written, results

    def of_products(
        self, values: Sequence[tir.Expr], lanes: int, name: str
    ) -> tuple[list[tir.Statement], list[tir.Expr]]:
        """``A^T m`` of m + 2 vectors: the bindings it takes, and m expressions."""
        written: list[tir.Statement] = []
        pairs: list[tuple[tir.Expr, tir.Expr]] = []
        for i, _ in enumerate(self.points):
            positive, negative = values[1 + 2 * i], values[2 + 2 * i]
            sums = []
            for part, value in (("sum", positive + negative), ("gap", positive - negative)):
                named, variable = tir.bind(f"{name}_{part}{i}", value, "float32", lanes)
                written.append(named)
                sums.append(variable)
            pairs.append((sums[0], sums[1]))
        results = []
        for power in range(self.outputs):
            terms = [pair[power % 2] for pair in pairs]
            factors = [point**power for point in self.points]
            value = _combine(factors, terms, lanes)
            if power == 0:
                value = value + values[0]
            if power == self.outputs - 1:
                value = value + values[-1]
            results.append(value)
        return written, results


def _product(squares: Sequence[float]) -> list[float]:
    """Coefficients in x^2, lowest first, of the product of all (x^2 - square)."""
    coefficients = [1.0]
    for square in squares:
        shifted = [0.0, *coefficients]
        scaled = [-square * c for c in coefficients] + [0.0]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _combine(factors: Sequence[float], values: Sequence[tir.Expr], lanes: int) -> tir.Expr:
    """The sum of factor * value; a factor of 1 costs no multiplication."""
    total = None
    # Plain additions first: every later term is then one fused multiply-add.
    for factor, value in sorted(zip(factors, values, strict=True), key=lambda t: abs(t[0]) != 1.0):
        if total is None:
            total = value if factor == 1.0 else value * _const(factor, lanes)
        elif factor == 1.0:
            total = total + value
        elif factor == -1.0:
            total = total - value
        else:
            total = total + value * _const(factor, lanes)
    return total


def _const(value: float, lanes: int) -> tir.Expr:
    return tir.const(value, "float32", lanes)
