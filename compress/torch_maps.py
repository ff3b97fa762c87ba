"""What operators on maps other than layers compute, in PyTorch: moved, resized, reduced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from millifit.errors import UnsupportedOperator
from millifit.targets.lowering.sampling import resampling
from millifit.targets.network import Node, TensorType

Types = Mapping[str, TensorType]

_PLAIN: dict[str, Callable[..., Tensor]] = {
    "GlobalMaxPool": lambda x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "Max": torch.maximum,
    "Min": torch.minimum,
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
}
_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL2": lambda x, dim, keepdim: x.square().sum(dim=dim, keepdim=keepdim).sqrt(),
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceSum": torch.sum,
}


def compute(node: Node, inputs: Sequence[Tensor | None], types: Types) -> Tensor:
    """The single output of `node`; absent optional inputs are None.

    UnsupportedOperator for what is not known.
    """
    read = [t for t in inputs if t is not None]
    match node.op:
        case op if op in _PLAIN:
            return _PLAIN[op](*read)
        case op if op in _REDUCTIONS:
            return _reduced(node, read)
        case "Elu":
            return functional.elu(read[0], float(str(node.attributes.get("alpha", 1.0))))
        case "ConvTranspose":
            return _conv_transpose(node, read, types)
        case "DepthToSpace":
            return _depth_to_space(node, read[0])
        case "SpaceToDepth":
            return _space_to_depth(node, read[0])
        case "Slice":
            return _slice(read)
        case "Resize":
            return _resize(node, inputs, types)
    raise _unsupported(node, "training cannot run it")


def split(node: Node, x: Tensor | None, types: Types) -> tuple[Tensor, ...]:
    """All outputs of a Split."""
    assert x is not None
    axis = int(str(node.attributes.get("axis", 0))) % x.ndim
    sizes = [types[name].shape[axis] for name in node.outputs]
    return torch.split_with_sizes(x, sizes, dim=axis)


def _unsupported(node: Node, detail: str) -> UnsupportedOperator:
    return UnsupportedOperator(op=node.op, node=node.name, detail=detail)


def _reduced(node: Node, read: list[Tensor]) -> Tensor:
    x = read[0]
    axes = _ints(node, "axes", ())
    if len(read) > 1:
        axes = tuple(int(axis) for axis in read[1].tolist())
    keeps = bool(node.attributes.get("keepdims", 1))
    return _REDUCTIONS[node.op](x, dim=axes or tuple(range(x.ndim)), keepdim=keeps)


def _conv_transpose(node: Node, read: list[Tensor], types: Types) -> Tensor:
    """Without padding, then cropped to the output's shape: any padding is a crop."""
    x, weight = read[:2]
    if weight.ndim != 4 or "output_shape" in node.attributes or "auto_pad" in node.attributes:
        raise _unsupported(node, "only 2-D, explicit pads")
    strides, beyond = _ints(node, "strides", (1, 1)), _ints(node, "output_padding", (0, 0))
    bias = read[2] if len(read) > 2 else None
    made = functional.conv_transpose2d(
        x, weight, None, strides, groups=int(str(node.attributes.get("group", 1))),
        dilation=_ints(node, "dilations", (1, 1)),
    )  # fmt: skip
    made = functional.pad(made, (0, beyond[1], 0, beyond[0]))
    top, left, *_ = _ints(node, "pads", (0, 0, 0, 0))
    rows, columns = types[node.outputs[0]].shape[2:]
    made = made[:, :, top : top + rows, left : left + columns]
    return made if bias is None else made + bias.reshape(1, -1, 1, 1)


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(str(node.attributes["blocksize"]))
    if node.attributes.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, b)
    parts = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(str(node.attributes["blocksize"]))
    parts = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b * b, h // b, w // b)


def _slice(read: list[Tensor]) -> Tensor:
    x, starts, ends, *rest = read
    axes = rest[0].tolist() if rest else range(len(starts))
    steps = rest[1].tolist() if len(rest) > 1 else [1] * len(starts)
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes, steps, strict=True):
        places = range(x.shape[axis])[slice(start, None if end < -x.shape[axis] else end, step)]
        x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _resize(node: Node, inputs: Sequence[Tensor | None], types: Types) -> Tensor:
    x, scales = inputs[0], inputs[2] if len(inputs) > 2 else None
    assert x is not None
    given = None if scales is None else scales.numpy()
    tables = resampling(node, types[node.inputs[0]].shape, types[node.outputs[0]].shape, given)
    if tables is None:
        raise _unsupported(node, "only rows and columns, without cropping")
    index, weight = ([tables[f"{a}_{b}"] for a in ("row", "column")] for b in ("index", "weight"))
    for axis, where, shares in ((2, index[0], weight[0]), (3, index[1], weight[1])):
        taps = [
            x.index_select(axis, torch.from_numpy(where[:, t].astype(np.int64)))
            * torch.from_numpy(shares[:, t]).reshape([-1] + [1] * (3 - axis))
            for t in range(where.shape[1])
        ]
        x = torch.stack(taps).sum(dim=0) if len(taps) > 1 else taps[0]
    return x


def _ints(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = node.attributes.get(name, default)
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)
