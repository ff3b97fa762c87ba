"""The code of a contraction around its register tile: staging, and the loops over tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm.tirx import stmt

from millifit.targets.network import TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import signature
from millifit.targets.schedules.contraction_plan import Design, Staging
from millifit.targets.schedules.dot import stage
from millifit.targets.schedules.half import storage
from millifit.targets.schedules.half_tile import HalfTile
from millifit.targets.schedules.mmla_tile import MmlaTile
from millifit.targets.schedules.register_tile import Panel, Place, RegisterTile


def write(plan: Design, operands: Mapping[str, TensorType]) -> tir.PrimFunc:
    """The code of a design whose packed operands have these types."""
    parameters = signature(plan.kernel, operands)
    views = parameters.views
    if plan.staging is None:
        body = _tiles(plan, views, views["input"], row=None)
    else:
        body = _staged(plan, plan.staging, views)
    return parameters.function(body, definitions=plan.dot.definitions)


def _staged(plan: Design, staging: Staging, views: Mapping[str, tir.Buffer]) -> list[tir.Statement]:
    """Copy the input, padded and in the dot product's type; all of it, or row by row."""
    size = staging.rows * staging.row_elements + staging.slack
    dtype = storage(plan.dot.activation)
    allocation, copy = tir.scratch("staged", size, dtype)
    # What a run of odd length reads behind the last row meets weights of 0: NaN must not.
    clean: list[tir.Statement] = []
    if plan.dot.accumulator == "float32" and plan.dot.unit > 1:
        nothing = tir.const(0, dtype, staging.slack)
        clean = [tir.store(copy, size - staging.slack, nothing, staging.slack)]

    def fill(first: tir.Expr, *, parallel: bool) -> list[tir.Statement]:
        return tir.loop(
            staging.rows,
            lambda row: _stage_row(plan, staging, views, copy, row, first + row),
            name="stage",
            parallel=parallel,
        )

    if staging.whole:
        copied = fill(tir.const(0), parallel=plan.parallel and staging.rows > 1)
        return [allocation, *clean, *copied, *_tiles(plan, views, copy, row=None)]

    def output_row(y: tir.Expr) -> list[tir.Statement]:
        copied = fill(y * plan.shape.strides[0], parallel=False)
        return [allocation, *clean, *copied, *_tiles(plan, views, copy, row=y)]

    return tir.loop(plan.shape.out_height, output_row, name="y", parallel=plan.parallel)


def _stage_row(
    plan: Design,
    staging: Staging,
    views: Mapping[str, tir.Buffer],
    copy: tir.Buffer,
    to: tir.Expr,
    padded_row: tir.Expr,
) -> list[tir.Statement]:
    """Copy row `padded_row` of the padded map to row `to` of the copy."""
    shape = plan.shape
    start = to * staging.row_elements
    row = padded_row - shape.pads[0]
    padding = tir.const(0.0, "float32")
    if plan.kernel.integer:
        padding = epilogue.scalar(views["scalars"], "input_zero_point").astype("uint8")

    def pad(offset: int, count: int) -> list[tir.Statement]:
        def write_padding(at: tir.Expr, lanes: int) -> list[tir.Statement]:
            value = tir.splat(stage(plan.dot, padding, 1), lanes)
            return [tir.store(copy, start + offset + at, value, lanes)]

        return tir.vectors(count, write_padding)

    channels = shape.inputs * shape.groups
    left, body, right = (n * channels for n in (shape.pads[1], shape.width, shape.pads[3]))

    def move(at: tir.Expr, lanes: int) -> list[tir.Statement]:
        value = tir.load(views["input"], row * body + at, lanes)
        return [tir.store(copy, start + left + at, stage(plan.dot, value, lanes), lanes)]

    inside = [*pad(0, left), *tir.vectors(body, move), *pad(left + body, right)]
    if shape.pads[0] == 0 and shape.pads[2] == 0:
        return inside
    exists = (row >= 0) & (row < shape.height)
    outside = tir.sequence(pad(0, staging.row_elements))
    return [stmt.IfThenElse(exists, tir.sequence(inside), outside)]


def _tiles(
    plan: Design, views: Mapping[str, tir.Buffer], source: tir.Buffer, *, row: tir.Expr | None
) -> list[tir.Statement]:
    """All tiles; with `row`, those of that output row, whose inputs are all the source holds."""

    def group(g: tir.Expr) -> list[tir.Statement]:
        def tile(panel: Panel, place: Place) -> list[tir.Statement]:
            return _tile_of(plan)(
                plan=plan, buffers=views, source=source, group=g, panel=panel, place=place
            ).code()

        parallel = plan.parallel and row is None
        if plan.panels_outside:
            return _for_panels(
                plan,
                g,
                lambda panel: _for_places(
                    plan, row, lambda place: tile(panel, place), parallel=False
                ),
                parallel=parallel,
            )
        return _for_places(
            plan,
            row,
            lambda place: _for_panels(plan, g, lambda panel: tile(panel, place), parallel=False),
            parallel=parallel,
        )

    return tir.loop(plan.shape.groups, group, name="group")


def _tile_of(plan: Design) -> type[RegisterTile]:
    if plan.dot.kind == "neon_i8mm":
        return MmlaTile
    return HalfTile if plan.dot.partial else RegisterTile


def _for_panels(
    plan: Design,
    group: tir.Expr,
    body: Callable[[Panel], list[tir.Statement]],
    *,
    parallel: bool,
) -> list[tir.Statement]:
    """`body` for every panel of a group; the full ones in a loop."""
    width = plan.tile.vectors * plan.lanes
    full = plan.shape.outputs // width
    start_of_group = group * plan.padded_outputs

    def panel(lanes: tuple[int, ...], first: tir.Expr, valid: int) -> list[tir.Statement]:
        packed = start_of_group + first
        return body(
            Panel(lanes=lanes, first=first, packed=packed, weight=packed * plan.depth, valid=valid)
        )

    written = tir.loop(
        full,
        lambda p: panel((plan.lanes,) * plan.tile.vectors, p * width, width),
        name="panel",
        parallel=parallel and full > 1,
    )
    rest = plan.shape.outputs - full * width
    if rest:
        written += panel(plan.panels[-1], tir.const(full * width), rest)
    return written


def _for_places(
    plan: Design,
    row: tir.Expr | None,
    body: Callable[[Place], list[tir.Statement]],
    *,
    parallel: bool,
) -> list[tir.Statement]:
    """`body` for every tile's positions; `row` limits them to one row of the output."""
    shape, height = plan.shape, plan.tile.rows
    whole, ragged = divmod(shape.out_width * plan.tile_rows, height)

    def along(y: tir.Expr, *, outermost: bool) -> list[tir.Statement]:
        source_row = tir.const(0) if row is not None else y * shape.strides[0]

        def place(x: tir.Expr, positions: int) -> list[tir.Statement]:
            return body(Place(y=y, x=x, positions=positions, source_row=source_row))

        tiles = tir.loop(
            whole,
            lambda t: place(t * height, height),
            name="tile",
            parallel=parallel and outermost and whole > 1,
        )
        if ragged:
            tiles += place(tir.const(whole * height), ragged)
        return tiles

    if row is not None:
        return along(row, outermost=False)
    rows = shape.out_height // plan.tile_rows
    if rows == 1:
        return along(tir.const(0), outermost=True)
    return tir.loop(
        rows, lambda y: along(y * plan.tile_rows, outermost=False), name="y", parallel=parallel
    )
