"""Attention as one kernel: ``softmax(scale * Q K^T + mask) V`` for every head.

Queries, keys and values are read as they lie (`product.Matrix`), so no transposition goes through
memory. For each head K^T and V are packed once. Then, for a block of query rows whose scores stay
in the nearest cache: scores by register tiles, softmax in place without its division, the product
with V, and the division as each result is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.expr import Ramp

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.schedules.product import (
    Matrix,
    Panels,
    load_valid,
    multiply,
    pack,
    row_blocks,
    store_valid,
)
from millifit.targets.schedules.softmax import exponentials
from millifit.targets.schedules.tile import matrix_tile
from millifit.targets.target import Target

_PARALLEL_MACS = 500_000
# Rows of a block: enough for several register tiles, few enough to keep the scores in L1.
_BLOCK_ROWS = 24
_LEAST_SCORE = -3.0e38


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """What is decided before code is written.

    `layout` has, for each of query, key, value and output, offset and strides of head, row and
    column; for the mask its strides of head, row and column.
    """

    kernel: Kernel
    heads: int
    queries: int
    keys: int
    depth: int
    width: int
    layout: Mapping[str, tuple[int, ...]]
    lanes: int
    score_rows: int
    value_rows: int
    score_panels: Panels
    value_panels: Panels
    block: int
    parts: int  # pieces of a head's queries that run in parallel
    parallel: bool


def _design(kernel: Kernel, target: Target) -> _Design:
    heads, queries, keys, depth, width = (
        int(number(kernel, name, 0)) for name in ("heads", "queries", "keys", "depth", "width")
    )
    layout = {name: value for name, value in kernel.attributes if isinstance(value, tuple)}
    lanes = target.fp32_lanes
    scores = matrix_tile(target, rows=queries, channels=keys)
    values = matrix_tile(target, rows=queries, channels=width)
    step = math.lcm(scores.rows, values.rows)
    step = step if step <= _BLOCK_ROWS else scores.rows
    parallel = target.threads > 1 and heads * queries * keys * depth >= _PARALLEL_MACS
    parts = 1
    if parallel:
        while heads * parts % target.threads and parts < min(target.threads, queries):
            parts += 1
    return _Design(
        kernel=kernel, heads=heads, queries=queries, keys=keys, depth=depth, width=width,
        layout=layout, lanes=lanes, score_rows=scores.rows, value_rows=values.rows,
        score_panels=Panels(columns=keys, lanes=lanes, widest=scores.vectors),
        value_panels=Panels(columns=width, lanes=lanes, widest=values.vectors),
        block=max(1, _BLOCK_ROWS // step) * step, parts=parts, parallel=parallel,
    )  # fmt: skip


def attention(kernel: Kernel, target: Target) -> KernelCode:
    """Code of an attention kernel; float32 in, float32 or uint8 out.

    Inputs are query, key, value and, where the layout has ``mask``, what is added to the scores.
    The constant ``scale`` multiplies the scores.
    """
    design = _design(kernel, target)
    operands = {
        "scale": TensorType(shape=(1,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    parameters = signature(kernel, operands)
    renamed = {"input": "query", "residual": "key", "input2": "value", "input3": "mask"}
    views = {renamed.get(name, name): view for name, view in parameters.views.items()}
    body = tir.loop(
        design.heads * design.parts,
        lambda unit: _head(design, views, unit // design.parts, unit % design.parts),
        name="head",
        parallel=design.parallel,
    )
    return KernelCode(
        function=parameters.function(body),
        operands=tuple(operands.values()),
        pack=packed,
    )


def packed(constants: Constants) -> tuple[Array, ...]:
    """The operands of a call."""
    scale = np.asarray(constants["scale"], np.float32).reshape(1)
    return (scale, epilogue.pack_scalars(constants))


def _matrix(design: _Design, views: Mapping[str, tir.Buffer], name: str, head: tir.Expr) -> Matrix:
    offset, per_head, row, column = design.layout[name]
    return Matrix(buffer=views[name], start=head * per_head + offset, row=row, column=column)


def _head(
    design: _Design, views: Mapping[str, tir.Buffer], head: tir.Expr, part: tir.Expr
) -> list[tir.Statement]:
    keys, values = (_matrix(design, views, name, head) for name in ("key", "value"))
    turned = Matrix(buffer=keys.buffer, start=keys.start, row=keys.column, column=keys.row)
    sizes = (design.depth * design.score_panels.padded, design.keys * design.value_panels.padded)
    allocations, buffers = zip(
        *(
            tir.scratch(name, size, "float32")
            for name, size in (
                ("keys", sizes[0]),
                ("values", sizes[1]),
                ("scores", design.block * design.score_panels.padded),
                ("inverses", design.block),
            )
        ),
        strict=True,
    )
    packed_keys, packed_values, scores, inverses = buffers
    share = math.ceil(design.queries / design.parts)

    def block(row: tir.Expr, rows: int) -> list[tir.Statement]:
        return [
            *_scores(design, views, head, row, rows, packed_keys, scores),
            *_softmax(design, rows, scores, inverses),
            *_values(design, views, head, row, rows, packed_values, scores, inverses),
        ]

    # The last part begins early enough to be as long as the others: both write the same there.
    begin = tirx.min(part * share, tir.const(design.queries - share))
    if design.parts == 1:
        begin = tir.const(0)
    return [
        *allocations,
        *pack(turned, design.depth, design.score_panels, packed_keys),
        *pack(values, design.keys, design.value_panels, packed_values),
        *row_blocks(share, design.block, lambda r, n: block(begin + r, n), name="block"),
    ]


def _scores(
    design: _Design,
    views: Mapping[str, tir.Buffer],
    head: tir.Expr,
    first: tir.Expr,
    rows: int,
    packed: tir.Buffer,
    scores: tir.Buffer,
) -> list[tir.Statement]:
    """``scale * Q K^T + mask`` of some query rows; what pads the keys counts for nothing."""
    query = _matrix(design, views, "query", head)
    padded, lanes = design.score_panels.padded, design.lanes
    scale = tir.load(views["scale"], tir.const(0))
    mask = None
    if "mask" in views:
        per_head, per_row, _ = design.layout["mask"]
        mask = head * per_head, per_row

    def panel(vector: tir.Expr, vectors: int, exist: int) -> list[tir.Statement]:
        def tile(r: tir.Expr, height: int) -> list[tir.Statement]:
            def store(i: int, j: int, value: tir.Expr) -> list[tir.Statement]:
                written: list[tir.Statement] = []
                value = value * tir.splat(scale, lanes)
                valid = min(lanes, exist - j * lanes)
                column = (vector + j) * lanes
                if mask is not None:
                    at = mask[0] + (first + r + i) * mask[1] + column
                    written, added = load_valid(views["mask"], at, lanes=lanes, valid=valid)
                    value = value + added
                if valid < lanes:
                    exists = Ramp(tir.const(0), 1, lanes) < tir.const(valid, "int32", lanes)
                    nothing = tir.const(_LEAST_SCORE, "float32", lanes)
                    value = tirx.Select(exists, value, nothing)
                return [*written, tir.store(scores, (r + i) * padded + column, value, lanes)]

            left = Matrix(
                buffer=query.buffer, start=query.at(first + r, tir.const(0)), row=query.row,
                column=query.column,
            )  # fmt: skip
            start = vector * (design.depth * lanes)
            return multiply(
                left, packed, start, store, rows=height, depth=design.depth, vectors=vectors,
                lanes=lanes,
            )  # fmt: skip

        return row_blocks(rows, design.score_rows, tile, name="rows")

    return design.score_panels.each(panel, name="panel")


def _softmax(
    design: _Design, rows: int, scores: tir.Buffer, inverses: tir.Buffer
) -> list[tir.Statement]:
    padded = design.score_panels.padded

    def row(r: tir.Expr) -> list[tir.Statement]:
        start = r * padded
        written, inverse = exponentials(scores, start, padded, design.lanes, scores, start)
        return [*written, tir.store(inverses, r, inverse)]

    return tir.loop(rows, row, name="softmax")


def _values(
    design: _Design,
    views: Mapping[str, tir.Buffer],
    head: tir.Expr,
    first: tir.Expr,
    rows: int,
    packed: tir.Buffer,
    scores: tir.Buffer,
    inverses: tir.Buffer,
) -> list[tir.Statement]:
    """The product with V, divided by the sums, stored."""
    output = _matrix(design, views, "output", head)
    lanes, kind = design.lanes, design.kernel.output.dtype

    def panel(vector: tir.Expr, vectors: int, exist: int) -> list[tir.Statement]:
        def tile(r: tir.Expr, height: int) -> list[tir.Statement]:
            def store(i: int, j: int, value: tir.Expr) -> list[tir.Statement]:
                value = value * tir.splat(tir.load(inverses, r + i), lanes)
                if kind == "uint8":
                    value = epilogue.quantize(value, views["scalars"], lanes)
                at = output.at(first + r + i, (vector + j) * lanes)
                valid = min(lanes, exist - j * lanes)
                return store_valid(views["output"], at, value, lanes=lanes, valid=valid)

            left = Matrix(
                buffer=scores, start=r * design.score_panels.padded,
                row=design.score_panels.padded, column=1,
            )  # fmt: skip
            start = vector * (design.keys * lanes)
            return multiply(
                left, packed, start, store, rows=height, depth=design.keys, vectors=vectors,
                lanes=lanes,
            )  # fmt: skip

        return row_blocks(rows, design.value_rows, tile, name="rows")

    return design.value_panels.each(panel, name="panel")
