"""Convolution and dense layers on a GPU: a thread computes a tile of positions by channels.

Its sums stay in registers, as vectors of 4 channels; the map is read as it lies, 4 input channels
at a time. The weights are ``[KH][KW][I][O]``: threads beside each other read neighbours and share
their inputs. What lies outside the map counts as zero by a selection: all threads go round the same
loops.

A device that computes in half precision adds four products in it, and such sums in float32.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode
from millifit.targets.schedules.gpu.contraction_plan import Plan, plan
from millifit.targets.schedules.gpu.elementwise import LANES
from millifit.targets.schedules.gpu.finish import finish
from millifit.targets.schedules.gpu.launch import (
    Place,
    barrier,
    launch,
    registers,
    shared,
    unravel,
    when,
)
from millifit.targets.schedules.gpu.memory import Memory, memory
from millifit.targets.target import Gpu


def contraction(kernel: Kernel, gpu: Gpu) -> KernelCode:
    """Code of a conv2d or dense kernel, in fp32, fp16 or with integers."""
    made = plan(kernel, gpu)
    held = memory(kernel, gpu, made.operands)
    body = launch(made.groups, made.threads, _Writer(made, held).thread)
    return KernelCode(
        function=held.function(body), operands=tuple(made.operands.values()),
        pack=lambda constants: _pack(made, constants),
    )  # fmt: skip


def _pack(made: Plan, constants: Constants) -> tuple[Array, ...]:
    """Weights, bias and, of integers, the scales of the sums."""
    shape, wide = made.shape, made.padded_outputs
    outputs, groups = shape.outputs, shape.groups
    given = constants["weight"].reshape(groups, outputs, shape.inputs, *shape.kernel)
    weight = np.zeros((groups, *shape.kernel, shape.inputs, wide), made.weight_dtype)
    weight[..., :outputs] = given.transpose(0, 3, 4, 2, 1)

    def per_channel(values: Array, dtype: str) -> Array:
        packed = np.zeros((groups, wide), dtype)
        packed[:, :outputs] = values.reshape(groups, outputs)
        return packed.ravel()

    arrays = [weight.ravel()]
    arrays.append(per_channel(constants["bias"], "int32" if made.kernel.integer else "float32"))
    if made.kernel.integer:
        scales = epilogue.channel_multiplier(constants, made.kernel)
        arrays.append(per_channel(scales, "float32"))
    return (*arrays, epilogue.pack_scalars(constants))


class _Writer:
    """Writes the code of one plan."""

    def __init__(self, made: Plan, held: Memory) -> None:
        self.plan, self.held = made, held
        self.half = made.kernel.precision == "fp16" and held.computes_half
        self.sums = "int32" if made.kernel.integer else "float32"
        self.tile = [(p, v) for p in range(made.positions) for v in range(made.vectors)]
        self.dtype = "float16" if self.half else self.sums
        # In buffers, because TVM would write a variable's condition wherever it is used.
        self.padded = any(made.shape.pads)
        place, self.places = registers("places", 1 + made.positions, "int32")
        chosen, self.chosen = registers("chosen", made.positions, self.dtype, made.lanes)
        self.allocations = [place, chosen] if self.padded else []

    def thread(self, group: Place, local: Place) -> list[tir.Statement]:
        """One thread: its tile, and a share of the sums where they are split."""
        made, tiles = self.plan, self.plan.tiles
        panel = group[0] * made.threads[0] + local[0]
        tile = group[1] * made.threads[1] + local[1]
        count = tiles[0] * tiles[1] * tiles[2]
        exists = []
        if made.groups[0] * made.threads[0] != made.panels:
            exists.append(panel < made.panels)
        if made.groups[1] * made.threads[1] != count:
            exists.append(tile < count)
        if made.slices == 1:
            allocation, sums = registers("sums", len(self.tile), self.sums, LANES)
            work = [*self._multiplied(panel, tile, local[2], sums)]
            work += self._stored(panel, tile, [tir.load(sums, j) for j in range(len(self.tile))])
            work = when(tirx.all(*exists), work) if exists else work
            return [*self.allocations, allocation, *work]
        # All threads meet at the barrier: those beyond the last tile repeat it.
        panel = tirx.min(panel, made.panels - 1)
        tile = tirx.min(tile, count - 1)
        return self._split(panel, tile, local)

    def _split(self, panel: tir.Expr, tile: tir.Expr, local: Place) -> list[tir.Statement]:
        made = self.plan
        size = made.threads[0] * made.threads[1]
        own, sums = registers("sums", len(self.tile), self.sums, LANES)
        common, parts = shared("parts", len(self.tile) * size * made.slices, self.sums, LANES)
        place = local[1] * made.threads[0] + local[0]
        written = [*self.allocations, own, common, *self._multiplied(panel, tile, local[2], sums)]

        def part(j: int, piece: tir.Expr) -> tir.Expr:
            return (piece * len(self.tile) + j) * size + place

        written += [
            tir.store(parts, part(j, local[2]), tir.load(sums, j)) for j in range(len(self.tile))
        ]
        written.append(barrier())
        totals = []
        for j in range(len(self.tile)):
            total = tir.load(parts, part(j, tir.const(0)))
            for piece in range(1, made.slices):
                total = total + tir.load(parts, part(j, tir.const(piece)))
            totals.append(total)
        return [*written, *when(local[2] < 1, self._stored(panel, tile, totals))]

    def _place(self, panel: tir.Expr, tile: tir.Expr) -> tuple[tir.Expr, ...]:
        """Group, first channel in it, sample, row and first column of a tile."""
        made = self.plan
        per_group = made.panels // made.shape.groups
        group, block = unravel(panel, (made.shape.groups, per_group))
        sample, row, column = unravel(tile, made.tiles)
        # The last tile of a row begins early enough to be whole: both write the same there.
        last = tir.const(made.shape.out_width - made.positions)
        start = column * made.positions
        if made.shape.out_width % made.positions:
            start = tirx.min(start, last)
        return group, block * (made.vectors * LANES), sample, row, start

    def _multiplied(
        self, panel: tir.Expr, tile: tir.Expr, piece: tir.Expr, sums: tir.Buffer
    ) -> list[tir.Statement]:
        """All sums of a tile, of this thread's share of the input channels."""
        made, shape = self.plan, self.plan.shape
        group, channel, sample, row, column = self._place(panel, tile)
        zero = tir.const(0, self.sums, LANES)
        written = [tir.store(sums, j, zero) for j in range(len(self.tile))]
        top = row * shape.strides[0] - shape.pads[0]
        left = column * shape.strides[1] - shape.pads[1]

        def tap(ky: tir.Expr, kx: tir.Expr) -> list[tir.Statement]:
            columns = [
                left + kx * shape.dilations[1] + p * shape.strides[1] for p in range(made.positions)
            ]
            code, line, places, exists = self._inside(top + ky * shape.dilations[0], columns)
            starts = [
                ((sample * shape.height + line) * shape.width + place)
                * (shape.inputs * shape.groups)
                + group * shape.inputs
                for place in places
            ]
            weight = ((group * shape.kernel[0] + ky) * shape.kernel[1] + kx) * shape.inputs
            width = made.padded_outputs

            def step(i: tir.Expr) -> list[tir.Statement]:
                at = (i * made.slices + piece) * made.lanes
                first = (weight + at) * width + channel
                return self._step([start + at for start in starts], exists, first, width, sums)

            count = made.steps // made.slices
            if made.steps % made.slices:
                count = (made.steps - piece + made.slices - 1) // made.slices
            return [*code, *tir.loop(count, step, name="i")]

        return written + tir.loop(
            shape.kernel[0],
            lambda ky: tir.loop(shape.kernel[1], lambda kx: tap(ky, kx), name="kx"),
            name="ky",
        )

    def _inside(
        self, row: tir.Expr, columns: list[tir.Expr]
    ) -> tuple[list[tir.Statement], tir.Expr, list[tir.Expr], list[tir.Expr | None]]:
        """The row and columns that the positions read, and whether they are in the map.

        Those outside are the nearest inside. All threads go round the same loops.
        """
        shape, written = self.plan.shape, []
        wanted, extents = [row, *columns], [shape.height, *[shape.width] * len(columns)]
        found, held = [], []
        for slot, (at, extent) in enumerate(zip(wanted, extents, strict=True)):
            if shape.pads[1 if slot else 0] or shape.pads[3 if slot else 2]:
                inside = tir.clamp(at, tir.const(0), tir.const(extent - 1))
                written.append(tir.store(self.places, slot, inside))
                found.append(tir.load(self.places, slot))
                held.append(tirx.EQ(found[-1], at))
            else:
                found.append(at)
                held.append(None)
        exists = [
            tirx.all(*(known for known in (held[0], column) if known is not None))
            if self.padded
            else None
            for column in held[1:]
        ]
        return written, found[0], found[1:], exists

    def _step(
        self,
        starts: list[tir.Expr],
        inside: list[tir.Expr | None],
        first: tir.Expr,
        width: int,
        sums: tir.Buffer,
    ) -> list[tir.Statement]:
        """Some input channels of all positions times their weights."""
        made = self.plan
        dtype = self.dtype
        written: list[tir.Statement] = []
        inputs, weights = [], {}
        for p, (start, exists) in enumerate(zip(starts, inside, strict=True)):
            named, value = tir.bind(f"a{p}", self._input(start), dtype, made.lanes)
            written.append(named)
            if exists is not None:
                nothing = tir.const(0, dtype, made.lanes)
                chosen = tirx.if_then_else(exists, value, nothing)
                written.append(tir.store(self.chosen, p, chosen))
                value = tir.load(self.chosen, p)
            inputs.append(value)
        for lane in range(made.lanes):
            for v in range(made.vectors):
                value = self._weight(first + lane * width + v * LANES)
                named, weights[lane, v] = tir.bind(f"w{lane}_{v}", value, dtype, LANES)
                written.append(named)
        for j, (p, v) in enumerate(self.tile):
            total = tir.load(sums, j)
            products = [
                tir.splat(lane_of(inputs[p], made.lanes, lane), LANES) * weights[lane, v]
                for lane in range(made.lanes)
            ]
            if self.half:
                total = total + tir.cast(sum(products[1:], products[0]), "float32", LANES)
            else:
                for product in products:
                    total = total + product
            written.append(tir.store(sums, j, total))
        return written

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
        if self.half:
            return self.held.read_half("weight", at, LANES)
        value = self.held.read("weight", at, LANES)
        return value if self.sums == "float32" else tir.cast(value, "int32", LANES)

    def _stored(
        self, panel: tir.Expr, tile: tir.Expr, totals: list[tir.Expr]
    ) -> list[tir.Statement]:
        """Finish the sums of a tile and write them."""
        made, shape = self.plan, self.plan.shape
        group, channel, sample, row, column = self._place(panel, tile)
        written: list[tir.Statement] = []
        for (p, v), total in zip(self.tile, totals, strict=True):
            here = channel + v * LANES
            pixel = (sample * shape.out_height + row) * shape.out_width + column + p
            out = pixel * (shape.outputs * shape.groups) + group * shape.outputs + here
            written += finish(
                made.kernel, self.held, total, channel=group * made.padded_outputs + here, out=out,
                left=None if made.whole else shape.outputs - here,
            )  # fmt: skip
        return written


def lane_of(vector: tir.Expr, lanes: int, lane: int) -> tir.Expr:
    """One element of a vector."""
    return vector if lanes == 1 else tir.shuffle([vector], [lane])
