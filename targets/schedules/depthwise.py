"""fp32 and fp16 depthwise convolution: one filter per channel, channels across the vector lanes.

A tile is some neighbouring output columns of one vector of channels. A kernel row's weights stay in
registers; each input column is loaded once and used by every output column it reaches. The map's
left and right edges are tiles of their own that leave out the taps outside the map; at the top and
bottom the loop over kernel rows is shorter. So nothing is padded or copied. fp16 kernels add the
few products of an output in fp16, and the bias to their sum in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.choice import check_names, decided
from millifit.targets.schedules.code import Constants, KernelCode, pads_of, pair, signature
from millifit.targets.schedules.prefetch import LINE_BYTES, is_far
from millifit.targets.schedules.tile import COLUMNS, row_tile, split_lanes
from millifit.targets.target import Target

_PARALLEL_MACS = 1_500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    kernel: Kernel
    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    columns: int  # output columns of a tile
    lanes: int
    parallel: bool

    @property
    def dtype(self) -> str:
        """Element type of activations, weights and sums."""
        return "float16" if self.kernel.precision == "fp16" else "float32"

    @property
    def channels(self) -> int:
        return self.kernel.output.shape[3]

    @property
    def vectors(self) -> tuple[int, ...]:
        return split_lanes(self.channels, self.lanes)

    @property
    def padded_channels(self) -> int:
        return sum(self.vectors)


def design(kernel: Kernel, target: Target) -> _Design:
    """Choose the tile: as many columns as the registers hold, evenly dividing the row.

    Tuning may choose ``columns``.
    """
    check_names(kernel, "columns")
    size = pair(kernel, "kernel")
    taps = math.prod(size)
    width = kernel.output.shape[2]
    columns = decided(kernel, "columns", row_tile(target, width=width, taps=size[1]), COLUMNS)
    macs = kernel.output.elements * taps
    return _Design(
        kernel=kernel, size=size, strides=pair(kernel, "strides"),
        dilations=pair(kernel, "dilations"), pads=pads_of(kernel), columns=columns,
        lanes=target.fp32_lanes * (2 if kernel.precision == "fp16" else 1),
        parallel=target.threads > 1 and macs >= _PARALLEL_MACS,
    )  # fmt: skip


def depthwise(kernel: Kernel, target: Target) -> KernelCode:
    """Code and operands of an fp32 depthwise_conv2d kernel (channel multiplier 1)."""
    plan = design(kernel, target)
    taps = math.prod(plan.size)
    operands = {
        "weight": TensorType(shape=(taps * plan.padded_channels,), dtype=plan.dtype),
        "bias": TensorType(shape=(plan.padded_channels,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    return KernelCode(
        function=_Writer(plan, operands).function(),
        operands=tuple(operands.values()),
        pack=lambda constants: _pack(plan, constants),
    )


def _pack(plan: _Design, constants: Constants) -> tuple[Array, ...]:
    """Weights [KH, KW, C] and biases [C], padded to whole vectors."""
    wide = plan.padded_channels
    weight = np.zeros((*plan.size, wide), plan.dtype)
    weight[..., : plan.channels] = constants["weight"][:, 0].transpose(1, 2, 0)
    bias = np.zeros(wide, np.float32)
    bias[: plan.channels] = constants["bias"]
    return (weight.ravel(), bias, epilogue.pack_scalars(constants))


class _Writer:
    """Writes the code of one design."""

    def __init__(self, plan: _Design, operands: Mapping[str, TensorType]) -> None:
        self.plan = plan
        self.signature = signature(plan.kernel, operands)
        self.buffers = self.signature.views

    def function(self) -> tir.PrimFunc:
        plan = self.plan
        rows = tir.loop(plan.kernel.output.shape[1], self._row, name="y", parallel=plan.parallel)
        return self.signature.function(rows)

    def _row(self, y: tir.Expr) -> list[tir.Statement]:
        plan = self.plan
        count = plan.channels // plan.lanes  # the others hold lanes that only pad
        written = tir.loop(
            count, lambda c: self._columns(y, c * plan.lanes, plan.lanes, plan.lanes), name="c"
        )
        start = count * plan.lanes
        for lanes in plan.vectors[count:]:
            valid = min(lanes, plan.channels - start)
            written += self._columns(y, tir.const(start), lanes, valid)
            start += lanes
        return written

    def _columns(
        self, y: tir.Expr, channel: tir.Expr, lanes: int, valid: int
    ) -> list[tir.Statement]:
        """All tiles of one row and one vector of channels; those inside the map in a loop."""
        plan = self.plan
        width = plan.kernel.output.shape[2]
        starts = list(range(0, width, plan.columns))
        inner = [x for x in starts if x + plan.columns <= width and self._inside(x, plan.columns)]

        def tile(x: tir.Expr, columns: int, known_x: int | None) -> list[tir.Statement]:
            return self._tile(y, x, columns, known_x, channel, lanes, valid)

        written: list[tir.Statement] = []
        for x in starts:
            if x in inner:
                if x == inner[0]:
                    written += tir.loop(
                        len(inner),
                        lambda t: tile(t * plan.columns + inner[0], plan.columns, None),
                        name="tile",
                    )
            else:
                written += tile(tir.const(x), min(plan.columns, width - x), x)
        return written

    def _prefetch(
        self, y: tir.Expr, x: tir.Expr, columns: int, channel: tir.Expr, lanes: int
    ) -> list[tir.Statement]:
        """Ask for a tile's outputs, and for the inputs that are new to the same tile one row below.

        Neighbouring columns of one vector of channels are far apart, which the processor does not
        foresee. Each line is asked for once, where a vector is most of one.
        """
        plan, kernel = self.plan, self.plan.kernel
        written: list[tir.Statement] = []
        if lanes * np.dtype(plan.dtype).itemsize < LINE_BYTES // 2:
            return written
        if is_far(kernel.output):
            at = (y * kernel.output.shape[2] + x) * plan.channels + channel
            written += [
                tir.prefetch(self.buffers["output"], at + i * plan.channels, write=True)
                for i in range(columns)
            ]
        if is_far(kernel.inputs[0]):
            last = y * plan.strides[0] - plan.pads[0] + (plan.size[0] - 1) * plan.dilations[0]
            column = x * plan.strides[1]
            for row in range(plan.strides[0]):
                at = ((last + 1 + row) * kernel.inputs[0].shape[2] + column) * plan.channels
                written += [
                    tir.prefetch(
                        self.buffers["input"], at + channel + i * plan.channels, write=False
                    )
                    for i in range(columns * plan.strides[1])
                ]
        return written

    def _inside(self, x: int, columns: int) -> bool:
        plan = self.plan
        left = x * plan.strides[1] - plan.pads[1]
        right = (x + columns - 1) * plan.strides[1] - plan.pads[1]
        right += (plan.size[1] - 1) * plan.dilations[1]
        return left >= 0 and right < plan.kernel.inputs[0].shape[2]

    def _tile(
        self,
        y: tir.Expr,
        x: tir.Expr,
        columns: int,
        known_x: int | None,
        channel: tir.Expr,
        lanes: int,
        valid: int,
    ) -> list[tir.Statement]:
        """`columns` outputs from column x; `known_x` where the tile touches an edge of the map."""
        plan, kernel, buffers = self.plan, self.plan.kernel, self.buffers
        _, height, width, channels = kernel.inputs[0].shape
        allocation, accumulators = tir.scratch(
            "accumulators", columns * lanes, plan.dtype, registers=True
        )
        body: list[tir.Statement] = [allocation, *self._prefetch(y, x, columns, channel, lanes)]
        bias = tir.load(buffers["bias"], channel, lanes)
        half = plan.dtype == "float16"
        start = tir.const(0, plan.dtype, lanes) if half else bias
        body += [tir.store(accumulators, i * lanes, start, lanes) for i in range(columns)]
        top = y * plan.strides[0] - plan.pads[0]
        first_column = x * plan.strides[1] - plan.pads[1]

        def column_exists(offset: int) -> bool:
            if known_x is None:
                return True
            at = known_x * plan.strides[1] - plan.pads[1] + offset
            return 0 <= at < width

        def kernel_row(ky: tir.Expr) -> list[tir.Statement]:
            written: list[tir.Statement] = []
            weights = []
            for kx in range(plan.size[1]):
                at = (ky * plan.size[1] + kx) * plan.padded_channels + channel
                named, variable = tir.bind(
                    f"w{kx}", tir.load(buffers["weight"], at, lanes), plan.dtype, lanes
                )
                written.append(named)
                weights.append(variable)
            row = top + ky * plan.dilations[0]
            taps: dict[int, list[tuple[int, int]]] = {}  # input column -> (output column, tap)
            for i in range(columns):
                for kx in range(plan.size[1]):
                    taps.setdefault(i * plan.strides[1] + kx * plan.dilations[1], []).append(
                        (i, kx)
                    )
            for offset in sorted(taps):
                if not column_exists(offset):
                    continue
                at = (row * width + first_column + offset) * channels + channel
                loading, value = self._load(at, lanes, valid)
                written += loading
                named, variable = tir.bind(f"x{offset}", value, plan.dtype, lanes)
                written.append(named)
                for i, kx in taps[offset]:
                    total = tir.load(accumulators, i * lanes, lanes) + variable * weights[kx]
                    written.append(tir.store(accumulators, i * lanes, total, lanes))
            return written

        body += self._kernel_rows(top, height, kernel_row)
        for i in range(columns):
            total = tir.load(accumulators, i * lanes, lanes)
            total = tir.cast(total, "float32", lanes) + bias if half else total
            out = (y * kernel.output.shape[2] + x + i) * channels + channel
            body += epilogue.write(
                total, kernel=kernel, channel=channel, buffers=buffers, out=out, lanes=lanes,
                valid=valid,
            )  # fmt: skip
        return body

    def _kernel_rows(
        self, top: tir.Expr, height: int, kernel_row: Callable[[tir.Expr], list[tir.Statement]]
    ) -> list[tir.Statement]:
        """The loop over the kernel rows that lie in the map."""
        plan = self.plan
        if plan.pads[0] == 0 and plan.pads[2] == 0:
            return tir.loop(plan.size[0], kernel_row, name="ky")
        step = plan.dilations[0]
        low = tirx.max(tir.const(0), tirx.floordiv(step - 1 - top, step))
        high = tirx.min(tir.const(plan.size[0]), tirx.floordiv(height - top + step - 1, step))
        named_low, first = tir.bind("ky_low", low, "int32")
        named_high, last = tir.bind("ky_high", high, "int32")
        rows = tir.loop(last - first, kernel_row, name="ky", start=first)
        return [named_low, named_high, *rows]

    def _load(self, at: tir.Expr, lanes: int, valid: int) -> tuple[list[tir.Statement], tir.Expr]:
        """One input vector; spare lanes repeat the last channel."""
        source, written = self.buffers["input"], []
        if valid == lanes:
            return [], tir.load(source, at, lanes)
        allocation, ragged = tir.scratch("ragged_input", lanes, self.plan.dtype, registers=True)
        written.append(allocation)
        for lane in range(lanes):
            value = tir.load(source, at + min(lane, valid - 1))
            written.append(tir.store(ragged, lane, value))
        return written, tir.load(ragged, tir.const(0), lanes)
