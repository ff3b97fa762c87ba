"""Depthwise convolution on a GPU: a thread computes some neighbouring columns of 4 channels.

An input column is read once for all outputs of the tile that it reaches. What lies outside the map
counts as zero by a selection. A device that computes in half precision adds the products of one
kernel row in it, and such sums in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.choice import check_names, decided
from millifit.targets.schedules.code import Constants, KernelCode, pads_of, pair
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.finish import finish
from millifit.targets.schedules.gpu.launch import each, registers, unravel
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.target import Gpu

_COLUMNS = (1, 2, 4, 8)
# Columns of a tile at most by rule, and threads that a compute unit needs to hide memory.
_MOST_COLUMNS, _BUSY_THREADS = 4, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    kernel: Kernel
    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    columns: int  # output columns of a tile
    lanes: int

    @property
    def tiles(self) -> tuple[int, int, int, int]:
        """Tiles along samples, rows, columns and channels."""
        batch, height, width, channels = self.kernel.output.shape
        return (batch, height, math.ceil(width / self.columns), channels // self.lanes)

    @property
    def weight_dtype(self) -> str:
        if self.kernel.integer:
            return "int8"
        return "float16" if self.kernel.precision == "fp16" else "float32"

    @property
    def operands(self) -> dict[str, TensorType]:
        """Weights ``[KH, KW, C]``, and what there is per channel."""
        channels, integer = self.kernel.output.shape[3], self.kernel.integer
        found = {
            "weight": TensorType(shape=(math.prod(self.size) * channels,), dtype=self.weight_dtype),
            "bias": TensorType(shape=(channels,), dtype="int32" if integer else "float32"),
        }
        if integer:
            found["multiplier"] = TensorType(shape=(channels,), dtype="float32")
        return {**found, "scalars": epilogue.SCALARS_TYPE}


def _plan(kernel: Kernel, gpu: Gpu) -> _Plan:
    """As many columns as leave every compute unit enough threads. Tuning may choose ``columns``."""
    check_names(kernel, "columns")
    batch, height, width, channels = kernel.output.shape
    lanes = LANES if channels % LANES == 0 else 1
    possible = [n for n in _COLUMNS if n <= width]
    columns = 1
    for n in possible:
        threads = batch * height * math.ceil(width / n) * (channels // lanes)
        if n <= _MOST_COLUMNS and threads >= gpu.compute_units * _BUSY_THREADS:
            columns = n
    return _Plan(
        kernel=kernel, size=pair(kernel, "kernel"), strides=pair(kernel, "strides"),
        dilations=pair(kernel, "dilations"), pads=pads_of(kernel), lanes=lanes,
        columns=decided(kernel, "columns", columns, possible),
    )  # fmt: skip


def depthwise(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a depthwise_conv2d kernel (channel multiplier 1), in fp32, fp16 or with integers."""
    made = _plan(kernel, gpu)
    held = memory(kernel, gpu, made.operands)
    body = each(gpu, math.prod(made.tiles), _Writer(made, held).tile)
    return KernelCode(
        function=held.function(body), operands=tuple(made.operands.values()),
        pack=lambda constants: _pack(made, constants),
    )  # fmt: skip


def _pack(made: _Plan, constants: Constants) -> tuple[Array, ...]:
    weight = constants["weight"][:, 0].transpose(1, 2, 0).astype(made.weight_dtype)
    dtype = "int32" if made.kernel.integer else "float32"
    arrays = [np.ascontiguousarray(weight).ravel(), constants["bias"].astype(dtype)]
    if made.kernel.integer:
        arrays.append(epilogue.channel_multiplier(constants, made.kernel))
    return (*arrays, epilogue.pack_scalars(constants))


