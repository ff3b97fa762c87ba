"""What a model sees of kernels: work, traffic, shapes, and how shapes fill tiles, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from millifit.latency_models.kernels.columns import (
    COLUMNS,
    columns_of,
    macs,
    moved_bytes,
    weight_bytes,
)
from millifit.latency_models.kernels.tiles import (
    SLICE,
    divisor,
    filled,
    power_of_two,
    tiles,
    work_groups,
)
from millifit.latency_models.prediction import Floats
from millifit.targets.kernel import Kernel

__all__ = [
    "EXTENTS",
    "FEATURES",
    "PLAIN",
    "Floats",
    "features",
    "features_of",
    "macs",
    "moved_bytes",
    "terms_of",
    "weight_bytes",
    "work",
    "work_of",
]

Columns = Mapping[str, Floats]

# Blocks of a matrix product as GPU libraries cut it: rows (positions) and columns (channels).
_BLOCKS = ((64, 32), (64, 64), (128, 64), (128, 128), (256, 64), (256, 128))
_WIDTHS = (4, 8, 16, 32, 64, 128)


def features(kernels: Sequence[Kernel], *, vector_lanes: int) -> Floats:
    """One row of `FEATURES` per kernel: float64 ``[kernels, features]``."""
    return features_of(columns_of(kernels), vector_lanes=vector_lanes)


def features_of(columns: Columns, *, vector_lanes: int) -> Floats:
    """The same from the columns of kernels."""
    named = _named(columns, vector_lanes)
    return np.stack([np.asarray(each, np.float64) for each in named.values()], axis=1)


def work(kernels: Sequence[Kernel]) -> Floats:
    """What a roofline is made of: ``[kernels, 3]`` of multiply-adds, bytes moved, and ones."""
    return work_of(columns_of(kernels))


def work_of(columns: Columns) -> Floats:
    """The same from the columns of kernels."""
    steps = columns["macs"]
    return np.stack([steps, columns["moved_bytes"], np.ones_like(steps)], axis=1)


def terms_of(columns: Columns) -> Floats:
    """What a roofline of many measurements is made of: ``[kernels, 8]``, `work` and then the
    multiply-adds of whole slices, the bytes of inputs, of output and of weights apart, and the
    square root of multiply-adds, which stands for what small work does not fill.
    """
    whole = tiles(columns["in_channels"], SLICE) * tiles(columns["out_channels"], SLICE)
    whole *= SLICE**2 / np.maximum(1.0, columns["in_channels"] * columns["out_channels"])
    steps = columns["macs"]
    others = [steps * whole, *(columns[f"{name}_bytes"] for name in ("input", "output", "weight"))]
    return np.column_stack([work_of(columns), *others, np.sqrt(steps)])


def _named(c: Columns, vector_lanes: int) -> dict[str, Floats]:
    return {
        **_work_features(c),
        **_shape_features(c),
        "in_filled": filled(c["in_channels"], vector_lanes),
        "out_filled": filled(c["out_channels"], vector_lanes),
        **_filled_features(c),
        **_block_features(c),
        **_group_features(c),
    }


def _work_features(c: Columns) -> dict[str, Floats]:
    return {
        "log_macs": _log(c["macs"]),
        "log_input_bytes": _log(c["input_bytes"]),
        "log_output_bytes": _log(c["output_bytes"]),
        "log_weight_bytes": np.log1p(c["weight_bytes"]),
        "log_moved_bytes": _log(c["moved_bytes"]),
        # multiply-adds per byte moved
        "log_intensity": _log(c["macs"]) - _log(c["moved_bytes"]),
    }


def _shape_features(c: Columns) -> dict[str, Floats]:
    positions = _positions(c)
    reach = (c["out_height"] - 1) * c["stride"] + c["kernel_height"]
    item_bytes = c["output_bytes"] / np.maximum(1, positions * c["out_channels"])
    return {
        "log_batch": _log(c["batch"]),
        "log_positions": _log(positions),
        "log_in_height": _log(c["in_height"]),
        "log_out_height": _log(c["out_height"]),
        "log_in_channels": _log(c["in_channels"]),
        "log_out_channels": _log(c["out_channels"]),
        "log_widening": _log(c["out_channels"]) - _log(c["in_channels"]),
        "log_depth": _log(c["depth"]),
        "log_kernel_area": _log(c["kernel_height"] * c["kernel_width"]),
        "log_stride": _log(c["stride"]),
        "log_groups": _log(c["groups"]),
        "log_inputs": _log(c["inputs"]),
        "log_padding": _log(reach) - _log(c["in_height"]),
        "log_columns_bytes": _log(positions * c["depth"] * item_bytes),
        "log_output_itemsize": np.log(np.maximum(item_bytes, 0.125)),
        "fused_steps": c["fused_steps"],
        "fused_residual": np.minimum(c["fused_additions"], 1.0),
        "variant": c["variant"],
        # Winograd's algorithm is for these.
        "dense_3x3": ((c["depth"] == 9 * c["in_channels"]) & (c["stride"] == 1)).astype(float),
    }


def _filled_features(c: Columns) -> dict[str, Floats]:
    made = {f"in_filled_{each}": filled(c["in_channels"], each) for each in _WIDTHS}
    made |= {f"out_filled_{each}": filled(c["out_channels"], each) for each in _WIDTHS}
    made |= {f"depth_filled_{each}": filled(c["depth"], each) for each in (16, 32, 64)}
    made |= {f"height_filled_{each}": filled(c["out_height"], each) for each in (2, 4, 8, 16)}
    positions = _positions(c)
    return made | {
        f"positions_filled_{each}": filled(positions, each) for each in (32, 64, 128, 256)
    }


def _block_features(c: Columns) -> dict[str, Floats]:
    positions = _positions(c)
    made = {
        f"log_blocks_{rows}x{channels}": _log(
            tiles(positions, rows) * tiles(c["out_channels"], channels)
        )
        for rows, channels in _BLOCKS
    }
    for side in (2, 4):  # tiles of Winograd's algorithm
        across = tiles(c["out_height"], side) * tiles(c["out_width"], side)
        made[f"log_tiles_{side}x{side}"] = _log(across * c["batch"])
    return made


def _group_features(c: Columns) -> dict[str, Floats]:
    """Work items and work groups of a grid of four channels each, as GPUs of phones have them."""
    slices_in, slices = tiles(c["in_channels"], SLICE), tiles(c["out_channels"], SLICE)
    height, width = c["out_height"], c["out_width"]
    halves = tiles(height, 2) * tiles(width, 2)
    made = {
        "log_in_slices": _log(slices_in),
        "log_out_slices": _log(slices),
        "in_slices_even": _log(power_of_two(slices_in)),
        "out_slices_even": _log(power_of_two(slices)),
        "height_even": _log(power_of_two(height)),
        "in_channels_odd": c["in_channels"] % SLICE,
        "out_channels_odd": c["out_channels"] % SLICE,
        "log_items": _log(height * width * slices),
        "log_items_2x2": _log(halves * slices),
        "log_items_2x2x2": _log(halves * tiles(slices, 2)),
        "log_items_2x2x4": _log(halves * tiles(slices, 4)),
        "items_filled_2x2x2": height * width * slices / (halves * tiles(slices, 2) * 8),
    }
    for items in (64, 256):
        number, share, each = work_groups(width, height, slices, items=items)
        made |= {
            f"log_groups_{items}": _log(number),
            f"groups_filled_{items}": share,
            f"log_group_{items}": _log(each),
        }
    for deep in (1, 2, 4):
        depth = tiles(slices, deep)
        made[f"log_divisor_{deep}"] = _log(divisor(depth, 16))
        made[f"log_even_divisor_{deep}"] = _log(divisor(depth, 8, prefer_even=True))
    made["log_divided"] = _log(slices) - made["log_even_divisor_1"]
    return made


def _positions(c: Columns) -> Floats:
    return np.maximum(1.0, c["batch"] * c["out_height"] * c["out_width"])


def _log(values: Floats) -> Floats:
    logarithms: Floats = np.log(np.maximum(values, 1.0))
    return logarithms


def _names() -> tuple[str, ...]:
    one: npt.NDArray[np.float64] = np.ones(1)
    return tuple(_named(dict.fromkeys(COLUMNS, one), 8))


FEATURES = _names()
EXTENTS = FEATURES.index("variant") + 1
"""So many features come first that say how large a kernel is: work, traffic and shape."""
PLAIN = FEATURES.index("log_in_slices")
"""So many come before those on work groups, which only some devices have."""
