"""What operators on maps must give."""

from __future__ import annotations

import itertools

import numpy as np

REDUCE = {
    "mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod,
    "l1": lambda x, **how: np.abs(x).sum(**how), "sum_square": lambda x, **how: (x * x).sum(**how),
    "l2": lambda x, **how: np.sqrt((x * x).sum(**how)),
}  # fmt: skip


def to_space(x, block, by_channel):
    """Pixels out of channels, ``x: [N, H, W, C]``."""
    n, h, w, depth = x.shape
    channels = depth // (block[0] * block[1])
    if by_channel:
        parts = x.reshape(n, h, w, channels, *block).transpose(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, h, w, *block, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(parts.reshape(n, h * block[0], w * block[1], channels))


def pooled(x, out, size, strides, dilations, pads, reduce):
    """`reduce` of the values of every window, and of their number with the padding."""
    made = np.zeros((1, *out, x.shape[3]))
    for y, c in itertools.product(range(out[0]), range(out[1])):
        corner = (y * strides[0] - pads[0], c * strides[1] - pads[1])
        places = [
            [corner[i] + k * dilations[i] for k in range(size[i])
             if corner[i] + k * dilations[i] < x.shape[1 + i] + pads[2 + i]]
            for i in range(2)
        ]  # fmt: skip
        inside = [[p for p in places[i] if 0 <= p < x.shape[1 + i]] for i in range(2)]
        window = x[0, inside[0]][:, inside[1]].reshape(-1, x.shape[3])
        made[0, y, c] = reduce(window, len(places[0]) * len(places[1]))
    return made
