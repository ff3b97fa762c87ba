"""Copies on a GPU: every output vector knows where in the input it comes from.

Neighbouring threads write neighbours. Vectors are as long as source and destination allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm import tirx
from tvm.tirx import stmt

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules import epilogue, gather, tir
from millifit.targets.schedules.code import KernelCode, number, pair
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.launch import each, unravel
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.schedules.movement import integers, pack_padding, parts_of, strides_of
from millifit.targets.target import Gpu

SCALARS: Mapping[str, TensorType] = {"scalars": epilogue.SCALARS_TYPE}
"""Operands of a kernel that has no others."""

# From the coordinates of an output element to where in the input it lies.
Source = Callable[[list[tir.Expr]], tir.Expr]


def copied(kernel: Kernel, gpu: Gpu, source: Source, *, vectors: bool) -> KernelCode:
    """A copy; with `vectors`, `LANES` neighbours of the output are neighbours of the input."""
    held = memory(kernel, gpu, SCALARS)
    shape, lanes = kernel.output.shape, LANES if vectors else 1

    def vector(i: tir.Expr) -> list[tir.Statement]:
        value = held.read("input", source(unravel(i * lanes, shape)), lanes)
        if kernel.inputs[0].dtype == "float32" and kernel.output.dtype == "uint8":
            value = epilogue.quantize(value, held.views["scalars"], lanes)
        return [held.write("output", i * lanes, value, lanes)]

    return with_scalars(held, each(gpu, kernel.output.elements // lanes, vector))


def with_scalars(held: Memory, body: Sequence[tir.Statement]) -> KernelCode:
    """The code of a kernel whose only operands are its scalars."""
    return KernelCode(
        function=held.function(body), operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )  # fmt: skip


def _dot(places: Sequence[tir.Expr], strides: Sequence[int]) -> tir.Expr:
    return sum((p * n for p, n in zip(places, strides, strict=True) if n), tir.const(0))


def strided(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """``output[i, j, ...] = input[offset + i * s0 + j * s1 + ...]``; any type."""
    strides, offset = integers(kernel, "strides"), int(number(kernel, "offset", 0))
    vectors = bool(strides) and strides[-1] == 1 and kernel.output.shape[-1] % LANES == 0
    vectors = vectors and all(n % LANES == 0 for n in (*strides[:-1], offset))
    if not strides:
        return copied(kernel, gpu, lambda _: tir.const(offset), vectors=False)
    return copied(kernel, gpu, lambda places: _dot(places, strides) + offset, vectors=vectors)


def layout(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """to_channels_last (N, C, H, W -> N, H, W, C) and to_channels_first; quantized where asked."""
    shape = kernel.inputs[0].shape
    strides = strides_of(shape)
    if kernel.op == "to_channels_last":
        order = (0, *range(2, len(shape)), 1)
    else:
        order = (0, len(shape) - 1, *range(1, len(shape) - 1))
    turned = [strides[axis] for axis in order]
    return copied(kernel, gpu, lambda places: _dot(places, turned), vectors=False)


def rearrange(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """depth_to_space, space_to_depth and channel_shuffle (see `schedules.rearrange`)."""
    strides, channels = strides_of(kernel.inputs[0].shape), kernel.output.shape[-1]
    if kernel.op == "channel_shuffle":
        groups = int(number(kernel, "groups", 1))

        def shuffled(places: list[tir.Expr]) -> tir.Expr:
            *pixel, c = places
            size = channels // groups
            return _dot(pixel, strides[:-1]) + c % groups * size + c // groups

        return copied(kernel, gpu, shuffled, vectors=False)
    block = pair(kernel, "block")
    if kernel.op == "space_to_depth":
        depth = kernel.inputs[0].shape[-1]

        def gathered(places: list[tir.Expr]) -> tir.Expr:
            n, y, x, c = places
            row, column = c // (block[1] * depth), c // depth % block[1]
            pixel = [n, y * block[0] + row, x * block[1] + column, c % depth]
            return _dot(pixel, strides)

        return copied(kernel, gpu, gathered, vectors=depth % LANES == 0)
    crop, by_channel = pair(kernel, "crop", (0, 0)), kernel.attribute("mode") == "CRD"

    def spread(places: list[tir.Expr]) -> tir.Expr:
        n, y, x, c = places[0], places[1] + crop[0], places[2] + crop[1], places[3]
        row, column = y % block[0], x % block[1]
        within = (row * block[1] + column) * channels + c
        if by_channel:
            within = (c * block[0] + row) * block[1] + column
        return _dot([n, y // block[0], x // block[1], within], strides)

    return copied(kernel, gpu, spread, vectors=not by_channel and channels % LANES == 0)


def concat(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """The parts along an axis, one behind the other, in one launch."""
    parts = parts_of(kernel)
    held = memory(kernel, gpu, parts.operands)
    lanes = LANES if all(run % LANES == 0 for run in parts.runs) else 1
    total = sum(parts.runs)
    names = list(held.views)

    def vector(i: tir.Expr) -> list[tir.Statement]:
        outer, within = unravel(i * lanes, (parts.outers, total))

        def taken(part: int, first: int) -> list[tir.Statement]:
            run = parts.runs[part]
            value = held.read(names[part], outer * run + within - first, lanes)
            value = parts.converted(part, held.views["scales"], value, lanes)
            written = [held.write("output", i * lanes, value, lanes)]
            if part + 1 == len(parts.runs):
                return written
            others = tir.sequence(taken(part + 1, first + run))
            return [stmt.IfThenElse(within < first + run, tir.sequence(written), others)]

        return taken(0, 0)

    return KernelCode(
        function=held.function(each(gpu, kernel.output.elements // lanes, vector)),
        operands=tuple(parts.operands.values()), pack=parts.pack,
    )  # fmt: skip


def pad(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Padding `before` and behind each axis up to the output's shape, in the mode it says."""
    source, shape = kernel.inputs[0].shape, kernel.output.shape
    before, mode = integers(kernel, "before"), str(kernel.attribute("mode"))
    dtype = kernel.output.dtype
    value_type = TensorType(shape=(1,), dtype=dtype)
    held = memory(kernel, gpu, {"value": value_type})
    lanes = LANES if source[-1] == shape[-1] and shape[-1] % LANES == 0 else 1

    def found(place: tir.Expr, axis: int) -> tir.Expr:
        extent, at = source[axis], place - before[axis]
        if source[axis] == shape[axis]:
            return place
        match mode:
            case "reflect":
                at = tirx.max(at, 0 - at)
                return tirx.min(at, 2 * (extent - 1) - at)
            case "wrap":
                return tirx.floormod(at + extent, extent)
        return tir.clamp(at, tir.const(0), tir.const(extent - 1))

    def vector(i: tir.Expr) -> list[tir.Statement]:
        places = unravel(i * lanes, shape)
        strides = strides_of(source)
        at = _dot([found(place, axis) for axis, place in enumerate(places)], strides)
        written = [held.write("output", i * lanes, held.read("input", at, lanes), lanes)]
        padded = [a for a in range(len(shape)) if source[a] != shape[a]]
        if mode != "constant" or not padded:
            return written
        inside = [
            tirx.all(places[a] >= before[a], places[a] < before[a] + source[a]) for a in padded
        ]
        value = tir.splat(held.read("value", tir.const(0)), lanes)
        outside = held.write("output", i * lanes, value, lanes)
        return [stmt.IfThenElse(tirx.all(*inside), tir.sequence(written), outside)]

    return KernelCode(
        function=held.function(each(gpu, kernel.output.elements // lanes, vector)),
        operands=(value_type,), pack=lambda constants: pack_padding(dtype, constants),
    )  # fmt: skip


def embedding(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """``output[i] = table[ids[i]]`` (see `schedules.gather`)."""
    operands, channels = gather.operands_of(kernel), kernel.output.shape[-1]
    held = memory(kernel, gpu, operands)
    lanes = LANES if channels % LANES == 0 else 1

    def vector(i: tir.Expr) -> list[tir.Statement]:
        item, channel = unravel(i * lanes, (kernel.inputs[0].elements, channels))
        named, given = tir.bind("id", held.read("input", item), kernel.inputs[0].dtype)
        row = gather.row_of(kernel, given).astype("int32")
        value = held.read("table", row * channels + channel, lanes)
        if kernel.output.dtype == "uint8":
            value = epilogue.quantize(value, held.views["scalars"], lanes)
        return [named, held.write("output", i * lanes, value, lanes)]

    return KernelCode(
        function=held.function(each(gpu, kernel.output.elements // lanes, vector)),
        operands=tuple(operands.values()), pack=gather.pack,
    )  # fmt: skip
