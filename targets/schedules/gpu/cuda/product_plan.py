"""Which tile a block of threads computes, and into how many parts a product's depth is split.

The rule is an estimate: every multiprocessor has an equal share of blocks to compute, each stage of
a block takes as long as its slowest part, and the best tile is the one that is done first. Its
constants are from the vendors' figures (docs/decisions/0012-server-gpus.md), not from measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.schedules.contraction import shape_of
from millifit.targets.schedules.contraction_plan import Shape
from millifit.targets.schedules.gpu.cuda.device_code import CHUNK_BYTES
from millifit.targets.target import Gpu

Arithmetic = Literal["TensorCores", "Grid"]

_CHUNKS = 4  # of 16 bytes in a staged row
_FIRST_WITH_ASYNC_COPIES = 80  # compute capability 8.0
# Per cycle and multiprocessor: multiply-adds, and bytes from the second-level cache.
_RATES = {
    ("TensorCores", "float16"): 1024, ("TensorCores", "uint8"): 2048,
    ("Grid", "float32"): 128, ("Grid", "float16"): 96, ("Grid", "uint8"): 384,
}  # fmt: skip
# Outputs of a warp, or of a thread of a grid, at which reading its operands costs half of that.
_HALF_RATE = {"TensorCores": 512, "Grid": 16}
_CACHE_RATE = 48
_FINISH_RATE = 8  # outputs per cycle
_MOST_THREADS = 1536  # of a multiprocessor
# Cycles that a stage takes at least, that a block takes to start and to finish, and that another
# launch costs.
_STAGE_CYCLES, _BLOCK_CYCLES, _LAUNCH_CYCLES = 150, 2000, 4000
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
_LEAST_STAGES = 4  # of a part of a split product


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """`rows` output positions by `columns` channels, computed by `parts` (down, across) side by
    side: warps of tensor cores, or single threads of a grid."""

    rows: int
    columns: int
    parts: tuple[int, int]
    stages: int

    def threads(self, arithmetic: Arithmetic) -> int:
        """Threads of a block."""
        return self.parts[0] * self.parts[1] * (32 if arithmetic == "TensorCores" else 1)

    @property
    def result_stride(self) -> int:
        """Sums from one row to the next in shared memory."""
        return self.columns + 4

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: stages first, then the sums in their place."""
        stage = (self.rows + self.columns) * (_CHUNKS + 1) * CHUNK_BYTES
        return max(stage * self.stages, self.rows * self.result_stride * 4)

    @property
    def type(self) -> str:
        """Its type in CUDA C++."""
        numbers = (self.rows, self.columns, _CHUNKS, self.stages, *self.parts)
        return f"millifit::Tile<{', '.join(map(str, numbers))}>"


