"""The code of a Winograd convolution: transforms around a blocked matrix product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm.tirx import stmt

from millifit.targets.network import TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import signature
from millifit.targets.schedules.register_tile import Panel, Place, RegisterTile
from millifit.targets.schedules.winograd_plan import Plan


def write(plan: Plan, operands: Mapping[str, TensorType]) -> tir.PrimFunc:
    """The code of a plan whose packed operands have these types."""
    parameters = signature(plan.kernel, operands)
    rows, _ = plan.tiles
    whole, ragged = divmod(rows, plan.tile_rows)
    parallel = plan.parallel and whole > 1
    shared_memory, shared = _scratch(plan, plan.tile_rows)

    def block(first: tir.Expr, count: int) -> list[tir.Statement]:
        # A thread works in memory of its own; blocks one after the other in the same.
        memory, scratch = _scratch(plan, count) if parallel else ([], shared)
        written = _Block(
            plan=plan, buffers=parameters.views, first=first, rows=count, scratch=scratch
        ).code()
        return [*memory, *written]

    body = tir.loop(
        whole, lambda b: block(b * plan.tile_rows, plan.tile_rows), name="block", parallel=parallel
    )
    if ragged:
        body += block(tir.const(whole * plan.tile_rows), ragged)
    return parameters.function(body if parallel else [*shared_memory, *body])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scratch:
    """Columns transformed, inputs transformed, and products, of one block."""

    columns: tir.Buffer
    transformed: tir.Buffer
    products: tir.Buffer


def _scratch(plan: Plan, rows: int) -> tuple[list[tir.Statement], _Scratch]:
    """Memory for blocks of up to `rows` rows of tiles: the allocations, and the buffers."""
    product, lanes = plan.product, plan.product.lanes
    sizes = {
        "columns": plan.transform.inputs * plan.padded_width * lanes,
        "transformed": plan.places * product.row_elements,
        "products": rows * plan.tiles[1] * plan.places * product.tile.vectors * lanes,
    }
    made = {name: tir.scratch(name, size, "float32") for name, size in sizes.items()}
    buffers = _Scratch(**{name: buffer for name, (_, buffer) in made.items()})
    return [allocation for allocation, _ in made.values()], buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Writes the code of `rows` rows of tiles from row `first`."""

    plan: Plan
    buffers: Mapping[str, tir.Buffer]
    first: tir.Expr
    rows: int
    scratch: _Scratch

    @property
    def tiles(self) -> int:
        return self.rows * self.plan.tiles[1]

    def code(self) -> list[tir.Statement]:
        """Input transform, then panel by panel the products and the output transform."""
        scratch = self.scratch
        return [
            *self._transform_inputs(scratch.columns, scratch.transformed),
            *self._panels(scratch.transformed, scratch.products),
        ]

    def _transform_inputs(
        self, columns: tir.Buffer, transformed: tir.Buffer
    ) -> list[tir.Statement]:
        """All input channels of the block, a vector at a time."""

        def channels(c: tir.Expr, lanes: int) -> list[tir.Statement]:
            def row(r: tir.Expr) -> list[tir.Statement]:
                return [
                    *self._transform_columns(r, c, lanes, columns),
                    *self._transform_rows(r, c, lanes, columns, transformed),
                ]

            return [
                *self._clear_margins(columns, lanes),
                *tir.loop(self.rows, row, name="tile_row"),
            ]

        return tir.vectors(self.plan.shape.inputs, channels, widest=self.plan.product.lanes)

    def _clear_margins(self, columns: tir.Buffer, lanes: int) -> list[tir.Statement]:
        """Zeros in the columns left and right of the map."""
        shape, zero = self.plan.shape, tir.const(0.0, "float32", lanes)
        left = shape.pads[1]
        outside = [
            *range(left),
            *range(min(left + shape.width, self.plan.padded_width), self.plan.padded_width),
        ]
        return [
            tir.store(columns, (x * self.plan.transform.inputs + i) * lanes, zero, lanes)
            for x in outside
            for i in range(self.plan.transform.inputs)
        ]

    def _transform_columns(
        self, r: tir.Expr, c: tir.Expr, lanes: int, columns: tir.Buffer
    ) -> list[tir.Statement]:
        """``B^T d`` down every column of the map that a row of tiles reads."""
        plan, shape = self.plan, self.plan.shape
        n, m = plan.transform.inputs, plan.transform.outputs
        top = (self.first + r) * m - shape.pads[0]

        def pass_over(exists: Callable[[int], tir.Expr | None]) -> list[tir.Statement]:
            def column(x: tir.Expr) -> list[tir.Statement]:
                values, written = [], []
                for i in range(n):
                    at = ((top + i) * shape.width + x) * shape.inputs + c
                    condition = exists(i)
                    if condition is None:
                        value = tir.load(self.buffers["input"], at, lanes)
                    else:
                        value = _load_if(condition, self.buffers["input"], at, lanes)
                    named, variable = tir.bind(f"d{i}", value, "float32", lanes)
                    written.append(named)
                    values.append(variable)
                bindings, results = plan.transform.of_inputs(values, lanes, "c")
                to = (x + shape.pads[1]) * (n * lanes)
                stores = [
                    tir.store(columns, to + i * lanes, value, lanes)
                    for i, value in enumerate(results)
                ]
                return [*written, *bindings, *stores]

            return tir.loop(shape.width, column, name="x")

        inside = (top >= 0) & (top + n <= shape.height)
        return [
            stmt.IfThenElse(
                inside,
                tir.sequence(pass_over(lambda _: None)),
                tir.sequence(pass_over(lambda i: (top + i >= 0) & (top + i < shape.height))),
            )
        ]

    def _transform_rows(
        self,
        r: tir.Expr,
        c: tir.Expr,
        lanes: int,
        columns: tir.Buffer,
        transformed: tir.Buffer,
    ) -> list[tir.Statement]:
        """``(B^T d) B`` along every row of a tile, for all tiles of the row."""
        plan = self.plan
        n, m = plan.transform.inputs, plan.transform.outputs

        def tile(t: tir.Expr) -> list[tir.Statement]:
            written: list[tir.Statement] = []
            to = (r * plan.tiles[1] + t) * plan.shape.inputs + c
            for i in range(n):
                values = []
                for j in range(n):
                    value = tir.load(columns, ((t * m + j) * n + i) * lanes, lanes)
                    named, variable = tir.bind(f"r{i}_{j}", value, "float32", lanes)
                    written.append(named)
                    values.append(variable)
                bindings, results = plan.transform.of_inputs(values, lanes, f"r{i}")
                written += bindings
                written += [
                    tir.store(
                        transformed, (i * n + j) * plan.product.row_elements + to, value, lanes
                    )
                    for j, value in enumerate(results)
                ]
            return written

        return tir.loop(plan.tiles[1], tile, name="tile")

    def _panels(self, transformed: tir.Buffer, products: tir.Buffer) -> list[tir.Statement]:
        """Products and output transform of every panel of output channels."""
        product = self.plan.product
        width = product.tile.vectors * product.lanes
        full = self.plan.shape.outputs // width

        def panel(lanes: tuple[int, ...], first: tir.Expr, valid: int) -> list[tir.Statement]:
            weight = first * (self.plan.places * self.plan.shape.inputs)
            block = Panel(lanes=lanes, first=first, packed=first, weight=weight, valid=valid)
            return [
                *self._multiply(block, transformed, products),
                *self._transform_outputs(block, products),
            ]

        written = tir.loop(
            full,
            lambda p: panel((product.lanes,) * product.tile.vectors, p * width, width),
            name="panel",
        )
        rest = self.plan.shape.outputs - full * width
        if rest:
            written += panel(product.panels[-1], tir.const(full * width), rest)
        return written

    def _multiply(
        self, panel: Panel, transformed: tir.Buffer, products: tir.Buffer
    ) -> list[tir.Statement]:
        """The products of every place, tiles in register tiles."""
        plan, height = self.plan, self.plan.product.tile.rows
        whole, ragged = divmod(self.tiles, height)
        weights = {"weight": self.buffers["weight"]}

        def place(p: tir.Expr) -> list[tir.Statement]:
            of_place = Panel(
                lanes=panel.lanes, first=panel.first, packed=panel.packed, valid=panel.valid,
                weight=panel.weight + p * (plan.shape.inputs * panel.width),
            )  # fmt: skip

            def some(t: tir.Expr, positions: int) -> list[tir.Statement]:
                def store(i: int, offset: int, value: tir.Expr, lanes: int) -> list[tir.Statement]:
                    at = ((t + i) * plan.places + p) * panel.width + offset
                    return [tir.store(products, at, value, lanes)]

                return RegisterTile(
                    plan=plan.product, buffers=weights, source=transformed, group=tir.const(0),
                    panel=of_place, store=store,
                    place=Place(y=p, x=t, positions=positions, source_row=p),
                ).code()  # fmt: skip

            written = tir.loop(whole, lambda t: some(t * height, height), name="tile")
            if ragged:
                written += some(tir.const(whole * height), ragged)
            return written

        return tir.loop(plan.places, place, name="place")

    def _transform_outputs(self, panel: Panel, products: tir.Buffer) -> list[tir.Statement]:
        """``A^T m A`` of every tile, and the epilogue of those outputs that exist."""
        plan, shape = self.plan, self.plan.shape
        m, columns = plan.transform.outputs, plan.tiles[1]
        last_columns = shape.out_width - (columns - 1) * m

        def row(r: tir.Expr) -> list[tir.Statement]:
            def tile(t: tir.Expr, valid_columns: int) -> list[tir.Statement]:
                return self._transform_tile(panel, products, r, t, valid_columns)

            inner = columns if last_columns == m else columns - 1
            written = tir.loop(inner, lambda t: tile(t, m), name="tile")
            if inner < columns:
                written += tile(tir.const(columns - 1), last_columns)
            return written

        return tir.loop(self.rows, row, name="tile_row")

    def _transform_tile(
        self, panel: Panel, products: tir.Buffer, r: tir.Expr, t: tir.Expr, valid_columns: int
    ) -> list[tir.Statement]:
        plan = self.plan
        m, n = plan.transform.outputs, plan.transform.inputs
        start = (r * plan.tiles[1] + t) * (plan.places * panel.width)
        written: list[tir.Statement] = []
        for lanes, offset in zip(panel.lanes, panel.offsets, strict=True):
            rows: list[list[tir.Expr]] = [[] for _ in range(m)]
            for j in range(n):
                values = []
                for i in range(n):
                    at = start + (i * n + j) * panel.width + offset
                    named, variable = tir.bind(
                        f"m{i}_{j}", tir.load(products, at, lanes), "float32", lanes
                    )
                    written.append(named)
                    values.append(variable)
                bindings, results = plan.transform.of_products(values, lanes, f"c{j}")
                written += bindings
                for i, value in enumerate(results):
                    named, variable = tir.bind(f"h{i}_{j}", value, "float32", lanes)
                    written.append(named)
                    rows[i].append(variable)
            written += self._finish(panel, r, t, rows, valid_columns, lanes, offset)
        return written

    def _finish(
        self, panel: Panel, r: tir.Expr, t: tir.Expr, rows: list[list[tir.Expr]],
        valid_columns: int, lanes: int, offset: int,
    ) -> list[tir.Statement]:  # fmt: skip
        """The second half of the output transform, row by row, and the epilogue."""
        plan, shape = self.plan, self.plan.shape
        m = plan.transform.outputs
        bias = tir.load(self.buffers["bias"], panel.packed + offset, lanes)
        written: list[tir.Statement] = []
        for i, values in enumerate(rows):
            bindings, results = plan.transform.of_products(values, lanes, f"r{i}")
            y = (self.first + r) * m + i
            stores = list(bindings)
            for j, value in enumerate(results[:valid_columns]):
                out = (y * shape.out_width + t * m + j) * shape.outputs + panel.first + offset
                stores += epilogue.write(
                    value + bias, kernel=plan.kernel, channel=panel.packed + offset,
                    buffers=self.buffers, out=out, lanes=lanes,
                    valid=min(lanes, panel.valid - offset),
                )  # fmt: skip
            if shape.out_height % m == 0:
                written += stores
            else:
                written.append(stmt.IfThenElse(y < shape.out_height, tir.sequence(stores), None))
        return written


def _load_if(condition: tir.Expr, buffer: tir.Buffer, at: tir.Expr, lanes: int) -> tir.Expr:
    """A vector, or zeros where it does not exist."""
    from tvm import tirx

    return tirx.if_then_else(
        condition, tir.load(buffer, at, lanes), tir.const(0.0, "float32", lanes)
    )
