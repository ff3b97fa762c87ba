"""Layout changes at the network's borders: channels first to channels last and back.

Both transpose a matrix: (channels, pixels) to (pixels, channels) or the reverse. Few channels are
zipped out of as many vectors of pixels; else square tiles are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import KernelCode, signature
from millifit.targets.schedules.lanes import transposed
from millifit.targets.target import Target

_MOST_ZIPPED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Transposition:
    """A matrix ``source[start:]`` of `rows` by `columns` to be written transposed to `out[to:]`.

    A vector is converted by `convert` before it is stored.
    """

    rows: int
    columns: int
    source: tir.Buffer
    start: tir.Expr
    out: tir.Buffer
    to: tir.Expr
    dtype: str
    lanes: int
    parallel: bool = False
    convert: moves.Conversion = lambda value, _: value

    def code(self) -> list[tir.Statement]:
        """Zipped, unzipped or in tiles, whichever fits the shape."""
        if 1 < self.rows <= _MOST_ZIPPED and self.columns >= self.lanes:
            return self._blocks(self.columns, self._zip)
        if 1 < self.columns <= _MOST_ZIPPED and self.rows >= self.lanes:
            return self._blocks(self.rows, self._unzip)
        return self._tiles()

    def _load(self, at: tir.Expr, lanes: int) -> tir.Expr:
        return tir.load(self.source, self.start + at, lanes)

    def _store(self, at: tir.Expr, value: tir.Expr, lanes: int) -> tir.Statement:
        return tir.store(self.out, self.to + at, self.convert(value, lanes), lanes)

    def _blocks(
        self, count: int, block: Callable[[tir.Expr], list[tir.Statement]]
    ) -> list[tir.Statement]:
        """`block(start)` for every `lanes` of `count`; the last may overlap the one before."""
        whole, rest = divmod(count, self.lanes)
        parallel = self.parallel and whole > 1
        written = tir.loop(whole, lambda b: block(b * self.lanes), name="b", parallel=parallel)
        return [*written, *(block(tir.const(count - self.lanes)) if rest else [])]

    def _zip(self, column: tir.Expr) -> list[tir.Statement]:
        lanes = self.lanes
        loads = [self._load(r * self.columns + column, lanes) for r in range(self.rows)]
        loading, rows = moves.named(loads, self.dtype, lanes)
        mixing, mixed = moves.zipped(rows, self.dtype, lanes)
        base = column * self.rows
        stores = [self._store(base + j * lanes, v, lanes) for j, v in enumerate(mixed)]
        return [*loading, *mixing, *stores]

    def _unzip(self, row: tir.Expr) -> list[tir.Statement]:
        lanes = self.lanes
        base = row * self.columns
        loads = [self._load(base + j * lanes, lanes) for j in range(self.columns)]
        loading, vectors = moves.named(loads, self.dtype, lanes)
        mixing, mixed = moves.unzipped(vectors, self.dtype, lanes)
        stores = [self._store(j * self.rows + row, v, lanes) for j, v in enumerate(mixed)]
        return [*loading, *mixing, *stores]

    def _tiles(self) -> list[tir.Statement]:
        """Squares of one size; the last of a row or column may overlap the one before."""
        size = min(self.lanes, 1 << (min(self.rows, self.columns).bit_length() - 1))
        written: list[tir.Statement] = []
        for top, down in _starts(self.rows, size):
            for left, across in _starts(self.columns, size):
                written += self._area(top, left, down, across, size)
        return written

    def _area(self, top: int, left: int, down: int, across: int, size: int) -> list[tir.Statement]:
        """`down` by `across` tiles; the longer of the two is split between threads."""

        def row(r: tir.Expr) -> list[tir.Statement]:
            return tir.loop(
                across,
                lambda c: self._tile(r * size + top, c * size + left, size),
                name="across",
                parallel=self.parallel and across > down,
            )

        return tir.loop(down, row, name="down", parallel=self.parallel and 1 < down >= across)

    def _tile(self, row: tir.Expr, column: tir.Expr, size: int) -> list[tir.Statement]:
        loads = [self._load((row + i) * self.columns + column, size) for i in range(size)]
        loading, rows = moves.named(loads, self.dtype, size)
        mixing, mixed = transposed(rows, self.dtype)
        stores = [self._store((column + i) * self.rows + row, v, size) for i, v in enumerate(mixed)]
        return [*loading, *mixing, *stores]


def _starts(extent: int, size: int) -> list[tuple[int, int]]:
    """First tile and number of tiles; for 37 in tiles of 16 those from 0 and 16, and from 21."""
    whole, rest = divmod(extent, size)
    return [(0, whole), *([(extent - size, 1)] if rest else [])]


def layout(kernel: Kernel, target: Target) -> KernelCode:
    """Code of to_channels_last (N, C, H, W -> N, H, W, C) and to_channels_first, its inverse.

    A float32 input may be quantized on the way.
    """
    dtype, shape = kernel.inputs[0].dtype, kernel.inputs[0].shape
    split = 2 if kernel.op == "to_channels_last" else len(shape) - 1
    rows = int(np.prod(shape[1:split], dtype=np.int64))
    columns = int(np.prod(shape[split:], dtype=np.int64))
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    views = parameters.views

    def convert(value: tir.Expr, lanes: int) -> tir.Expr:
        if kernel.output.dtype == dtype:
            return value
        return epilogue.quantize(value, views["scalars"], lanes)

    def sample(n: tir.Expr) -> list[tir.Statement]:
        start = n * (rows * columns)
        parallel = target.threads > 1 and kernel.output.elements >= moves.PARALLEL_ELEMENTS
        return Transposition(
            rows=rows, columns=columns, source=views["input"], start=start, out=views["output"],
            to=start, dtype=dtype, lanes=target.fp32_lanes, parallel=parallel, convert=convert,
        ).code()  # fmt: skip

    return KernelCode(
        function=parameters.function(tir.loop(shape[0], sample, name="n")),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )
