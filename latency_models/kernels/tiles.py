"""How shapes fill tiles, vectors and groups of work items: where latency jumps come from."""

from __future__ import annotations

import numpy as np

from millifit.latency_models.prediction import Floats

# Channels per element of a texture: what GPUs of phones compute at a time.
SLICE = 4


def filled(extents: Floats, tile: int) -> Floats:
    """The share of the tiles that extents ``[n]`` fill: 20 fills 5/6 of three tiles of 8."""
    share: Floats = extents / (tiles(extents, tile) * tile)
    return share


def tiles(extents: Floats, tile: int) -> Floats:
    """How many tiles extents ``[n]`` take."""
    number: Floats = np.ceil(extents / tile)
    return number


def power_of_two(extents: Floats, most: int = 16) -> Floats:
    """The largest power of two that divides each extent, at most `most`: 24 has 8."""
    whole = extents.astype(np.int64)
    power: Floats = np.minimum(whole & -whole, most).astype(np.float64)
    return power


def divisor(extents: Floats, most: int, *, prefer_even: bool = False) -> Floats:
    """The largest divisor of each extent up to `most`; with `prefer_even` 8, 4 or 2 if one divides.

    The depth of a work group as TensorFlow Lite's GPU delegate chooses it: `GetBiggestDivider` and
    `GetBiggestDividerWithPriority` in tensorflow/lite/delegates/gpu/common/workgroup_selection.cc.
    """
    whole = extents.astype(np.int64)
    found = np.ones(len(whole))
    candidates = [*range(2, most + 1), *((2, 4, 8) if prefer_even else ())]
    for candidate in candidates:
        found[whole % candidate == 0] = candidate
    return found


def work_groups(width: Floats, height: Floats, depth: Floats, *, items: int) -> tuple[Floats, ...]:
    """Groups of at most `items` work items that cover a grid: their number, the share of items that
    have work, and the items of one group, each ``[n]``.

    As `GetWorkGroup` of TensorFlow Lite's GPU delegate does it (same file).
    """
    deep = divisor(depth, 8, prefer_even=True)
    flat = np.maximum(1, items // deep)
    wide = np.minimum(np.ceil(width / 2), flat)
    high = np.minimum(np.maximum(1, flat // wide), height)
    across, down = np.ceil(width / wide), np.ceil(height / high)
    share = width * height / (across * wide * down * high)
    return across * down * depth / deep, share, wide * high * deep