class _Writer:
    """Writes the code of one plan."""

    def __init__(self, made: _Plan, held: Memory) -> None:
        self.plan, self.held = made, held
        self.half = made.kernel.precision == "fp16" and held.computes_half
        self.sums = "int32" if made.kernel.integer else "float32"
        self.held_as = "float16" if self.half else self.sums
        # In buffers, because TVM would write a variable's condition wherever it is used.
        reached = (made.columns - 1) * made.strides[1] + (made.size[1] - 1) * made.dilations[1] + 1
        self.padded = any(made.pads)
        chosen, self.chosen = registers("chosen", reached, self.held_as, made.lanes)
        row, self.row = registers("row", 1, "int32")
        self.allocations = [row, chosen] if self.padded else [row]

    def tile(self, i: tir.Expr) -> list[tir.Statement]:
        """One thread."""
        made, kernel = self.plan, self.plan.kernel
        height, width = kernel.inputs[0].shape[1:3]
        channels, out_width = kernel.output.shape[3], kernel.output.shape[2]
        sample, row, column, c = unravel(i, made.tiles)
        channel, start = c * made.lanes, column * made.columns
        if out_width % made.columns:  # both tiles write the same where they overlap
            start = tirx.min(start, out_width - made.columns)
        allocation, sums = registers("sums", made.columns, self.sums, made.lanes)
        zero = tir.const(0, self.sums, made.lanes)
        written = [*self.allocations, allocation]
        written += [tir.store(sums, j, zero) for j in range(made.columns)]
        top = row * made.strides[0] - made.pads[0]
        left = start * made.strides[1] - made.pads[1]

        def kernel_row(ky: tir.Expr) -> list[tir.Statement]:
            at = top + ky * made.dilations[0]
            inside = at
            if made.pads[0] or made.pads[2]:
                inside = tir.clamp(at, tir.const(0), tir.const(height - 1))
            stored = tir.store(self.row, 0, inside)
            line = (sample * height + tir.load(self.row, 0)) * width
            exists = tirx.EQ(tir.load(self.row, 0), at)
            return [stored, *self._row(ky, line, left, channel, exists, sums)]

        written += tir.loop(made.size[0], kernel_row, name="ky")
        for j in range(made.columns):
            pixel = (sample * kernel.output.shape[1] + row) * out_width + start + j
            written += finish(
                kernel, self.held, tir.load(sums, j), channel=channel,
                out=pixel * channels + channel, left=None, lanes=made.lanes,
            )  # fmt: skip
        return written

    def _row(
        self,
        ky: tir.Expr,
        line: tir.Expr,
        left: tir.Expr,
        channel: tir.Expr,
        exists: tir.Expr,
        sums: tir.Buffer,
    ) -> list[tir.Statement]:
        """One kernel row of all outputs of the tile."""
        made, channels = self.plan, self.plan.kernel.output.shape[3]
        taps: dict[int, list[tuple[int, int]]] = {}  # input column: (output column, tap)
        for j in range(made.columns):
            for kx in range(made.size[1]):
                taps.setdefault(j * made.strides[1] + kx * made.dilations[1], []).append((j, kx))
        written, weights = [], []
        for kx in range(made.size[1]):
            value = self._weight((ky * made.size[1] + kx) * channels + channel)
            named, value = tir.bind(f"w{kx}", value, self.held_as, made.lanes)
            written.append(named)
            weights.append(value)
        products: dict[int, list[tir.Expr]] = {j: [] for j in range(made.columns)}
        for offset in sorted(taps):
            loading, value = self._column(line, left + offset, offset, channel, exists)
            written += loading
            for j, kx in taps[offset]:
                products[j].append(value * weights[kx])
        for j, terms in products.items():
            total = tir.load(sums, j)
            if self.half:
                total = total + tir.cast(sum(terms[1:], terms[0]), "float32", made.lanes)
            else:
                for term in terms:
                    total = total + term
            written.append(tir.store(sums, j, total))
        return written

    def _column(
        self, line: tir.Expr, at: tir.Expr, offset: int, channel: tir.Expr, exists: tir.Expr
    ) -> tuple[list[tir.Statement], tir.Expr]:
        """One input column; zeros where it is outside the map."""
        made, dtype = self.plan, self.held_as
        width, channels = self.plan.kernel.inputs[0].shape[2], self.plan.kernel.output.shape[3]
        place = tir.clamp(at, tir.const(0), tir.const(width - 1)) if self.padded else at
        named, value = tir.bind(
            f"x{offset}", self._input((line + place) * channels + channel), dtype, made.lanes
        )
        if not self.padded:
            return [named], value
        nothing = tir.const(0, dtype, made.lanes)
        chosen = tirx.if_then_else(tirx.all(exists, tirx.EQ(place, at)), value, nothing)
        return [named, tir.store(self.chosen, offset, chosen)], tir.load(self.chosen, offset)

    def _input(self, at: tir.Expr) -> tir.Expr:
        lanes = self.plan.lanes
        if self.half:
            return self.held.read_half("input", at, lanes)
        value = self.held.read("input", at, lanes)
        if self.sums == "float32":
            return value
        zero_point = epilogue.scalar(self.held.views["scalars"], "input_zero_point")
        return tir.cast(value, "int32", lanes) - tir.splat(zero_point.astype("int32"), lanes)

    def _weight(self, at: tir.Expr) -> tir.Expr:
        lanes = self.plan.lanes
        if self.half:
            return self.held.read_half("weight", at, lanes)
        value = self.held.read("weight", at, lanes)
        return value if self.sums == "float32" else tir.cast(value, "int32", lanes)
