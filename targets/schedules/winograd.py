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

import numpy as np

from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue
from millifit.targets.schedules.code import Constants, KernelCode
from millifit.targets.schedules.winograd_code import write
from millifit.targets.schedules.winograd_plan import Plan


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
