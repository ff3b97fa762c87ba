"""Copies of a tensor seen with other strides: transpositions of any rank, slices, repetitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import KernelCode, number, signature
from millifit.targets.schedules.lanes import transposed
from millifit.targets.target import Target


def strided(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a strided kernel: ``output[i, j, ...] = input[offset + i * s0 + j * s1 + ...]``.

    Attributes ``offset`` and ``strides``, one per axis of the output, in elements; any type.
    """
    strides = kernel.attribute("strides")
    assert isinstance(strides, tuple)
    axes = _merged(kernel.output.shape, strides)
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    source, output = parameters.views["input"], parameters.views["output"]
    itemsize = np.dtype(kernel.output.dtype).itemsize
    parallel = target.threads > 1 and kernel.output.elements >= moves.PARALLEL_ELEMENTS
    inner = _turned(axes)
    outer = [axis for axis in axes if axis not in inner] if inner else axes[:-1]

    def innermost(start: tir.Expr, to: tir.Expr) -> list[tir.Statement]:
        if inner:
            return _transposition(kernel, target, inner, source, start, output, to)
        extent, stride, _ = axes[-1]
        if stride == 1:
            return moves.copy(target, source, start, output, to, extent, itemsize=itemsize)
        return tir.loop(
            extent,
            lambda i: [tir.store(output, to + i, tir.load(source, start + i * stride))],
            name="i",
        )

    def nest(
        left: Sequence[tuple[int, int, int]], start: tir.Expr, to: tir.Expr, *, parallel: bool
    ) -> list[tir.Statement]:
        if not left:
            return innermost(start, to)
        (extent, stride, step), *rest = left
        return tir.loop(
            extent,
            lambda i: nest(rest, start + i * stride, to + i * step, parallel=False),
            name="axis",
            parallel=parallel and extent > 1,
        )

    offset = tir.const(int(number(kernel, "offset", 0)))
    body = nest(outer, offset, tir.const(0), parallel=parallel)
    # Relax takes functions of one input and no operand for reshapes, and looks for their pattern.
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int, int]]:
    """(extent, stride in the input, stride in the output) of the axes, neighbours joined."""
    axes: list[tuple[int, int, int]] = []
    for axis, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
        step = math.prod(shape[axis + 1 :])
        if extent == 1:
            continue
        if axes and axes[-1][1] == extent * stride:
            axes[-1] = (axes[-1][0] * extent, stride, step)
        else:
            axes.append((extent, stride, step))
    return axes or [(1, 1, 1)]


def _turned(axes: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The two axes of a matrix that is transposed, if there is one worth it."""
    last = axes[-1]
    neighbours = next((axis for axis in axes[:-1] if axis[1] == 1), None)
    if neighbours is None or last[1] in (0, 1):
        return []
    return [neighbours, last]


def _transposition(
    kernel: Kernel,
    target: Target,
    axes: Sequence[tuple[int, int, int]],
    source: tir.Buffer,
    start: tir.Expr,
    output: tir.Buffer,
    to: tir.Expr,
) -> list[tir.Statement]:
    """``out[i * step + j] = in[i + j * stride]``: square blocks turned in registers."""
    (height, _, step), (width, stride, _) = axes
    dtype = kernel.output.dtype
    size = min(
        moves.widest(target, np.dtype(dtype).itemsize),
        target.fp32_lanes,
        1 << (min(height, width).bit_length() - 1),
    )

    def block(i: tir.Expr, j: tir.Expr) -> list[tir.Statement]:
        loads = [tir.load(source, start + i + (j + n) * stride, size) for n in range(size)]
        written, rows = moves.named(loads, dtype, size)
        turning, turned = transposed(rows, dtype)
        stores = [
            tir.store(output, to + (i + n) * step + j, value, size)
            for n, value in enumerate(turned)
        ]
        return [*written, *turning, *stores]

    def starts(extent: int) -> list[tuple[int, int]]:
        """First block and number of blocks; the last may overlap the one before."""
        whole, rest = divmod(extent, size)
        return [(0, whole), *([(extent - size, 1)] if rest else [])]

    def area(top: int, down: int, left: int, across: int) -> list[tir.Statement]:
        return tir.loop(
            down,
            lambda i: tir.loop(
                across, lambda j: block(i * size + top, j * size + left), name="across"
            ),
            name="down",
        )

    corners = [(*rows, *columns) for rows in starts(height) for columns in starts(width)]
    return [part for corner in corners for part in area(*corner)]
