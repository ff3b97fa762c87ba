"""What is decided about a convolution or dense layer on a GPU before its code is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules import epilogue
from millifit.targets.schedules.choice import check_names, decided
from millifit.targets.schedules.contraction import flattened, shape_of
from millifit.targets.schedules.contraction_plan import Shape
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.launch import power_of_two
from millifit.targets.target import Gpu

_POSITIONS, _VECTORS, _SLICES = (1, 2, 4, 8), (1, 2, 4), (1, 2, 4, 8, 16)
# Accumulators of 4 channels that stay in registers. Mali's cores, whose threads run in steps of 16
# at most, have 64 registers of 32 bits for a thread, and what does not fit goes to main memory.
_MOST_ACCUMULATORS, _MOST_OF_NARROW = 8, 4
_NARROW_SUBGROUPS = range(2, 17)
# Threads that a compute unit needs to hide memory, and those of a work-group.
_BUSY_THREADS = 128
_GROUP = 128
# Slices of a reduction: only where each has this many steps left.
_LEAST_STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A thread computes `positions` neighbours of a row by `vectors` times 4 channels.

    The input channels of a sum are split between `slices` threads, which add up in shared memory.
    `threads` of a work-group are along channels, positions and slices.
    """

    kernel: Kernel
    shape: Shape
    batch: int
    positions: int
    vectors: int
    slices: int
    threads: tuple[int, int, int]

    @property
    def lanes(self) -> int:
        """Input channels that are read at once."""
        return LANES if self.shape.inputs % LANES == 0 else 1

    @property
    def steps(self) -> int:
        """Vectors of input channels."""
        return self.shape.inputs // self.lanes

    @property
    def padded_outputs(self) -> int:
        """Output channels of a group, filled up to whole vectors."""
        return math.ceil(self.shape.outputs / LANES) * LANES

    @property
    def panels(self) -> int:
        """Tiles along the channels of all groups."""
        return self.shape.groups * self.padded_outputs // (LANES * self.vectors)

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles along batch, rows and columns."""
        columns = math.ceil(self.shape.out_width / self.positions)
        return (self.batch, self.shape.out_height, columns)

    @property
    def groups(self) -> tuple[int, int, int]:
        """Work-groups along channels and positions."""
        return (
            math.ceil(self.panels / self.threads[0]),
            math.ceil(math.prod(self.tiles) / self.threads[1]),
            1,
        )

    @property
    def whole(self) -> bool:
        """Whether every vector of output channels is whole."""
        return self.shape.outputs % LANES == 0

    @property
    def weight_dtype(self) -> str:
        """Element type of the packed weights."""
        if self.kernel.integer:
            return "int8"
        return "float16" if self.kernel.precision == "fp16" else "float32"

    @property
    def operands(self) -> dict[str, TensorType]:
        """Weights ``[group, KH, KW, I, O]``, and what there is per output channel."""
        shape, wide = self.shape, self.shape.groups * self.padded_outputs
        depth = math.prod(shape.kernel) * shape.inputs
        found = {
            "weight": TensorType(shape=(depth * wide,), dtype=self.weight_dtype),
            "bias": TensorType(shape=(wide,), dtype="int32" if self.kernel.integer else "float32"),
        }
        if self.kernel.integer:
            found["multiplier"] = TensorType(shape=(wide,), dtype="float32")
        return {**found, "scalars": epilogue.SCALARS_TYPE}


def plan(kernel: Kernel, gpu: Gpu) -> Plan:
    """Choose tile, slices and work-group.

    Tiles are as large as registers allow while every compute unit has enough threads; where there
    are too few outputs for that, sums are split. Tuning may choose ``positions``, ``vectors`` and
    ``slices``.
    """
    check_names(kernel, "positions", "slices", "vectors")
    shape = shape_of(kernel)
    batch = 1 if kernel.op == "dense" else kernel.output.shape[0]
    if shape.kernel == (1, 1) and shape.strides == (1, 1) and not any(shape.pads):
        shape, batch = flattened(shape, batch), 1
    wanted = gpu.compute_units * _BUSY_THREADS
    blocks = math.ceil(shape.outputs / LANES) * shape.groups
    rows = batch * shape.out_height
    allowed = [n for n in _VECTORS if math.ceil(shape.outputs / LANES) % n == 0]
    widths = [n for n in _POSITIONS if n <= shape.out_width]
    most = _MOST_OF_NARROW if gpu.subgroup in _NARROW_SUBGROUPS else _MOST_ACCUMULATORS
    tiles = [(p, v) for p in widths for v in allowed if p * v <= most]

    def threads(tile: tuple[int, int]) -> int:
        return rows * math.ceil(shape.out_width / tile[0]) * blocks // tile[1]

    def loads(tile: tuple[int, int]) -> float:
        return (tile[0] + LANES * tile[1]) / (tile[0] * tile[1])

    enough = [tile for tile in tiles if threads(tile) >= wanted] or [(1, 1)]
    positions, vectors = min(enough, key=loads)
    positions = decided(kernel, "positions", positions, widths)
    vectors = decided(kernel, "vectors", vectors, allowed)
    slices = 1
    steps = shape.inputs // (LANES if shape.inputs % LANES == 0 else 1)
    while slices < _SLICES[-1] and threads((positions, vectors)) * slices < wanted:
        if steps < 2 * slices * _LEAST_STEPS:
            break
        slices *= 2
    slices = decided(kernel, "slices", slices, _SLICES)
    made = Plan(
        kernel=kernel, shape=shape, batch=batch, positions=positions, vectors=vectors,
        slices=slices, threads=(1, 1, slices),
    )  # fmt: skip
    return _with_group(made, gpu)


def _with_group(made: Plan, gpu: Gpu) -> Plan:
    """The work-group: neighbours along channels share inputs, those along positions weights."""
    size = min(power_of_two(gpu.max_threads), _GROUP)
    held = made.positions * made.vectors * LANES * 4
    while made.slices > 1 and size > made.slices and size * held > gpu.shared_bytes:
        size //= 2
    size = max(1, size // made.slices)
    across = min(16, power_of_two(2 * made.panels - 1), size)
    down = max(1, min(size // across, power_of_two(2 * math.prod(made.tiles) - 1)))
    return replace(made, threads=(across, down, made.slices))
