"""What each operator of a network computes, in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from millifit.compress import torch_maps
from millifit.errors import UnsupportedOperator
from millifit.targets.network import AttributeValue, Node, TensorType

_CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_INTEGER_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}

_PLAIN: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Ceil": torch.ceil,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Mish": functional.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Softplus": functional.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    # ONNX: x * max(0, min(1, x/6 + 0.5)), which is PyTorch's, too.
    "HardSwish": functional.hardswish,
}


def compute(
    node: Node, inputs: Sequence[Tensor | None], types: Mapping[str, TensorType], batch: int
) -> Tensor:
    """The single output of `node`; absent optional inputs are None.

    `types` are those of the network, whose fixed batch may differ from the `batch` at hand.
    Integers of quantized tensors are carried as floats. UnsupportedOperator for what is not known.
    """
    read = [t for t in inputs if t is not None]
    x = read[0]
    match node.op:
        case op if op in _PLAIN:
            return _PLAIN[op](*read)
        case "Conv":
            return _conv(node, read)
        case "Gemm":
            return _gemm(node, read)
        case "Clip":
            return _clip(node, inputs)
        case "MaxPool" | "AveragePool":
            return _pool(node, x, types)
        case "GlobalAveragePool":
            return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        case "Flatten":
            axis = _int(node, "axis", 1) % (x.ndim + 1)
            return x.flatten(1) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)
        case "Reshape" | "Squeeze" | "Unsqueeze":
            return _reshape(node, x, types, batch)
        case "Concat":
            return torch.cat(read, dim=_int(node, "axis", 1))
        case "Transpose":
            return x.permute(_ints(node, "perm", tuple(reversed(range(x.ndim)))))
        case "HardSigmoid":
            alpha, beta = _float(node, "alpha", 0.2), _float(node, "beta", 0.5)
            return torch.clamp(alpha * x + beta, 0, 1)
        case "Gelu":
            return functional.gelu(x, approximate=str(_number(node, "approximate", "none")))
        case "Selu":
            alpha = _float(node, "alpha", 1.67326319217681884765625)
            gamma = _float(node, "gamma", 1.05070102214813232421875)
            return gamma * functional.elu(x, alpha)
        case "LayerNormalization":
            return _layer_norm(node, read)
        case "Gather":
            return _gather(node, x, read[1])
        case "LeakyRelu":
            return functional.leaky_relu(x, _float(node, "alpha", 0.01))
        case "Softmax":
            return torch.softmax(x, dim=_int(node, "axis", -1))
        case "ReduceMean":
            return _reduce_mean(node, read)
        case "Pad":
            return _pad(node, inputs)
        case "Cast":
            return x.to(_TYPES[types[node.outputs[0]].dtype])
        case "QuantizeLinear":
            return _quantize(read, types[node.outputs[0]].dtype)
        case "DequantizeLinear":
            return _dequantize(node, read)
        case _:
            return torch_maps.compute(node, inputs, types)


def _conv(node: Node, read: list[Tensor]) -> Tensor:
    x, weight = read[0], read[1]
    spatial = weight.ndim - 2
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedOperator(op="Conv", node=node.name, detail="auto_pad; simplify first")
    before, after = _pads(node, spatial)
    symmetric = before == after
    if not symmetric:
        x = functional.pad(x, _torch_pads(before, after))
    return _CONVOLUTIONS[weight.ndim](
        x,
        weight,
        read[2] if len(read) > 2 else None,
        stride=_ints(node, "strides", (1,) * spatial),
        padding=before if symmetric else (0,) * spatial,
        dilation=_ints(node, "dilations", (1,) * spatial),
        groups=_int(node, "group", 1),
    )


def _gemm(node: Node, read: list[Tensor]) -> Tensor:
    a = read[0].T if _int(node, "transA", 0) else read[0]
    b = read[1].T if _int(node, "transB", 0) else read[1]
    product = _float(node, "alpha", 1.0) * (a @ b)
    return product + _float(node, "beta", 1.0) * read[2] if len(read) > 2 else product


def _clip(node: Node, inputs: Sequence[Tensor | None]) -> Tensor:
    x = inputs[0]
    assert x is not None
    bounds: list[float | None] = []
    for place, name in enumerate(("min", "max"), start=1):
        given = inputs[place] if len(inputs) > place else None
        stated = node.attributes.get(name)
        bounds.append(
            given.item() if given is not None else None if stated is None else float(str(stated))
        )
    return x if bounds == [None, None] else torch.clamp(x, bounds[0], bounds[1])


def _pool(node: Node, x: Tensor, types: Mapping[str, TensorType]) -> Tensor:
    if x.ndim != 4 or node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedOperator(op=node.op, node=node.name, detail="only 2-D, explicit pads")
    kernel, strides = _ints(node, "kernel_shape", ()), _ints(node, "strides", (1, 1))
    dilations = _ints(node, "dilations", (1, 1))
    before, after = _pads(node, 2)
    # With ceil_mode the last windows reach beyond the pads: into values that do not count.
    out = types[node.outputs[0]].shape[2:]
    beyond = tuple(
        max(0, (o - 1) * s + (k - 1) * d + 1 - (size + b + a))
        for o, s, k, d, size, b, a in zip(
            out, strides, kernel, dilations, x.shape[2:], before, after, strict=True
        )
    )
    if node.op == "MaxPool":
        reach = tuple(a + e for a, e in zip(after, beyond, strict=True))
        padded = functional.pad(x, _torch_pads(before, reach), value=-math.inf)
        return functional.max_pool2d(padded, kernel, strides, dilation=dilations)
    if dilations != (1, 1):
        raise UnsupportedOperator(op=node.op, node=node.name, detail="dilations")
    counted = torch.ones_like(x[:1, :1])
    pads = _torch_pads(before, after)
    counted = functional.pad(counted, pads, value=float(_int(node, "count_include_pad", 0)))
    extra = _torch_pads((0, 0), beyond)
    total = functional.avg_pool2d(functional.pad(functional.pad(x, pads), extra), kernel, strides)
    return total / functional.avg_pool2d(functional.pad(counted, extra), kernel, strides)


def _reshape(node: Node, x: Tensor, types: Mapping[str, TensorType], batch: int) -> Tensor:
    shape = types[node.outputs[0]].shape
    if shape and shape[0] == types[node.inputs[0]].shape[0]:
        return x.reshape(batch, *shape[1:]) if x.shape[0] == batch else x.reshape(shape)
    # Rows of all samples are one matrix: (N, L, C) to (N * L, C) and back.
    return x.reshape(shape) if x.numel() == math.prod(shape) else x.reshape(-1, *shape[1:])


def _reduce_mean(node: Node, read: list[Tensor]) -> Tensor:
    x = read[0]
    axes = tuple(int(a) for a in read[1].tolist()) if len(read) > 1 else _ints(node, "axes", ())
    return x.mean(dim=axes or tuple(range(x.ndim)), keepdim=bool(_int(node, "keepdims", 1)))


def _layer_norm(node: Node, read: list[Tensor]) -> Tensor:
    x = read[0]
    shape = x.shape[_int(node, "axis", -1) % x.ndim :]
    bias = read[2] if len(read) > 2 else None
    return functional.layer_norm(x, shape, read[1], bias, _float(node, "epsilon", 1e-5))


def _gather(node: Node, x: Tensor, ids: Tensor) -> Tensor:
    axis = _int(node, "axis", 0) % x.ndim
    ids = ids.long()
    ids = torch.where(ids < 0, ids + x.shape[axis], ids)
    chosen = x.index_select(axis, ids.reshape(-1))
    return chosen.reshape(*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :])


def _pad(node: Node, inputs: Sequence[Tensor | None]) -> Tensor:
    x, amounts = inputs[0], inputs[1] if len(inputs) > 1 else None
    mode = node.attributes.get("mode", "constant")
    if x is None or amounts is None or mode != "constant" or len(inputs) > 3:
        raise UnsupportedOperator(op="Pad", node=node.name, detail="only constant padding")
    value = inputs[2].item() if len(inputs) > 2 and inputs[2] is not None else 0.0
    pads = [int(amount) for amount in amounts.tolist()]
    return functional.pad(x, _torch_pads(tuple(pads[: x.ndim]), tuple(pads[x.ndim :])), value=value)


def _quantize(read: list[Tensor], dtype: str) -> Tensor:
    low, high = _INTEGER_LIMITS[dtype]
    zero = read[2] if len(read) > 2 else 0
    return torch.clamp(torch.round(read[0] / read[1]) + zero, low, high)


def _dequantize(node: Node, read: list[Tensor]) -> Tensor:
    values, scale = read[0].float(), read[1]
    zero = read[2].float() if len(read) > 2 else torch.zeros(())
    if block := _int(node, "block_size", 0):
        axis = _int(node, "axis", 1) % values.ndim
        extent = values.shape[axis]
        scale, zero = (
            t.repeat_interleave(block, dim=axis).narrow(axis, 0, extent) if t.ndim else t
            for t in (scale, zero)
        )
        return (values - zero) * scale
    if scale.ndim == 1:
        axis = _int(node, "axis", 1) % values.ndim
        shape = [-1 if a == axis else 1 for a in range(values.ndim)]
        scale = scale.reshape(shape)
        zero = zero.reshape(shape) if zero.ndim else zero
    return (values - zero) * scale


def _pads(node: Node, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pads = _ints(node, "pads", (0,) * (2 * spatial))
    return pads[:spatial], pads[spatial:]


def _torch_pads(before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """ONNX's pads per axis in PyTorch's order: last axis first, e.g. ``(1,0),(2,0) -> 0,0,1,2``."""
    pairs = zip(reversed(before), reversed(after), strict=True)
    return [amount for pair in pairs for amount in pair]


def _number(node: Node, name: str, default: AttributeValue) -> AttributeValue:
    return node.attributes.get(name, default)


def _int(node: Node, name: str, default: int) -> int:
    value = _number(node, name, default)
    assert isinstance(value, int)
    return value


def _float(node: Node, name: str, default: float) -> float:
    value = _number(node, name, default)
    assert isinstance(value, int | float)
    return float(value)


def _ints(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = _number(node, name, default)
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)
