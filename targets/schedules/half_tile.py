"""The register tile of fp16 arithmetic: partial sums of 16 bits, added up in 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millifit.targets.schedules import tir
from millifit.targets.schedules.register_tile import RegisterTile

# Every addition to a partial sum rounds it by up to 2^-11, upwards or downwards by chance: after n
# of them the error is near sqrt(n) 2^-13 of the sum's size, 0.2 % after 256. Adding a vector of
# partial sums to the accumulators takes about 8 instructions, 3 % of 256 multiply-adds.
_MOST_STEPS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfTile(RegisterTile):
    """Writes one tile whose products are added in fp16, at most `_MOST_STEPS` of them."""

    def _reduction(self, sums: tir.Buffer, reads: list[tir.Expr]) -> list[tir.Statement]:
        plan, shape = self.plan, self.plan.shape
        allocation, partial = tir.scratch(
            "partial", self.held * self.panel.width, plan.dot.partial, registers=True
        )

        def added(products: Sequence[tir.Statement]) -> list[tir.Statement]:
            return self._added(partial, sums, products)

        def kernel_row(ky: tir.Expr) -> list[tir.Statement]:
            if shape.taps * plan.steps <= _MOST_STEPS:
                return added(self._kernel_row(partial, reads, ky))
            return tir.loop(shape.taps, lambda kx: blocks(ky, kx), name="kx")

        def blocks(ky: tir.Expr, kx: tir.Expr) -> list[tir.Statement]:
            whole, rest = divmod(plan.steps, _MOST_STEPS)

            def block(first: tir.Expr, count: int) -> list[tir.Statement]:
                return added(self._run(partial, reads, ky, kx, first, count))

            written = tir.loop(whole, lambda b: block(b * _MOST_STEPS, _MOST_STEPS), name="block")
            return written + (block(tir.const(whole * _MOST_STEPS), rest) if rest else [])

        if shape.kernel[0] * shape.taps * plan.steps <= _MOST_STEPS:
            whole = RegisterTile._reduction(self, partial, reads)
            return [allocation, *added(whole)]
        return [allocation, *tir.loop(shape.kernel[0], kernel_row, name="ky")]

    def _added(
        self, partial: tir.Buffer, sums: tir.Buffer, products: Sequence[tir.Statement]
    ) -> list[tir.Statement]:
        """Partial sums from 0, the code that adds products to them, and their sum."""
        places = [
            (i * self.panel.width + offset, lanes)
            for i in range(self.held)
            for offset, lanes in zip(self.panel.offsets, self.panel.lanes, strict=True)
        ]
        dtype = self.plan.dot.partial
        written = [tir.store(partial, at, tir.const(0, dtype, n), n) for at, n in places]
        written += products
        for at, lanes in places:
            value = tir.cast(tir.load(partial, at, lanes), "float32", lanes)
            written.append(tir.store(sums, at, tir.load(sums, at, lanes) + value, lanes))
        return written
