"""What is decided about a Winograd convolution before its code is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from millifit.targets.kernel import Kernel
from millifit.targets.schedules.contraction_plan import Design, Shape, Staging
from millifit.targets.schedules.dot import dot_for
from millifit.targets.schedules.tile import matrix_tile
from millifit.targets.schedules.winograd_transform import TAPS, Transform
from millifit.targets.target import Target

# Below this many multiply-adds of the direct sum a second thread costs more than it gains.
PARALLEL_MACS = 1_500_000
# Tiles whose products share one pass over the weights, unless the cache holds fewer.
_TILES_PER_BLOCK = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything decided about a Winograd convolution.

    `tile_rows` rows of tiles are one block. `product` is the matrix product of a block: a map of
    one row per place of the transformed tile, one column per tile.
    """

    kernel: Kernel
    shape: Shape
    transform: Transform
    tile_rows: int
    product: Design
    parallel: bool

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles that cover the output."""
        return _tiles(self.shape, self.transform)

    @property
    def padded_width(self) -> int:
        """Columns of the map, padding included, that a row of tiles reads."""
        return self.tiles[1] * self.transform.outputs + TAPS - 1

    @property
    def places(self) -> int:
        """Products per tile and pair of channels."""
        return self.transform.inputs**2


def _tiles(shape: Shape, transform: Transform) -> tuple[int, int]:
    m = transform.outputs
    return math.ceil(shape.out_height / m), math.ceil(shape.out_width / m)


def applies(kernel: Kernel, shape: Shape) -> bool:
    """Whether a kernel is an undivided fp32 3x3 convolution without strides or dilation."""
    return (
        kernel.precision == "fp32"
        and shape.kernel == (TAPS, TAPS)
        and shape.strides == shape.dilations == (1, 1)
        and shape.groups == 1
        and max(shape.pads) <= 2
    )


def fits(shape: Shape, target: Target, *, outputs: int) -> bool:
    """Whether one row of tiles, transformed, stays in the second-level cache."""
    return _row_bytes(shape, Transform(outputs=outputs)) <= target.l2_bytes


def _row_bytes(shape: Shape, transform: Transform) -> int:
    return 4 * transform.inputs**2 * _tiles(shape, transform)[1] * shape.inputs


def plan(kernel: Kernel, shape: Shape, target: Target, *, outputs: int, parallel: bool) -> Plan:
    """Choose the block and the register tile of F(outputs x outputs, 3x3)."""
    transform = Transform(outputs=outputs)
    rows, columns = _tiles(shape, transform)
    places = transform.inputs**2
    fitting = max(1, (target.l2_bytes * 5 // 8) // _row_bytes(shape, transform))
    wanted = math.ceil(_TILES_PER_BLOCK / columns)
    if parallel:
        wanted = min(wanted, math.ceil(rows / target.threads))
    blocks = math.ceil(rows / min(fitting, wanted, rows))
    tile_rows = math.ceil(rows / blocks)
    return Plan(
        kernel=kernel, shape=shape, transform=transform, tile_rows=tile_rows,
        product=_product(kernel, shape, target, places=places, tiles=tile_rows * columns),
        parallel=parallel,
    )  # fmt: skip


def _product(kernel: Kernel, shape: Shape, target: Target, *, places: int, tiles: int) -> Design:
    """The matrix products of one block."""
    lanes, dot = target.fp32_lanes, dot_for(kernel, target)
    return Design(
        kernel=kernel,
        shape=Shape(
            height=places, width=tiles, inputs=shape.inputs, groups=1, out_height=places,
            out_width=tiles, outputs=shape.outputs, kernel=(1, 1), strides=(1, 1),
            dilations=(1, 1), pads=(0, 0, 0, 0),
        ),
        dot=dot,
        tile=matrix_tile(target, rows=tiles, channels=shape.outputs, step=dot.step),
        lanes=lanes,
        # A vector more per place: else places lie a multiple of the page size apart, and evict
        # each other from the cache.
        staging=Staging(
            whole=True, rows=places, row_elements=tiles * shape.inputs + lanes, slack=0
        ),
        tile_rows=1, panels_outside=True, parallel=False,
    )  # fmt: skip
