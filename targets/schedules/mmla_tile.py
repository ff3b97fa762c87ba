"""The register tile of ``usmmla``, which multiplies 2 positions by 2 channels, 8 inputs deep.

Its accumulators hold ``[2 positions][2 channels]``. For a pair of positions and a vector of 4
channels there are two, in the places where other tiles keep the vector of either position; their
lanes are exchanged before the reduction, and back before the epilogue. Weights are packed as for
any dot product of 8 inputs: two neighbouring channels are one operand.
"""

from __future__ import annotations

from dataclasses import dataclass

from millifit.targets.schedules import tir
from millifit.targets.schedules.dot import matrix_multiply_add
from millifit.targets.schedules.register_tile import RegisterTile

# Lanes of [a0 a1 a2 a3], [b0 b1 b2 b3] to [a0 a1 b0 b1], [a2 a3 b2 b3]; it is its own inverse.
_EXCHANGED = ((0, 1, 4, 5), (2, 3, 6, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class MmlaTile(RegisterTile):
    """Writes one tile whose positions are computed in pairs; an odd last one with itself."""

    @property
    def held(self) -> int:
        """Positions there are accumulators for."""
        return -(-self.place.positions // 2) * 2

    def _start(self, accumulators: tir.Buffer) -> list[tir.Statement]:
        started = RegisterTile._start(self, accumulators)
        return [*started, *self._exchange(accumulators)]

    def _steps(
        self,
        accumulators: tir.Buffer,
        reads: list[tir.Expr],
        reached: tuple[tir.Expr, tir.Expr],
        count: int,
    ) -> list[tir.Statement]:
        """8 inputs of every position and channel, `count` times; activations are loaded first."""
        panel, unit = self.panel, self.plan.dot.unit
        weights_at, read_at = reached
        written: list[tir.Statement] = []
        loaded = []
        for i, base in enumerate(reads):
            value = tir.load(self.source, base + read_at, unit * count)
            named, vector = tir.bind(f"a{i}", value, "uint8", unit * count)
            written.append(named)
            loaded.append(vector)
        for step in range(count):
            weights = []
            for pair in range(panel.width // 2):
                at = weights_at + (step * panel.width + pair * 2) * unit
                value = tir.load(self.buffers["weight"], at, 2 * unit)
                named, variable = tir.bind(f"w{pair}", value, "int8", 2 * unit)
                written.append(named)
                weights.append(variable)
            first = range(step * unit, (step + 1) * unit)
            second = [count * unit + lane for lane in first]
            for i in range(0, self.held, 2):
                both = [loaded[i], loaded[min(i + 1, len(loaded) - 1)]]
                value = tir.shuffle(both, [*first, *second])
                named, activations = tir.bind(f"b{i}", value, "uint8", 2 * unit)
                written.append(named)
                for pair, operand in enumerate(weights):
                    at = (i + pair % 2) * panel.width + pair // 2 * 4
                    total = matrix_multiply_add(tir.load(accumulators, at, 4), activations, operand)
                    written.append(tir.store(accumulators, at, total, 4))
        return written

    def _finish(
        self, accumulators: tir.Buffer, spots: list[tuple[tir.Expr, tir.Expr]]
    ) -> list[tir.Statement]:
        finished = RegisterTile._finish(self, accumulators, spots)
        return [*self._exchange(accumulators), *finished]

    def _exchange(self, accumulators: tir.Buffer) -> list[tir.Statement]:
        """From a vector per position to one per two channels of both, or back."""
        width, written = self.panel.width, []
        for i in range(0, self.held, 2):
            for offset in self.panel.offsets:
                places = (i * width + offset, (i + 1) * width + offset)
                pair = []
                for n, place in enumerate(places):
                    value = tir.load(accumulators, place, 4)
                    named, variable = tir.bind(f"p{i}_{offset}_{n}", value, "int32", 4)
                    written.append(named)
                    pair.append(variable)
                written += [
                    tir.store(accumulators, place, tir.shuffle(pair, lanes), 4)
                    for place, lanes in zip(places, _EXCHANGED, strict=True)
                ]
        return written
