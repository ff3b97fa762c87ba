"""Resizing a map: every output row and column is a weighted sum of a few of the input's.

Which rows and columns, and how they are weighted, are operands: one code serves all coordinate
conventions of ONNX. Rows are mixed first, into one row of the input's width; columns of that after.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import Constants, KernelCode, pair, signature
from millifit.targets.target import Target

_TABLES = {"row_index": "int32", "row_weight": "float32", "column_index": "int32",
           "column_weight": "float32"}  # fmt: skip


def resize(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a resize kernel; float32 or uint8 in and out.

    Attribute ``taps`` says how many rows and columns are mixed: (1, 1) copies (nearest), (2, 2) is
    bilinear, (4, 4) bicubic. The operands ``row_index`` and ``row_weight`` are ``[rows, taps]``,
    those of the columns alike.
    """
    operands = operands_of(kernel)
    parameters = signature(kernel, operands)
    body = _Writer(kernel, target, parameters.views).code()
    return KernelCode(
        function=parameters.function(body), operands=tuple(operands.values()), pack=pack
    )


def operands_of(kernel: Kernel) -> dict[str, TensorType]:
    """The tables that say which rows and columns are mixed, and the scalars."""
    taps = pair(kernel, "taps")
    extents = kernel.output.shape[1:3]
    sizes = {"row": extents[0] * taps[0], "column": extents[1] * taps[1]}
    operands = {
        name: TensorType(shape=(sizes[name.split("_")[0]],), dtype=dtype)
        for name, dtype in _TABLES.items()
    }
    return {**operands, "scalars": epilogue.SCALARS_TYPE}


def pack(constants: Constants) -> tuple[Array, ...]:
    """The operands of a call."""
    tables = [
        np.ascontiguousarray(constants[name].ravel().astype(dtype))
        for name, dtype in _TABLES.items()
    ]
    return (*tables, epilogue.pack_scalars(constants))


class _Writer:
    """Writes the code of one kernel."""

    def __init__(self, kernel: Kernel, target: Target, views: Mapping[str, tir.Buffer]) -> None:
        self.kernel, self.target, self.views = kernel, target, views
        self.taps = pair(kernel, "taps")
        self.batch, self.height, self.width, self.channels = kernel.inputs[0].shape
        self.copies = self.taps == (1, 1) and kernel.inputs[0].dtype == kernel.output.dtype
        self.copies = self.copies and not kernel.epilogue

    def code(self) -> list[tir.Statement]:
        rows = self.kernel.output.shape[1]
        parallel = self.target.threads > 1
        parallel = parallel and self.kernel.output.elements >= moves.PARALLEL_ELEMENTS
        return tir.loop(
            self.batch,
            lambda n: tir.loop(rows, lambda y: self._row(n, y), name="y", parallel=parallel),
            name="n",
        )

    def _lookup(
        self, axis: str, place: tir.Expr, taps: int, extent: int
    ) -> tuple[list[tir.Statement], list[tir.Expr], list[tir.Expr]]:
        """Indices and weights of one output row or column."""
        written, indices, weights = [], [], []
        for tap in range(taps):
            at = place * taps + tap
            # Indices are limited here, so that no operand can make the kernel read elsewhere.
            index = tir.clamp(
                tir.load(self.views[f"{axis}_index"], at), tir.const(0), tir.const(extent - 1)
            )
            statement, variable = tir.bind(f"{axis}{tap}", index, "int32")
            weight = tir.load(self.views[f"{axis}_weight"], at)
            named, factor = tir.bind(f"{axis}_weight{tap}", weight, "float32")
            written += [statement, *([named] if taps > 1 else [])]
            indices.append(variable)
            weights.append(factor)
        return written, indices, weights

    def _row(self, n: tir.Expr, y: tir.Expr) -> list[tir.Statement]:
        elements = self.width * self.channels
        written, rows, weights = self._lookup("row", y, self.taps[0], self.height)
        starts = [(n * self.height + row) * elements for row in rows]
        if self.taps[0] == 1:
            return [*written, *self._columns(n, y, self.views["input"], starts[0], mixed=False)]
        allocation, mixed = tir.scratch("mixed_rows", elements, "float32")

        def mix(at: tir.Expr, lanes: int) -> list[tir.Statement]:
            total = self._sum(self.views["input"], [s + at for s in starts], weights, lanes)
            return [tir.store(mixed, at, total, lanes)]

        mixing = moves.overlapping(elements, self.target.fp32_lanes, mix)
        return [
            *written, allocation, *mixing, *self._columns(n, y, mixed, tir.const(0), mixed=True),
        ]  # fmt: skip

    def _sum(
        self, source: tir.Buffer, places: list[tir.Expr], weights: list[tir.Expr], lanes: int
    ) -> tir.Expr:
        total = None
        for place, weight in zip(places, weights, strict=True):
            value = self._real(tir.load(source, place, lanes), source, lanes)
            value = value * tir.splat(weight, lanes) if len(places) > 1 else value
            total = value if total is None else total + value
        return total

    def _real(self, value: tir.Expr, source: tir.Buffer, lanes: int) -> tir.Expr:
        if source.dtype == "uint8":
            return epilogue.dequantize(value, "input", self.views["scalars"], lanes)
        return value

    def _columns(
        self, n: tir.Expr, y: tir.Expr, source: tir.Buffer, start: tir.Expr, *, mixed: bool
    ) -> list[tir.Statement]:
        rows, columns = self.kernel.output.shape[1:3]
        channels, out = self.channels, self.views["output"]

        def column(x: tir.Expr) -> list[tir.Statement]:
            written, found, weights = self._lookup("column", x, self.taps[1], self.width)
            to = ((n * rows + y) * columns + x) * channels
            reads = [start + at * channels for at in found]
            if self.copies and not mixed:
                itemsize = np.dtype(self.kernel.output.dtype).itemsize
                return written + moves.copy(
                    self.target, source, reads[0], out, to, channels, itemsize=itemsize
                )

            def channel(c: tir.Expr, lanes: int) -> list[tir.Statement]:
                value = self._sum(source, [at + c for at in reads], weights, lanes)
                return [tir.store(out, to + c, self._finished(value, lanes), lanes)]

            return written + moves.overlapping(channels, self.target.fp32_lanes, channel)

        return tir.loop(columns, column, name="x")

    def _finished(self, value: tir.Expr, lanes: int) -> tir.Expr:
        scalars = self.views["scalars"]
        for step in self.kernel.epilogue:
            value = epilogue.activate(value, step, scalars, lanes)
        if self.kernel.output.dtype == "uint8":
            return epilogue.quantize(value, scalars, lanes)
        return value
