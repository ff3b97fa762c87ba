"""Attention kernels, and what attention must give."""

from __future__ import annotations

import numpy as np
from kernels import tensor

from millifit.targets.kernel import Kernel


def probabilities(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def attention_kernel(q, v, *, mask=None, output="float32", packed=False):
    """The kernel of [L, H*D] operands, or of one [L, 3*H*D] that holds all three."""
    (queries, heads, depth), (keys, _, width) = q, v
    rows = [3 * heads * depth] * 3 if packed else [heads * depth, heads * depth, heads * width]
    offsets = [0, heads * depth, 2 * heads * depth] if packed else [0, 0, 0]
    attributes = {
        "heads": heads, "queries": queries, "keys": keys, "depth": depth, "width": width,
        "query": (offsets[0], depth, rows[0], 1), "key": (offsets[1], depth, rows[1], 1),
        "value": (offsets[2], width, rows[2], 1), "output": (0, width, heads * width, 1),
    }  # fmt: skip
    inputs = [tensor((queries, rows[0])), tensor((keys, rows[1])), tensor((keys, rows[2]))]
    if mask is not None:
        attributes["mask"] = mask[1]
        inputs.append(tensor(mask[0]))
    return Kernel(
        op="attention", inputs=tuple(inputs), output=tensor((queries, heads * width), output),
        precision="fp32", attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip


def attended(q, k, v, scale, mask=0.0):
    """softmax(scale q k^T + mask) v of [L, H, D] operands, [L, H * D]."""
    scores = np.einsum("qhd,khd->hqk", *(x.astype(np.float64) for x in (q, k))) * scale + mask
    made = np.einsum("hqk,khd->qhd", probabilities(scores), v.astype(np.float64))
    return made.reshape(len(q), -1)
