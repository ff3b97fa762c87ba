"""Which rows and columns a Resize reads, and how it weights them, in each of ONNX's conventions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from millifit.targets.network import Array, Node

Floats = npt.NDArray[np.float32]


def resampling(
    node: Node, source: tuple[int, ...], made: tuple[int, ...], scales: Array | None
) -> dict[str, Array] | None:
    """``row_index``, ``row_weight`` of ``[rows, taps]``, and those of the columns of a Resize.

    `source` and `made` are the shapes of its input and output; without `scales` they say how much
    larger the output is. None for what has no kernel: batch or channels resized, cropping,
    antialiasing, a policy that keeps the aspect ratio. Coordinates are computed in float32, as ONNX
    Runtime does, so that both take the same side of a tie.
    """
    unsupported = (
        node.attributes.get("antialias", 0)
        or node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        or node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    )
    if unsupported or len(source) != 4 or source[:2] != made[:2]:
        return None
    factors = [np.float32(b) / np.float32(a) for a, b in zip(source, made, strict=True)]
    if scales is not None and scales.size:
        axes = node.attributes.get("axes", tuple(range(4)))
        assert isinstance(axes, tuple)
        given = scales.astype(np.float32).ravel()
        for axis, scale in zip((int(axis) % 4 for axis in axes), given, strict=True):
            factors[axis] = scale
    tables: dict[str, Array] = {}
    for name, axis in (("row", 2), ("column", 3)):
        index, weight = _axis(node, source[axis], made[axis], factors[axis])
        tables[f"{name}_index"], tables[f"{name}_weight"] = index, weight
    return tables


def _axis(
    node: Node, extent: int, made: int, scale: np.float32
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Places in the input and their weights, ``[made, taps]`` each."""
    rule = str(node.attributes.get("coordinate_transformation_mode", "half_pixel"))
    mode = str(node.attributes.get("mode", "nearest"))
    at = _coordinates(rule, extent, made, scale)
    if extent == made and scale == 1 and np.array_equal(at, np.arange(made)):
        return np.arange(made, dtype=np.int32)[:, None], np.ones((made, 1), np.float32)
    if mode == "nearest":
        near = _nearest(str(node.attributes.get("nearest_mode", "round_prefer_floor")), at)
        index = np.clip(near, 0, extent - 1).astype(np.int32)
        return index[:, None], np.ones((made, 1), np.float32)
    if mode == "linear":
        at = np.clip(at, 0, extent - 1)
        low = np.minimum(at.astype(np.int32), extent - 1)
        share = (at - low).astype(np.float32)
        index = np.stack([low, np.minimum(low + 1, extent - 1)], axis=1)
        return index.astype(np.int32), np.stack([1 - share, share], axis=1).astype(np.float32)
    return _cubic(node, at, extent)


def _coordinates(rule: str, extent: int, made: int, scale: np.float32) -> Floats:
    """Where each output position is in the input."""
    x, half = np.arange(made, dtype=np.float32), np.float32(0.5)
    match rule:
        case "asymmetric":
            return np.asarray(x / scale, np.float32)
        case "align_corners":
            if made == 1:
                return np.zeros(1, np.float32)
            return (x * np.float32(extent - 1) / np.float32(made - 1)).astype(np.float32)
        case "pytorch_half_pixel" if made == 1:
            return np.zeros(1, np.float32)
        case "half_pixel_symmetric":
            adjusted = np.float32(made) / (scale * np.float32(extent))
            offset = np.float32(extent) / 2 * (1 - adjusted)
            return (offset + (x + half) / scale - half).astype(np.float32)
    return ((x + half) / scale - half).astype(np.float32)


def _nearest(rule: str, at: Floats) -> Floats:
    match rule:
        case "floor":
            return np.asarray(np.floor(at), np.float32)
        case "ceil":
            return np.asarray(np.ceil(at), np.float32)
        case "round_prefer_ceil":
            return np.asarray(np.floor(at + np.float32(0.5)), np.float32)
    return np.asarray(np.ceil(at - np.float32(0.5)), np.float32)


def _cubic(node: Node, at: Floats, extent: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Four places and Keys' weights; what lies outside counts as the edge, or not at all."""
    a = float(str(node.attributes.get("cubic_coeff_a", -0.75)))
    low = np.floor(at)
    share = (at - low).astype(np.float64)
    index = low[:, None].astype(np.int64) + np.arange(-1, 3)
    off = np.abs(share[:, None] - np.arange(-1, 3))
    near = ((a + 2) * off - (a + 3)) * off * off + 1
    far = ((a * off - 5 * a) * off + 8 * a) * off - 4 * a
    weight = np.where(off <= 1, near, np.where(off < 2, far, 0))
    if node.attributes.get("exclude_outside", 0):
        weight = np.where((index < 0) | (index >= extent), 0, weight)
        weight /= weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, extent - 1).astype(np.int32), weight.astype(np.float32)
