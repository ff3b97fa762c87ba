"""Sub-networks of the Once-for-All MobileNet supernet (arXiv 1908.09791): five stages of blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

import numpy as np

from millifit.errors import DataError
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.prediction import Flags, Floats

STAGES = 5
BLOCKS = 4  # at most, in a stage
KERNELS = (3, 5, 7)
EXPANSIONS = (3, 4, 6)
DEPTHS = (2, 3, 4)

_FIELDS = {"d": STAGES, "ks": STAGES * BLOCKS, "e": STAGES * BLOCKS}
_SUBNET = re.compile(r"r=(\d+);d=([\d,]+);ks=([\d,]+);e=([\d,]+)")
_LARGEST_RESOLUTION = 224
_CHOICES = tuple(product(KERNELS, EXPANSIONS))


def encode_supernets(subnets: Sequence[str]) -> Encoded:
    """Features of strings ``r=<resolution>;d=<5 depths>;ks=<20 kernels>;e=<20 expansions>``.

    Block j of stage i is number 4 i + j and exists where j < d[i]; what the string says of the
    others is left out. Groups: ``block`` (180, kernel and expansion of each block one-hot),
    ``block work`` (the same times resolution²/224²), ``stage`` and ``stage work`` (45 each, how
    many blocks of a stage have a kernel and an expansion), ``depth`` (15, one-hot) and
    ``resolution`` (2, r/224 and its square).

    A sub-network with a kernel, an expansion or a depth of another space is not ``known``. Raises
    DataError for a string that is no sub-network at all.
    """
    resolution, depths, kernels, expansions = _fields(subnets)
    exists = np.arange(BLOCKS) < depths[:, :, None]  # [n, stages, blocks]
    chosen = np.stack([(kernels == k) & (expansions == e) for k, e in _CHOICES], axis=-1)
    blocks = (chosen.reshape(len(chosen), STAGES, BLOCKS, -1) & exists[..., None]).astype(float)
    flat, stages = blocks.reshape(len(blocks), -1), blocks.sum(axis=2).reshape(len(blocks), -1)
    scale = resolution / _LARGEST_RESOLUTION
    area = scale[:, None] ** 2
    block_names, stage_names = _names()
    one_hot_depths = (depths[:, :, None] == np.array(DEPTHS)).reshape(len(depths), -1)
    depth_names = tuple(f"{stage} of {depth}" for stage in range(STAGES) for depth in DEPTHS)
    complete = chosen.any(axis=-1).reshape(exists.shape) | ~exists
    known: Flags = np.asarray(
        complete.all(axis=(1, 2)) & np.isin(depths, DEPTHS).all(axis=1), np.bool_
    )
    return Encoded.of(
        {
            "block": (block_names, flat),
            "block work": (block_names, flat * area),
            "stage": (stage_names, stages),
            "stage work": (stage_names, stages * area),
            "depth": (depth_names, one_hot_depths.astype(np.float64)),
            "resolution": (("side", "area"), np.column_stack([scale, area])),
        },
        known=known,
    )


def _fields(subnets: Sequence[str]) -> tuple[Floats, Floats, Floats, Floats]:
    """Resolution ``[n]``, depths ``[n, 5]``, kernels ``[n, 20]`` and expansions ``[n, 20]``."""
    columns: dict[str, list[list[int]]] = {"r": [], "d": [], "ks": [], "e": []}
    for subnet in subnets:
        found = _SUBNET.fullmatch(subnet)
        values = (
            [[int(each) for each in text.split(",") if each] for text in found.groups()]
            if (found)
            else []
        )
        if [len(each) for each in values] != [1, *_FIELDS.values()] or not values[0][0]:
            raise DataError(
                f"'{subnet}' is no Once-for-All sub-network: write "
                "r=<resolution>;d=<5 depths>;ks=<20 kernel sizes>;e=<20 expansion ratios>."
            )
        for name, each in zip(columns, values, strict=True):
            columns[name].append(each)
    resolution, *rest = (
        np.array(column, np.float64).reshape(len(subnets), -1) for column in columns.values()
    )
    depths, kernels, expansions = rest
    return resolution.reshape(-1), depths, kernels, expansions


def _names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    choices = [f"k{kernel} e{expansion}" for kernel, expansion in _CHOICES]
    blocks = tuple(f"{number} {choice}" for number in range(STAGES * BLOCKS) for choice in choices)
    return blocks, tuple(f"{stage} {choice}" for stage in range(STAGES) for choice in choices)
