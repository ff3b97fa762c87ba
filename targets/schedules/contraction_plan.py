"""What is decided about a contraction before its code is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.schedules.dot import Dot
from millifit.targets.schedules.prefetch import is_far
from millifit.targets.schedules.tile import Tile, split_lanes

# Prefetching pays for outputs from this many steps of a reduction on, for inputs from this many
# bytes of a position on.
_LONG_REDUCTION, _LONG_POSITION_BYTES = 24, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A convolution's geometry; a dense layer is one with a 1 x N map."""

    height: int
    width: int
    inputs: int  # per group
    groups: int
    out_height: int
    out_width: int
    outputs: int  # per group
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right

    @property
    def merged(self) -> bool:
        """Whether a whole kernel row is one run of neighbours."""
        return self.dilations[1] == 1 and self.groups == 1

    @property
    def taps(self) -> int:
        """Runs per kernel row."""
        return 1 if self.merged else self.kernel[1]

    @property
    def run(self) -> int:
        """Neighbouring inputs per run."""
        return self.inputs * (self.kernel[1] if self.merged else 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole layer."""
        positions = self.out_height * self.out_width
        return positions * self.groups * self.outputs * self.inputs * math.prod(self.kernel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """A copy of the input that needs no padding. `rows` at a time; all of them if `whole`."""

    whole: bool
    rows: int
    row_elements: int
    slack: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Everything decided about a kernel before code is written."""

    kernel: Kernel
    shape: Shape
    dot: Dot
    tile: Tile
    lanes: int
    staging: Staging | None
    tile_rows: int  # map rows that one tile covers (small maps: several)
    panels_outside: bool
    parallel: bool
    packs: bool = False  # whether several vectors of outputs are narrowed together

    @property
    def steps(self) -> int:
        """Dot products per run."""
        return math.ceil(self.shape.run / self.dot.unit)

    @property
    def depth(self) -> int:
        """Packed weights per output channel."""
        return self.shape.kernel[0] * self.shape.taps * self.steps * self.dot.unit

    @property
    def row_elements(self) -> int:
        """Elements from one row of the source to the next."""
        if self.staging is not None:
            return self.staging.row_elements
        return self.shape.width * self.shape.inputs * self.shape.groups

    @property
    def prefetched(self) -> tuple[str, ...]:
        """Buffers of the epilogue worth asking for before the reduction starts.

        A residual always is. The output is where no near cache holds it and the reduction is long
        enough to wait: 66 to 95 GFLOP/s for the widest layer of ResNet-50, but 8 % lost where only
        16 inputs are summed.
        """
        names = ["residual"] if "add" in self.kernel.epilogue else []
        reduction = self.shape.kernel[0] * self.shape.taps * self.steps
        if reduction >= _LONG_REDUCTION and is_far(self.kernel.output):
            names.append("output")
        return tuple(names)

    @property
    def prefetches_input(self) -> bool:
        """Whether the inputs of the next tile are asked for while this one is computed.

        Its positions are read side by side, one short stream each, which the processor does not
        foresee. Where the map is in a far cache, asking for them made the projections of
        MobileNetV2 1.2 to 1.8 times as fast.
        """
        position = self.shape.inputs * np.dtype(self.dot.activation).itemsize
        return (
            self.staging is None
            and self.shape.kernel == (1, 1)
            and self.tile_rows == 1
            and position >= _LONG_POSITION_BYTES
            and is_far(self.kernel.inputs[0])
        )

    @property
    def panels(self) -> tuple[tuple[int, ...], ...]:
        """The lanes of every panel's vectors, in order."""
        full = self.tile.vectors * self.lanes
        count, rest = divmod(self.shape.outputs, full)
        panels = [(self.lanes,) * self.tile.vectors] * count
        if rest:
            panels.append(split_lanes(rest, self.lanes))
        return tuple(panels)

    @property
    def padded_outputs(self) -> int:
        """Output channels of a group, with the lanes that only pad."""
        return sum(sum(panel) for panel in self.panels)
