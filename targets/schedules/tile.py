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


def most_accumulators(target: Target) -> int:
    """Accumulators of a tile: half of 32 registers, 12 of 16.

    The compiler moves the loads of activations ahead of their use. With more accumulators than
    that it runs out of registers in some of a kernel's loops and spills inside them: measured on
    AVX-512, tiles of 20 to 26 accumulators reach between 45 and 100 % of the speed of tiles of 14
    to 16, and never more.
    """
    return max(target.vector_registers // 2, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`rows` output positions by `vectors` vectors of output channels, all in registers."""

    rows: int
    vectors: int


def matrix_tile(target: Target, *, rows: int, channels: int, temporaries: int = 0) -> Tile:
    """The tile for a product of `rows` positions and `channels` output channels.

    `temporaries` are registers that a multiply-add needs besides its operands.
    """
    return matrix_tiles(target, rows=rows, channels=channels, temporaries=temporaries)[0]


def matrix_tiles(
    target: Target, *, rows: int, channels: int, temporaries: int = 0
) -> tuple[Tile, ...]:
    """All tiles with few enough accumulators, the most promising first.

    A step of the reduction takes ``rows * vectors`` multiply-adds and ``rows + vectors`` loads. The
    tile with the fewest estimated cycles for the whole product comes first, ragged edges included;
    between equals, the one that loads less.
    """
    lanes = target.fp32_lanes
    found: list[tuple[float, float, int, Tile]] = []
    for vectors in range(1, 9):
        if vectors > 1 and (vectors - 1) * lanes >= channels:
            break
        for height in range(1, min(_MAX_ROWS, rows) + 1):
            accumulators = height * vectors
            if accumulators > most_accumulators(target):
                break
            if accumulators + vectors + 1 + temporaries > target.vector_registers:
                break
            whole, ragged = divmod(rows, height)
            steps = whole * _step_cycles(height, vectors)
            if ragged:
                steps += _step_cycles(ragged, vectors)
            panels = math.ceil(channels / (vectors * lanes))
            loads = (height + vectors) / (height * vectors)
            tile = Tile(rows=height, vectors=vectors)
            found.append((round(steps * panels, 6), loads, len(found), tile))
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
