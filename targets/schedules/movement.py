"""Concat and pad: maps put together and extended, as copies of runs of neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import moves, tir
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.target import Target


def movement(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a concat or pad kernel, of any element type and rank."""
    if kernel.op == "concat":
        return _concat(kernel, target)
    return _pad(kernel, target)


def integers(kernel: Kernel, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """An attribute that is a tuple of integers."""
    value = dict(kernel.attributes).get(name, default)
    if not isinstance(value, tuple):
        raise TypeError(f"kernel '{kernel.op}': attribute '{name}' must be a tuple, is {value!r}")
    return value


def _parallel(kernel: Kernel, target: Target) -> bool:
    return target.threads > 1 and kernel.output.elements >= moves.PARALLEL_ELEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a concat kernel puts together.

    `requantized` names parts of uint8 whose scale is not the output's. They are computed as
    QuantizeLinear of DequantizeLinear, which is what ONNX Runtime's QLinearConcat computes; operand
    ``scales`` has scale and zero point of every part and of the output.
    """

    outers: int
    runs: tuple[int, ...]  # neighbours of each part
    requantized: tuple[int, ...]

    @property
    def operands(self) -> dict[str, TensorType]:
        """The operand ``scales``."""
        return {"scales": TensorType(shape=(2 * len(self.runs) + 2,), dtype="float32")}

    def converted(self, part: int, scales: tir.Buffer, value: tir.Expr, lanes: int) -> tir.Expr:
        """Values of a part as the output has them."""
        if part not in self.requantized:
            return value

        def scalar(place: int) -> tir.Expr:
            return tir.splat(tir.load(scales, tir.const(place)), lanes)

        real = tir.cast(tir.cast(value, "int32", lanes), "float32", lanes)
        real = (real - scalar(2 * part + 1)) * scalar(2 * part)
        rounded = tir.round_half_even(real / scalar(2 * len(self.runs)))
        rounded = rounded + scalar(2 * len(self.runs) + 1)
        low, high = tir.const(0.0, "float32", lanes), tir.const(255.0, "float32", lanes)
        return tir.cast(tir.cast(tir.clamp(rounded, low, high), "int32", lanes), "uint8", lanes)

    def pack(self, constants: Constants) -> tuple[Array, ...]:
        """The operand ``scales`` of a call."""
        names = [*(f"input{i}" for i in range(len(self.runs))), "output"]
        parts = [f"{i}_{name}" for i in names for name in ("scale", "zero_point")]
        return (np.array([constants.get(part, np.float32(1)) for part in parts], np.float32),)


def parts_of(kernel: Kernel) -> Parts:
    """The parts of a concat kernel, along its attribute ``axis``."""
    axis = int(number(kernel, "axis", 0))
    return Parts(
        outers=math.prod(kernel.output.shape[:axis]),
        runs=tuple(math.prod(kind.shape[axis:]) for kind in kernel.inputs),
        requantized=integers(kernel, "requantized"),
    )


def _concat(kernel: Kernel, target: Target) -> KernelCode:
    """The parts along an axis, one behind the other."""
    parts = parts_of(kernel)
    parameters = signature(kernel, parts.operands)
    views = parameters.views
    sources = list(views.values())[: len(parts.runs)]
    itemsize = np.dtype(kernel.output.dtype).itemsize

    def outer(o: tir.Expr) -> list[tir.Statement]:
        written: list[tir.Statement] = []
        to = o * sum(parts.runs)
        for part, run in enumerate(parts.runs):
            convert = partial(parts.converted, part, views["scales"])
            written += moves.copy(
                target, sources[part], o * run, views["output"], to, run, itemsize=itemsize,
                convert=convert if part in parts.requantized else None,
            )  # fmt: skip
            to = to + run
        return written

    parallel = _parallel(kernel, target) and parts.outers > 1
    body = tir.loop(parts.outers, outer, name="o", parallel=parallel)
    return KernelCode(
        function=parameters.function(body), operands=tuple(parts.operands.values()),
        pack=parts.pack,
    )  # fmt: skip


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one place of each axis to the next."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Positions of the input: the first, and from one to the next."""

    first: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """`count` positions of an output's axis from `first` on, and where they come from.

    `source` is None where a value pads.
    """

    first: int
    count: int
    source: _Place | None


def _sides(mode: str, before: int, extent: int, after: int) -> list[_Side]:
    """Left padding, the input itself, right padding."""
    left: _Place | None = None
    right: _Place | None = None
    match mode:
        case "reflect":
            left = _Place(first=before, step=-1)
            right = _Place(first=extent - 2, step=-1)
        case "edge":
            left, right = _Place(first=0, step=0), _Place(first=extent - 1, step=0)
        case "wrap":
            left, right = _Place(first=extent - before, step=1), _Place(first=0, step=1)
    sides = [
        _Side(first=0, count=before, source=left),
        _Side(first=before, count=extent, source=_Place(first=0, step=1)),
        _Side(first=before + extent, count=after, source=right),
    ]
    return [side for side in sides if side.count]


def _pad(kernel: Kernel, target: Target) -> KernelCode:
    """Padding `before` and behind each axis up to the output's shape, in the mode it says.

    The operand ``value``, one element, is that of constant padding.
    """
    source, shape = kernel.inputs[0].shape, kernel.output.shape
    before, mode = integers(kernel, "before"), str(kernel.attribute("mode"))
    dtype = kernel.output.dtype
    operands = {"value": TensorType(shape=(1,), dtype=dtype)}
    parameters = signature(kernel, operands)
    views = parameters.views
    itemsize = np.dtype(dtype).itemsize
    lanes = moves.widest(target, itemsize)
    padded = [i for i in range(len(shape)) if shape[i] != source[i]]
    last = padded[-1] if padded else 0
    read_strides, strides = strides_of(source), strides_of(shape)

    def along(axis: int, read: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
        written: list[tir.Statement] = []
        after = shape[axis] - before[axis] - source[axis]
        for side in _sides(mode, before[axis], source[axis], after):
            start = to + side.first * strides[axis]
            if side.source is None:
                value = tir.load(views["value"], tir.const(0))
                written += moves.fill(
                    views["output"], start, side.count * strides[axis], value, lanes=lanes
                )
            elif axis == last and side.first == before[axis]:
                written += moves.copy(
                    target, views["input"], read, views["output"], start,
                    side.count * strides[axis], itemsize=itemsize,
                )  # fmt: skip
            else:
                written += tir.loop(
                    side.count,
                    partial(element, axis, read, start, side),
                    name=f"i{axis}",
                    parallel=axis == outermost and _parallel(kernel, target),
                )
        return written

    def element(
        axis: int, read: tir.Expr, to: tir.Expr, side: _Side, i: tir.Expr
    ) -> list[tir.Statement]:
        assert side.source is not None
        at = i * side.source.step + side.source.first
        read, to = read + at * read_strides[axis], to + i * strides[axis]
        if axis < last:
            return along(axis + 1, read, to)
        return moves.copy(
            target, views["input"], read, views["output"], to, strides[axis], itemsize=itemsize
        )

    outermost = next((i for i, extent in enumerate(shape) if extent > 1), 0)
    body = along(0, tir.const(0), tir.const(0))
    return KernelCode(
        function=parameters.function(body), operands=tuple(operands.values()),
        pack=partial(pack_padding, dtype),
    )  # fmt: skip


def pack_padding(dtype: str, constants: Constants) -> tuple[Array, ...]:
    """The operand ``value`` of a pad kernel."""
    return (np.asarray(constants.get("value", 0), dtype).reshape(1),)
