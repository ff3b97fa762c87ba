"""Convolution and dense layers as one blocked matrix product.

In channels-last layout the inputs of one output position that share a kernel row are `run`
neighbours in memory, so a convolution is a sum over kernel rows of matrix products whose left
operand is the feature map itself, read with a stride; nothing is unfolded. A pointwise convolution
and a dense layer are the case of one kernel row, with the whole map as one long row.

The register tile (`tile.matrix_tile`) covers `rows` positions by some vectors of output channels.
Weights are packed at compile time into panels of that many channels: ``[panel][kernel row][step]
[channel][unit]``, `unit` being the inputs one dot product takes.

Where the map has to be padded, or widened for the dot product, it is first copied ("staged"): as a
whole if that stays in the second-level cache, else row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm.tirx import stmt

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode
from millifit.targets.schedules.dot import (
    Dot,
    dot_for,
    load_activation,
    load_weights,
    multiply_add,
)
from millifit.targets.schedules.tile import Tile, matrix_tile, split_lanes
from millifit.targets.target import Target

# Below this many multiply-adds a kernel is done before a second thread has started.
_PARALLEL_MACS = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A convolution's geometry; a dense layer is one with a 1 x N map."""

    height: int
    width: int
    inputs: int  # per group
    groups: int
    out_height: int
    out_width: int
    outputs: int  # per group
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right

    @property
    def merged(self) -> bool:
        """Whether a whole kernel row is one run of neighbours."""
        return self.dilations[1] == 1 and self.groups == 1

    @property
    def taps(self) -> int:
        """Runs per kernel row."""
        return 1 if self.merged else self.kernel[1]

    @property
    def run(self) -> int:
        """Neighbouring inputs per run."""
        return self.inputs * (self.kernel[1] if self.merged else 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole layer."""
        positions = self.out_height * self.out_width
        return positions * self.groups * self.outputs * self.inputs * math.prod(self.kernel)


def shape_of(kernel: Kernel) -> Shape:
    """The geometry of a conv2d or dense kernel."""
    source, output = kernel.inputs[0].shape, kernel.output.shape
    if kernel.op == "dense":
        return Shape(
            height=1, width=source[0], inputs=source[1], groups=1, out_height=1,
            out_width=output[0], outputs=output[1], kernel=(1, 1), strides=(1, 1),
            dilations=(1, 1), pads=(0, 0, 0, 0),
        )  # fmt: skip
    attributes = dict(kernel.attributes)
    groups = int(attributes["groups"])
    return Shape(
        height=source[1], width=source[2], inputs=source[3] // groups, groups=groups,
        out_height=output[1], out_width=output[2], outputs=output[3] // groups,
        kernel=attributes["kernel"], strides=attributes["strides"],
        dilations=attributes["dilations"], pads=attributes["pads"],
    )  # fmt: skip


def _flattened(shape: Shape) -> Shape:
    """A pointwise convolution as one row of positions."""
    positions = shape.out_height * shape.out_width
    return Shape(
        height=1, width=positions, inputs=shape.inputs, groups=shape.groups, out_height=1,
        out_width=positions, outputs=shape.outputs, kernel=(1, 1), strides=(1, 1),
        dilations=(1, 1), pads=(0, 0, 0, 0),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staging:
    """A copy of the input that needs no padding. `rows` at a time; all of them if `whole`."""

    whole: bool
    rows: int
    row_elements: int
    slack: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """Everything decided about a kernel before code is written."""

    kernel: Kernel
    shape: Shape
    dot: Dot
    tile: Tile
    lanes: int
    staging: _Staging | None
    tile_rows: int  # map rows that one tile covers (small maps: several)
    panels_outside: bool
    parallel: bool

    @property
    def steps(self) -> int:
        """Dot products per run."""
        return math.ceil(self.shape.run / self.dot.unit)

    @property
    def depth(self) -> int:
        """Packed weights per output channel."""
        return self.shape.kernel[0] * self.shape.taps * self.steps * self.dot.unit

    @property
    def panels(self) -> tuple[tuple[int, ...], ...]:
        """The lanes of every panel's vectors, in order."""
        full = self.tile.vectors * self.lanes
        count, rest = divmod(self.shape.outputs, full)
        panels = [(self.lanes,) * self.tile.vectors] * count
        if rest:
            panels.append(split_lanes(rest, self.lanes))
        return tuple(panels)

    @property
    def padded_outputs(self) -> int:
        """Output channels of a group, with the lanes that only pad."""
        return sum(sum(panel) for panel in self.panels)


def design(kernel: Kernel, target: Target) -> _Design:
    """Choose tile, staging and loop order for a kernel."""
    shape, dot = shape_of(kernel), dot_for(kernel, target)
    pointwise = shape.kernel == (1, 1) and shape.strides == (1, 1)
    padded = any(shape.pads)
    needed = padded or dot.activation != kernel.inputs[0].dtype or shape.run % dot.unit != 0
    itemsize = np.dtype(dot.activation).itemsize
    staged_rows = (shape.out_height - 1) * shape.strides[0] + 1
    staged_rows += (shape.kernel[0] - 1) * shape.dilations[0]
    row_elements = _staged_width(shape) * shape.inputs * shape.groups
    whole = staged_rows * row_elements * itemsize <= target.l2_bytes // 2
    if pointwise and not padded and (whole or not needed):
        shape = _flattened(shape)
        staged_rows, row_elements = 1, shape.width * shape.inputs * shape.groups
    staging = None
    if needed:
        rows = staged_rows if whole else (shape.kernel[0] - 1) * shape.dilations[0] + 1
        staging = _Staging(
            whole=whole, rows=rows, row_elements=row_elements, slack=dot.unit * target.fp32_lanes
        )
    tile_rows = _rows_per_tile(shape, target) if staging is None or staging.whole else 1
    columns = shape.out_width * tile_rows
    tile = matrix_tile(target, rows=columns, channels=shape.outputs)
    weight_bytes = shape.outputs * shape.run * shape.kernel[0] * shape.taps
    weight_bytes *= np.dtype(dot.weight).itemsize
    streaming = staging is not None and not staging.whole
    return _Design(
        kernel=kernel, shape=shape, dot=dot, tile=tile, lanes=target.fp32_lanes, staging=staging,
        tile_rows=tile_rows,
        panels_outside=not streaming and weight_bytes > target.l2_bytes // 2,
        parallel=target.threads > 1 and shape.macs >= _PARALLEL_MACS,
    )  # fmt: skip


def _staged_width(shape: Shape) -> int:
    return shape.pads[1] + shape.width + shape.pads[3]


def _rows_per_tile(shape: Shape, target: Target) -> int:
    """Map rows in one tile: more than one where a row is much shorter than a good tile."""
    budget = 14 if target.vector_registers >= 32 else 6
    for rows in range(min(shape.out_height, budget // shape.out_width), 1, -1):
        if shape.out_height % rows == 0:
            return rows
    return 1


def contraction(kernel: Kernel, target: Target) -> KernelCode:
    """Code and operands of a conv2d or dense kernel (any groups, strides, dilations, padding)."""
    plan = design(kernel, target)
    groups = plan.shape.groups
    packed = groups * plan.padded_outputs
    operands = [
        TensorType(shape=(packed * plan.depth,), dtype=plan.dot.weight),
        TensorType(shape=(packed,), dtype=plan.dot.accumulator),
        epilogue.SCALARS_TYPE,
    ]
    if kernel.precision == "int8":
        operands.insert(2, TensorType(shape=(packed,), dtype="float32"))
    return KernelCode(
        function=_Writer(plan, operands).function(),
        operands=tuple(operands),
        pack=lambda constants: _pack(plan, constants),
    )


def _pack(plan: _Design, constants: Constants) -> tuple[Array, ...]:
    shape, dot, kernel = plan.shape, plan.dot, plan.kernel
    weight = constants["weight"].astype(dot.weight)
    if weight.ndim == 2:  # [O, I] of a dense layer
        weight = weight[:, :, None, None]
    # [G, O/G, KH, taps, run]: the run is what is contiguous in a channels-last map
    runs = weight.reshape(shape.groups, shape.outputs, shape.inputs, *weight.shape[2:])
    runs = runs.transpose(0, 1, 3, 4, 2)
    runs = runs.reshape(shape.groups, shape.outputs, weight.shape[2], shape.taps, shape.run)
    steps, unit = plan.steps, dot.unit
    wide = plan.padded_outputs
    full = np.zeros((shape.groups, wide, weight.shape[2], shape.taps, steps * unit), dot.weight)
    full[:, : shape.outputs, :, :, : shape.run] = runs
    full = full.reshape(shape.groups, wide, weight.shape[2], shape.taps, steps, unit)
    pieces: list[Array] = []
    for group in range(shape.groups):
        start = 0
        for panel in plan.panels:
            block = full[group, start : start + sum(panel)]  # [width, KH, taps, steps, unit]
            pieces.append(block.transpose(1, 2, 3, 0, 4).ravel())
            start += sum(panel)
    packed = [np.concatenate(pieces)]
    bias = constants["bias"]
    if kernel.precision == "int8":
        sums = weight.astype(np.int64).sum(axis=(1, 2, 3))
        bias = bias.astype(np.int64) - int(constants["input_zero_point"]) * sums
        packed.append(_per_channel(plan, bias, "int32"))
        packed.append(_per_channel(plan, epilogue.channel_multiplier(constants, kernel), "float32"))
    else:
        packed.append(_per_channel(plan, bias, "float32"))
    packed.append(epilogue.pack_scalars(constants))
    return tuple(packed)


def _per_channel(plan: _Design, values: Array, dtype: str) -> Array:
    padded = np.zeros((plan.shape.groups, plan.padded_outputs), dtype)
    padded[:, : plan.shape.outputs] = values.reshape(plan.shape.groups, plan.shape.outputs)
    return padded.ravel()


class _Writer:
    """Writes the code of one design."""

    def __init__(self, plan: _Design, operands: list[TensorType]) -> None:
        self.plan = plan
        kernel = plan.kernel
        names = ["weight", "bias", "multiplier", "scalars"]
        if kernel.precision == "fp32":
            names.remove("multiplier")
        self.parameters = [
            *(
                tir.parameter(name, t.shape, t.dtype)
                for name, t in zip(("input", "residual"), kernel.inputs, strict=False)
            ),
            *(tir.parameter(n, t.shape, t.dtype) for n, t in zip(names, operands, strict=True)),
            tir.parameter("output", kernel.output.shape, kernel.output.dtype),
        ]
        self.head: list[tir.Statement] = []
        self.buffers: dict[str, tir.Buffer] = {}
        for buffer in self.parameters:
            declaration, view = tir.flat(buffer)
            self.head.append(declaration)
            self.buffers[buffer.name] = view

    def function(self) -> tir.PrimFunc:
        return tir.function(self.parameters, [*self.head, *self._body()])

    def _body(self) -> list[tir.Statement]:
        plan, staging = self.plan, self.plan.staging
        if staging is None:
            return self._blocks(self.buffers["input"], row_offset=None)
        size = staging.rows * staging.row_elements + staging.slack
        allocation, copy = tir.scratch("staged", size, plan.dot.activation)
        if staging.whole:
            fill = tir.loop(
                staging.rows, lambda row: self._stage_row(copy, row, row), name="stage",
                parallel=plan.parallel and staging.rows > 1,
            )  # fmt: skip
            return [allocation, *fill, *self._blocks(copy, row_offset=None)]

        def row_of_output(y: tir.Expr) -> list[tir.Statement]:
            first = y * plan.shape.strides[0]
            fill = tir.loop(
                staging.rows, lambda row: self._stage_row(copy, row, first + row), name="stage"
            )
            return [allocation, *fill, *self._blocks(copy, row_offset=y)]

        return tir.loop(plan.shape.out_height, row_of_output, name="y", parallel=plan.parallel)

    def _stage_row(
        self, copy: tir.Buffer, to: tir.Expr, padded_row: tir.Expr
    ) -> list[tir.Statement]:
        """Copy one row of the padded map, `padded_row`, to row `to` of the copy."""
        shape, staging, kernel = self.plan.shape, self.plan.staging, self.plan.kernel
        assert staging is not None
        channels = shape.inputs * shape.groups
        source = self.buffers["input"]
        dtype = self.plan.dot.activation
        start = to * staging.row_elements
        row = padded_row - shape.pads[0]
        fill_value = tir.const(0.0, "float32")
        if kernel.precision == "int8":
            fill_value = epilogue.scalar(self.buffers["scalars"], "input_zero_point")

        def fill(offset: int, count: int) -> list[tir.Statement]:
            return tir.vectors(
                count,
                lambda at, lanes: [
                    tir.store(
                        copy, start + offset + at, tir.splat(fill_value.astype(dtype), lanes), lanes
                    )
                ],
            )

        left, body, right = (n * channels for n in (shape.pads[1], shape.width, shape.pads[3]))

        def move(at: tir.Expr, lanes: int) -> list[tir.Statement]:
            value = tir.load(source, row * body + at, lanes)
            return [tir.store(copy, start + left + at, tir.cast(value, dtype, lanes), lanes)]

        inside = [*fill(0, left), *tir.vectors(body, move), *fill(left + body, right)]
        if shape.pads[0] == 0 and shape.pads[2] == 0:
            return inside
        valid = (row >= 0) & (row < shape.height)
        outside = tir.sequence(fill(0, staging.row_elements))
        return [stmt.IfThenElse(valid, tir.sequence(inside), outside)]

    def _blocks(self, source: tir.Buffer, *, row_offset: tir.Expr | None) -> list[tir.Statement]:
        """All tiles; with `row_offset`, of that output row only (the source holds its inputs)."""
        plan = self.plan

        def group(g: tir.Expr) -> list[tir.Statement]:
            if plan.panels_outside:
                return self._for_panels(
                    g,
                    lambda panel, first, where: self._for_positions(
                        source, row_offset, lambda y, x, height: self._tile(
                            source, g, panel, first, where, y, x, height, row_offset
                        ), parallel=False,
                    ),
                    parallel=plan.parallel,
                )  # fmt: skip
            return self._for_positions(
                source,
                row_offset,
                lambda y, x, height: self._for_panels(
                    g,
                    lambda panel, first, where: self._tile(
                        source, g, panel, first, where, y, x, height, row_offset
                    ),
                    parallel=False,
                ),
                parallel=plan.parallel and row_offset is None,
            )

        return tir.loop(plan.shape.groups, group, name="group")

    def _for_panels(self, group, body, *, parallel):  # type: ignore[no-untyped-def]
        """`body(lanes, first channel, first weight)` for every panel; equal ones in a loop."""
        plan = self.plan
        panels = plan.panels
        width = plan.tile.vectors * plan.lanes
        regular = plan.shape.outputs // width  # the others hold lanes that only pad
        channel0 = group * plan.padded_outputs
        written = tir.loop(
            regular,
            lambda p: body(
                (plan.lanes,) * plan.tile.vectors, p * width, (channel0 + p * width) * plan.depth
            ),
            name="panel",
            parallel=parallel and regular > 1,
        )
        start = regular * width
        for panel in panels[regular:]:
            written += body(panel, start, (channel0 + start) * plan.depth)
            start += sum(panel)
        return written

    def _for_positions(self, source, row_offset, body, *, parallel):  # type: ignore[no-untyped-def]
        """`body(y, x, positions)` for every tile of output positions."""
        plan, shape = self.plan, self.plan.shape
        height = plan.tile.rows
        columns = shape.out_width * plan.tile_rows
        whole, ragged = divmod(columns, height)

        def along_row(y: tir.Expr, outermost: bool) -> list[tir.Statement]:
            tiles = tir.loop(
                whole, lambda t: body(y, t * height, height), name="tile",
                parallel=parallel and outermost and whole > 1,
            )  # fmt: skip
            if ragged:
                tiles += body(y, whole * height, ragged)
            return tiles

        if row_offset is not None:
            return along_row(row_offset, False)
        rows = shape.out_height // plan.tile_rows
        if rows == 1:
            return along_row(tir.const(0), True)
        return tir.loop(
            rows, lambda y: along_row(y * plan.tile_rows, False), name="y", parallel=parallel
        )

    def _tile(  # type: ignore[no-untyped-def]
        self, source, group, panel, first, weight_start, y, x, positions, row_offset
    ):
        """One register tile: positions x .. x + positions - 1 from row y, one panel of channels."""
        plan, shape, dot = self.plan, self.plan.shape, self.plan.dot
        row_elements = (
            plan.staging.row_elements
            if plan.staging is not None
            else shape.width * shape.inputs * shape.groups
        )
        column_step = shape.strides[1] * shape.inputs * shape.groups
        source_y = tir.const(0) if row_offset is not None else y * shape.strides[0]

        def position(i: int) -> tuple[tir.Expr, tir.Expr]:
            """Row and column, from (y, 0), of the i-th position."""
            if plan.tile_rows == 1:
                return tir.const(0), x + i
            linear = x + i
            return linear // shape.out_width, linear % shape.out_width

        places = [position(i) for i in range(positions)]
        bases = [
            (source_y + dy * shape.strides[0]) * row_elements
            + column * column_step
            + group * shape.inputs
            for dy, column in places
        ]
        channel = group * plan.padded_outputs + first
        offsets = [sum(panel[:j]) for j in range(len(panel))]
        width = sum(panel)
        allocation, accumulators = tir.scratch(
            "accumulators", positions * width, dot.accumulator, registers=True
        )
        bias = self.buffers["bias"]
        body: list[tir.Statement] = [allocation]
        for j, lanes in enumerate(panel):
            named, start_value = tir.bind(
                f"bias{j}", tir.load(bias, channel + offsets[j], lanes), dot.accumulator, lanes
            )
            body.append(named)
            for i in range(positions):
                body.append(tir.store(accumulators, i * width + offsets[j], start_value, lanes))

        def step(ky: tir.Expr, kx: tir.Expr, k: tir.Expr) -> list[tir.Statement]:
            reached = (ky * shape.taps + kx) * plan.steps + k
            weights_at = weight_start + reached * (width * dot.unit)
            read_at = ky * (shape.dilations[0] * row_elements)
            read_at += kx * (shape.dilations[1] * shape.inputs * shape.groups) + k * dot.unit
            written: list[tir.Statement] = []
            weights = []
            for j, lanes in enumerate(panel):
                value = load_weights(
                    dot, self.buffers["weight"], weights_at + offsets[j] * dot.unit, lanes
                )
                named, variable = tir.bind(f"w{j}", value, *_weight_type(dot, lanes))
                written.append(named)
                weights.append(variable)
            for i, base in enumerate(bases):
                value = load_activation(dot, source, base + read_at)
                named, activation = tir.bind(
                    f"a{i}", value, "float32" if dot.kind == "fma" else "int32"
                )
                written.append(named)
                for j, lanes in enumerate(panel):
                    at = i * width + offsets[j]
                    total = tir.load(accumulators, at, lanes)
                    total = multiply_add(dot, total, activation, weights[j], lanes)
                    written.append(tir.store(accumulators, at, total, lanes))
            return written

        body += tir.loop(
            shape.kernel[0],
            lambda ky: tir.loop(
                shape.taps,
                lambda kx: tir.loop(plan.steps, lambda k: step(ky, kx, k), name="k"),
                name="kx",
            ),
            name="ky",
        )
        for i, (dy, column) in enumerate(places):
            out = ((y + dy) * shape.out_width + column) * (shape.outputs * shape.groups)
            out = out + group * shape.outputs + first
            for j, lanes in enumerate(panel):
                total = tir.load(accumulators, i * width + offsets[j], lanes)
                valid = lanes
                if isinstance(first, int):
                    valid = min(lanes, shape.outputs - first - offsets[j])
                body += self._write(total, out + offsets[j], channel + offsets[j], lanes, valid)
        return body

    def _write(
        self, total: tir.Expr, out: tir.Expr, channel: tir.Expr, lanes: int, valid: int
    ) -> list[tir.Statement]:
        """The epilogue and the store of one vector, of which `valid` lanes exist."""
        kernel, buffers = self.plan.kernel, self.buffers
        multiplier = None
        if kernel.precision == "int8":
            multiplier = tir.load(buffers["multiplier"], channel, lanes)
        return epilogue.write(
            total, kernel=kernel, multiplier=multiplier, buffers=buffers, out=out, lanes=lanes,
            valid=valid,
        )  # fmt: skip


def _weight_type(dot: Dot, lanes: int) -> tuple[str, int]:
    if dot.kind == "avx2_pmaddwd":
        return "int16", lanes * dot.unit
    if dot.kind == "widen":
        return "int32", lanes
    return dot.weight, lanes * dot.unit