# Rows, columns and parts, largest first.
_TILES: dict[Arithmetic, tuple[tuple[int, int, tuple[int, int]], ...]] = {
    "TensorCores": (
        (128, 128, (2, 4)), (128, 64, (4, 2)), (64, 128, (2, 4)), (64, 64, (2, 2)),
        (64, 32, (2, 1)), (32, 64, (1, 2)), (32, 32, (2, 2)), (16, 64, (1, 4)), (16, 32, (1, 2)),
    ),
    "Grid": (
        (128, 64, (16, 16)), (64, 64, (16, 16)), (64, 32, (16, 8)), (32, 64, (8, 16)),
        (32, 32, (8, 8)), (16, 64, (4, 16)), (16, 32, (4, 16)),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A convolution or dense layer as products of ``[rows, depth]`` by ``[depth, outputs]``, one
    for each group."""

    kernel: Kernel
    shape: Shape
    batch: int
    arithmetic: Arithmetic
    tile: Tile
    splits: int

    @property
    def element(self) -> str:
        """Element type of the activations."""
        return self.kernel.inputs[0].dtype

    @property
    def rows(self) -> int:
        """Output positions of all images."""
        return self.batch * self.shape.out_height * self.shape.out_width

    @property
    def step(self) -> int:
        """Inputs of a stage."""
        return _CHUNKS * CHUNK_BYTES // np.dtype(self.element).itemsize

    @property
    def depth(self) -> int:
        """Inputs of an output."""
        return self.shape.inputs * math.prod(self.shape.kernel)

    @property
    def stages(self) -> int:
        """Stages of the whole depth."""
        return math.ceil(self.depth / self.step)

    @property
    def padded_depth(self) -> int:
        """Inputs with those that only fill the last stage."""
        return self.stages * self.step

    @property
    def blocks(self) -> tuple[int, int]:
        """Tiles down and across."""
        return math.ceil(self.rows / self.tile.rows), math.ceil(
            self.shape.outputs / self.tile.columns
        )

    @property
    def padded_outputs(self) -> int:
        """Channels of a group with those that only fill the last tile."""
        return self.blocks[1] * self.tile.columns

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.tile.threads(self.arithmetic)

    @property
    def stages_of_split(self) -> int:
        """Stages of each part of the depth; the last may have fewer."""
        return math.ceil(self.stages / self.splits)

    def cycles(self, gpu: Gpu) -> float:
        """Estimated duration: of the blocks of one multiprocessor, those that fit at a time."""
        blocks = math.prod(self.blocks) * self.shape.groups * self.splits
        share = math.ceil(blocks / gpu.compute_units)
        fit = min(gpu.shared_bytes // self.tile.shared_bytes, _MOST_THREADS // self.threads)
        turns = math.ceil(share / fit)
        together = math.ceil(share / turns)
        stage = max(together * self._stage_cycles, _STAGE_CYCLES)
        ends = together * self.tile.rows * self.tile.columns / _FINISH_RATE
        cycles = turns * (self.stages_of_split * stage + _BLOCK_CYCLES + ends)
        if self.splits == 1:
            return cycles
        sums = self.splits * self.rows * self.shape.groups * self.padded_outputs
        moved_bytes = 2 * 4 * sums  # written and read
        return cycles + _LAUNCH_CYCLES + moved_bytes / gpu.compute_units / _CACHE_RATE

    @property
    def _stage_cycles(self) -> float:
        """Cycles for a block alone to multiply a stage, or to bring it."""
        tile = self.tile
        part = tile.rows * tile.columns / math.prod(tile.parts)
        rate = _RATES[self.arithmetic, self.element] * part / (part + _HALF_RATE[self.arithmetic])
        multiplying = tile.rows * tile.columns * self.step / rate
        bringing = (tile.rows + tile.columns) * _CHUNKS * CHUNK_BYTES / _CACHE_RATE
        return max(multiplying, bringing)


def plan(kernel: Kernel, gpu: Gpu) -> Plan:
    """The plan with the shortest estimated duration."""
    return min(_plans(kernel, gpu), key=lambda each: each.cycles(gpu))


def _plans(kernel: Kernel, gpu: Gpu) -> Iterator[Plan]:
    shape, arithmetic = shape_of(kernel), arithmetic_of(kernel, gpu)
    batch = kernel.inputs[0].shape[0] if kernel.op == "conv2d" else 1
    for rows, columns, parts in _TILES[arithmetic]:
        tile = Tile(rows=rows, columns=columns, parts=parts, stages=_stages(gpu))
        if tile.shared_bytes > gpu.shared_bytes or tile.threads(arithmetic) > gpu.max_threads:
            continue
        for splits in _SPLITS:
            made = Plan(
                kernel=kernel, shape=shape, batch=batch, arithmetic=arithmetic, tile=tile,
                splits=splits,
            )  # fmt: skip
            whole = splits == math.ceil(made.stages / made.stages_of_split)
            if splits == 1 or (made.stages_of_split >= _LEAST_STAGES and whole):
                yield made


def _stages(gpu: Gpu) -> int:
    """Stages in shared memory: copies that nobody waits for are worth a third."""
    return 3 if int(gpu.arch.removeprefix("sm_")) >= _FIRST_WITH_ASYNC_COPIES else 2


def arithmetic_of(kernel: Kernel, gpu: Gpu) -> Arithmetic:
    """Whether tensor cores multiply such a kernel's elements."""
    feature = {"float16": "tensor_cores_fp16", "uint8": "tensor_cores_int8"}
    wanted = feature.get(kernel.inputs[0].dtype)
    return "TensorCores" if wanted in gpu.features else "Grid"
