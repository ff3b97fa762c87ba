"""Channels that become pixels, pixels that become channels, and channels that change places."""

from __future__ import annotations

import math

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import KernelCode, number, pair, signature
from millifit.targets.target import Target

# Vectors that are mixed with one another at most: more would not stay in registers.
_MOST_MIXED = 8


def rearrange(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a depth_to_space, space_to_depth or channel_shuffle kernel of any element type."""
    # Not read: TVM would take a function of one tensor for a reshape.
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    views = parameters.views
    parallel = target.threads > 1 and kernel.output.elements >= moves.PARALLEL_ELEMENTS
    match kernel.op:
        case "depth_to_space":
            body = _depth_to_space(kernel, target, views["input"], views["output"], parallel)
        case "space_to_depth":
            body = _space_to_depth(kernel, target, views["input"], views["output"], parallel)
        case _:
            body = _channel_shuffle(kernel, target, views["input"], views["output"], parallel)
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )


def _depth_to_space(
    kernel: Kernel, target: Target, source: tir.Buffer, out: tir.Buffer, parallel: bool
) -> list[tir.Statement]:
    """Blocks of pixels out of channels: `block` high and wide, the first rows and columns cropped.

    The channels of a pixel are (row, column, channel) of its block in mode "DCR", (channel, row,
    column) in mode "CRD". ``crop`` leaves out that many rows and columns at the top and left, the
    output's shape those at the bottom and right.
    """
    block, crop = pair(kernel, "block"), pair(kernel, "crop", (0, 0))
    _, height, width, depth = kernel.inputs[0].shape
    batch, rows, columns, channels = kernel.output.shape
    itemsize = np.dtype(kernel.output.dtype).itemsize
    by_channel = kernel.attribute("mode") == "CRD"
    mixing = None
    if crop == (0, 0) and (rows, columns) == (height * block[0], width * block[1]):
        mixing = _mixing(block, channels, width, moves.widest(target, max(4, itemsize)))
    if mixing is not None:
        lanes, pixels = mixing
        mixed = _Mixed(
            dtype=kernel.output.dtype, block=block, channels=channels, width=width, lanes=lanes,
            pixels=pixels, by_channel=by_channel, source=source, out=out,
        )  # fmt: skip
        return tir.loop(batch * height, mixed.row, name="y", parallel=parallel)

    def output_row(n: tir.Expr, row: tir.Expr) -> list[tir.Statement]:
        within = row + crop[0]
        y, ky = within // block[0], within % block[0]
        pixel = (n * height + y) * width
        to = (n * rows + row) * (columns * channels)
        if by_channel:
            return _strided_row(pixel, ky, to)
        return _whole_row(pixel, ky, to)

    def _whole_row(pixel: tir.Expr, ky: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
        """A pixel's channels of this row are neighbours on both sides."""
        run = block[1] * channels
        skipped = crop[1] % block[1]
        head = min(columns, block[1] - skipped) if skipped else 0
        whole, tail = divmod(columns - head, block[1])
        first = crop[1] // block[1]
        read = (pixel + first) * depth + ky * run
        written: list[tir.Statement] = []
        if head:
            start = read + skipped * channels
            written += moves.copy(
                target, source, start, out, to, head * channels, itemsize=itemsize
            )
            read, to = read + depth, to + head * channels
        written += tir.loop(
            whole,
            lambda x: moves.copy(
                target, source, read + x * depth, out, to + x * run, run, itemsize=itemsize
            ),
            name="x",
        )
        if tail:
            read, to = read + whole * depth, to + whole * run
            written += moves.copy(target, source, read, out, to, tail * channels, itemsize=itemsize)
        return written

    def _strided_row(pixel: tir.Expr, ky: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
        area = math.prod(block)

        def column(x: tir.Expr) -> list[tir.Statement]:
            within = x + crop[1]
            read = (pixel + within // block[1]) * depth + ky * block[1] + within % block[1]
            return tir.loop(
                channels,
                lambda c: [
                    tir.store(out, to + x * channels + c, tir.load(source, read + c * area))
                ],
                name="c",
            )

        return tir.loop(columns, column, name="x")

    return tir.loop(
        batch,
        lambda n: tir.loop(rows, lambda row: output_row(n, row), name="y", parallel=parallel),
        name="n",
    )


def _mixing(
    block: tuple[int, int], channels: int, width: int, lanes: int
) -> tuple[int, int] | None:
    """Lanes, and pixels of the input whose channels fill whole vectors of every output row."""
    run = block[1] * channels
    while lanes >= 4:
        pixels = lanes // math.gcd(lanes, run)
        if block[0] * pixels * run // lanes <= _MOST_MIXED and pixels <= width:
            return lanes, pixels
        lanes //= 2
    return None


class _Mixed:
    """Some input pixels at a time: loaded whole, and written to all output rows of their blocks."""

    def __init__(
        self,
        *,
        dtype: str,
        block: tuple[int, int],
        channels: int,
        width: int,
        lanes: int,
        pixels: int,
        by_channel: bool,
        source: tir.Buffer,
        out: tir.Buffer,
    ) -> None:
        self.dtype, self.block, self.channels, self.width = dtype, block, channels, width
        self.lanes, self.pixels, self.by_channel = lanes, pixels, by_channel
        self.source, self.out = source, out

    def row(self, y: tir.Expr) -> list[tir.Statement]:
        """All pixels of input row y; the last ones may overlap those before."""
        whole, rest = divmod(self.width, self.pixels)
        written = tir.loop(whole, lambda b: self._pixels(y, b * self.pixels), name="b")
        return [*written, *(self._pixels(y, tir.const(self.width - self.pixels)) if rest else [])]

    def _pixels(self, y: tir.Expr, x: tir.Expr) -> list[tir.Statement]:
        (high, wide), lanes = self.block, self.lanes
        run = wide * self.channels
        per_row = self.pixels * run // lanes
        base = (y * self.width + x) * (high * run)
        loads = [tir.load(self.source, base + j * lanes, lanes) for j in range(high * per_row)]
        written, vectors = moves.named(loads, self.dtype, lanes)
        for ky in range(high):
            to = (y * high + ky) * (self.width * run) + x * run
            for j in range(per_row):
                picked = [self._lane(ky, j * lanes + i) for i in range(lanes)]
                value = tir.shuffle(vectors, picked)
                written.append(tir.store(self.out, to + j * lanes, value, lanes))
        return written

    def _lane(self, ky: int, at: int) -> int:
        """Where the element `at` of output row `ky` is among the input pixels' channels."""
        (high, wide), channels = self.block, self.channels
        pixel, kx, channel = at // (wide * channels), at // channels % wide, at % channels
        if self.by_channel:
            within = (channel * high + ky) * wide + kx
        else:
            within = (ky * wide + kx) * channels + channel
        return pixel * high * wide * channels + within


def _space_to_depth(
    kernel: Kernel, target: Target, source: tir.Buffer, out: tir.Buffer, parallel: bool
) -> list[tir.Statement]:
    """Channels out of blocks of pixels: (row, column, channel) of its block for each pixel."""
    high, wide = pair(kernel, "block")
    batch, rows, columns, depth = kernel.output.shape
    channels = kernel.inputs[0].shape[3]
    itemsize = np.dtype(kernel.output.dtype).itemsize
    run = wide * channels

    def row(y: tir.Expr) -> list[tir.Statement]:
        def pixel(x: tir.Expr) -> list[tir.Statement]:
            written: list[tir.Statement] = []
            for ky in range(high):
                read = ((y * high + ky) * columns + x) * run
                to = (y * columns + x) * depth + ky * run
                written += moves.copy(target, source, read, out, to, run, itemsize=itemsize)
            return written

        return tir.loop(columns, pixel, name="x")

    return tir.loop(batch * rows, row, name="y", parallel=parallel)


def _channel_shuffle(
    kernel: Kernel, target: Target, source: tir.Buffer, out: tir.Buffer, parallel: bool
) -> list[tir.Statement]:
    """Channel ``k`` of group ``g`` goes to ``k * groups + g``: one of each group in turn."""
    groups = int(number(kernel, "groups", 1))
    channels = kernel.output.shape[-1]
    pixels, size = kernel.output.elements // channels, channels // groups
    dtype = kernel.output.dtype
    widest = moves.widest(target, max(4, np.dtype(dtype).itemsize))

    def part(pixel: tir.Expr, k: tir.Expr, lanes: int) -> list[tir.Statement]:
        base = pixel * channels
        loads = [tir.load(source, base + g * size + k, lanes) for g in range(groups)]
        if groups > _MOST_MIXED or lanes == 1:
            to = base + k * groups
            return [
                tir.store(out, to + lane * groups + g, tir.load(source, base + g * size + k + lane))
                for g in range(groups)
                for lane in range(lanes)
            ]
        loading, rows = moves.named(loads, dtype, lanes)
        mixing, mixed = moves.zipped(rows, dtype, lanes)
        to = base + k * groups
        stores = [tir.store(out, to + j * lanes, v, lanes) for j, v in enumerate(mixed)]
        return [*loading, *mixing, *stores]

    lanes = widest if groups <= _MOST_MIXED else 1
    return tir.loop(
        pixels,
        lambda pixel: moves.overlapping(size, lanes, lambda k, w: part(pixel, k, w)),
        name="pixel",
        parallel=parallel,
    )
