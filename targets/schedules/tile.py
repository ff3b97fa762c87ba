"""The register tile: the one place where a target's registers decide a kernel's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

from millifit.targets.target import Target

# A multiply-add takes about 4 cycles and two can start per cycle: with fewer independent
# accumulators the units are idle at times. 8 would do if nothing else took any time.
_ACCUMULATORS_IN_FLIGHT = 12
_MAX_ROWS = 14
COLUMNS = range(1, 17)  # of a depthwise tile, where tuning chooses them


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a multiply-add takes besides its accumulator.

    `temporaries` are registers for products that are added in a second instruction. `bits` are
    those of a lane. `group` steps' activations are loaded at once and stay in a register each. A
    `paired` instruction takes two positions, and two registers of weights per vector.
    """

    temporaries: int = 0
    bits: int = 32
    group: int = 1
    paired: bool = False

    def registers(self, rows: int, vectors: int) -> int:
        """Registers of a tile."""
        activations = rows if self.group > 1 else 1
        weights = 2 * vectors if self.paired else vectors
        return self.held(rows) * vectors + activations + weights + self.temporaries

    def held(self, rows: int) -> int:
        """Positions that `rows` take the time and accumulators of."""
        return rows + rows % 2 if self.paired else rows


def most_accumulators(target: Target, step: Step) -> int:
    """Accumulators of a tile: half of 32 registers, 12 of 16; with grouped steps what fits.

    The compiler moves the loads of activations ahead of their use, which takes registers. More
    accumulators gain nothing where so many multiply-adds are in flight already: tiles of 20 to 28
    on AVX-512 are within 2 % of those of 12 to 16. Grouped steps load their activations first:
    there is nothing to move, and on NEON no tile that fits the registers spills.
    """
    if step.group > 1:
        return target.vector_registers
    return max(target.vector_registers // 2, 12)


_PLAIN = Step()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`rows` output positions by `vectors` vectors of output channels, all in registers."""

    rows: int
    vectors: int


def matrix_tile(target: Target, *, rows: int, channels: int, step: Step = _PLAIN) -> Tile:
    """The tile for a product of `rows` positions and `channels` output channels."""
    return matrix_tiles(target, rows=rows, channels=channels, step=step)[0]


def matrix_tiles(
    target: Target, *, rows: int, channels: int, step: Step = _PLAIN
) -> tuple[Tile, ...]:
    """All tiles with few enough accumulators, the most promising first.

    A step of the reduction takes ``rows * vectors`` multiply-adds and ``rows + vectors`` loads. The
    tile with the fewest estimated cycles for the whole product comes first, ragged edges included;
    between equals, the one that loads less.
    """
    lanes = target.vector_bits // step.bits
    found: list[tuple[float, float, int, Tile]] = []
    for vectors in range(1, 9):
        if vectors > 1 and (vectors - 1) * lanes >= channels:
            break
        for height in range(1, min(_MAX_ROWS, rows) + 1):
            if height * vectors > most_accumulators(target, step):
                break
            if step.registers(height, vectors) > target.vector_registers:
                break
            whole, ragged = divmod(rows, height)
            cycles = whole * _step_cycles(step.held(height), vectors)
            if ragged:
                cycles += _step_cycles(step.held(ragged), vectors)
            panels = math.ceil(channels / (vectors * lanes))
            loads = (height + vectors) / (height * vectors)
            tile = Tile(rows=height, vectors=vectors)
            found.append((round(cycles * panels, 6), loads, len(found), tile))
    return tuple(tile for *_, tile in sorted(found, key=lambda each: each[:3]))


def _step_cycles(rows: int, vectors: int) -> float:
    multiply_adds = max(rows * vectors, _ACCUMULATORS_IN_FLIGHT) / 2
    loads = (rows + vectors) / 2
    return max(multiply_adds, loads)


def row_tile(target: Target, *, width: int, taps: int) -> int:
    """Columns of a depthwise tile: as many as the registers hold, evenly dividing the row.

    A kernel row's `taps` weights stay in registers beside the accumulators.
    """
    most = max(1, min(8, target.vector_registers - taps - 2))
    return math.ceil(width / math.ceil(width / most))


def split_lanes(channels: int, lanes: int) -> tuple[int, ...]:
    """Vectors that cover `channels`: full ones, then ever shorter powers of two, at least 4 wide.

    ``split_lanes(24, 16) == (16, 8)``; ``split_lanes(10, 16) == (8, 4)``, two lanes of the last
    vector being padding.
    """
    covered: list[int] = []
    while channels > 0:
        width = lanes
        while width > 4 and width // 2 >= channels:
            width //= 2
        if width > channels and width > 4:
            width //= 2
        covered.append(width)
        channels -= width
    return tuple(covered)
