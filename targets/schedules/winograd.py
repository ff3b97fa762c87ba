"""3x3 convolution by Winograd's minimal filtering: fewer multiplications (1509.09308).

F(m x m, 3x3) makes an m x m tile of outputs from (m + 2)^2 products per pair of channels instead of
9 m^2: 2.25 times fewer for m = 2, 4 times fewer for m = 4. The products of one place in the
transformed tile, over all tiles and channels, are a matrix product ``[tiles, I] x [I, O]``.

Some rows of tiles are taken at a time, so that what is transformed stays in the second-level cache:

1. input transform, one vector of channels at a time: columns, each shared by the tiles it belongs
   to, then rows, into ``[place][tile][channel]``;
2. for one panel of output channels, the products of all places, into ``[tile][place][channel]``;
3. output transform of the panel, and the epilogue.

Whether this pays is decided in `convolution`: transforms weigh more the fewer channels there are,
and transformed weights are 1.8 or 4 times as large and have to come from memory at batch 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue
from millifit.targets.schedules.code import Constants, KernelCode
from millifit.targets.schedules.contraction_plan import Design, Shape, Staging
from millifit.targets.schedules.dot import dot_for
from millifit.targets.schedules.tile import matrix_tile
from millifit.targets.schedules.winograd_transform import TAPS, Transform
from millifit.targets.target import Target

# Below this many multiply-adds of the direct sum a second thread costs more than it gains.
PARALLEL_MACS = 4_000_000
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


def operands(plan: Plan) -> dict[str, TensorType]:
    """The packed constants of a Winograd convolution."""
    product = plan.product
    return {
        "weight": TensorType(
            shape=(product.padded_outputs * plan.places * plan.shape.inputs,), dtype="float32"
        ),
        "bias": TensorType(shape=(product.padded_outputs,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }


def winograd(plan: Plan) -> KernelCode:
    """Code and operands of a plan."""
    from millifit.targets.schedules.winograd_code import write

    types = operands(plan)
    return KernelCode(
        function=write(plan, types),
        operands=tuple(types.values()),
        pack=lambda constants: _pack(plan, constants),
    )


def _pack(plan: Plan, constants: Constants) -> tuple[Array, ...]:
    """Transformed weights as ``[panel][place][input channel][channel of the panel]``."""
    product, shape = plan.product, plan.shape
    weight = plan.transform.transformed_weights(constants["weight"].astype(np.float64))
    full = np.zeros((product.padded_outputs, shape.inputs, plan.places), np.float32)
    full[: shape.outputs] = weight.reshape(shape.outputs, shape.inputs, plan.places)
    pieces: list[Array] = []
    start = 0
    for panel in product.panels:
        pieces.append(full[start : start + sum(panel)].transpose(2, 1, 0).ravel())
        start += sum(panel)
    bias = np.zeros(product.padded_outputs, np.float32)
    bias[: shape.outputs] = constants["bias"]
    return np.concatenate(pieces), bias, epilogue.pack_scalars(constants)
