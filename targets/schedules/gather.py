"""Embedding: rows of a constant table, chosen by ids."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.target import Target


def embedding(kernel: Kernel, target: Target) -> KernelCode:
    """Code of an embedding kernel: ``output[i] = table[ids[i]]``; float32 or uint8 out.

    The constant ``table`` is ``[rows, channels]``; attribute ``rows``. Negative ids count from the
    end of the table. An id outside the table reads its first or last row: ONNX leaves open what
    such an id gives, and nothing beyond the table is ever read.
    """
    channels = kernel.output.shape[-1]
    operands = operands_of(kernel)
    parameters = signature(kernel, operands)
    views = parameters.views
    quantized = kernel.output.dtype == "uint8"

    def row(i: tir.Expr) -> list[tir.Statement]:
        # The table may have more elements than 32 bits count.
        inside = row_of(kernel, tir.load(views["input"], i))
        named, start = tir.bind("start", inside.astype("int64") * channels, "int64")
        copied = moves.copy(
            target, views["table"], start, views["output"], i * channels, channels, itemsize=4,
            convert=(lambda v, n: epilogue.quantize(v, views["scalars"], n)) if quantized else None,
        )  # fmt: skip
        return [named, *copied]

    parallel = target.threads > 1 and kernel.output.elements >= moves.PARALLEL_ELEMENTS
    return KernelCode(
        function=parameters.function(
            tir.loop(kernel.inputs[0].elements, row, name="id", parallel=parallel)
        ),
        operands=tuple(operands.values()),
        pack=pack,
    )


def operands_of(kernel: Kernel) -> dict[str, TensorType]:
    """The table, and the scalars."""
    rows, channels = int(number(kernel, "rows", 0)), kernel.output.shape[-1]
    table = TensorType(shape=(rows * channels,), dtype="float32")
    return {"table": table, "scalars": epilogue.SCALARS_TYPE}


def row_of(kernel: Kernel, given: tir.Expr) -> tir.Expr:
    """The row of the table that an id means; never one outside."""
    kind, rows = kernel.inputs[0].dtype, int(number(kernel, "rows", 0))
    zero = tir.const(0, kind)
    wrapped = given + tirx.Select(given < zero, tir.const(rows, kind), zero)
    return tir.clamp(wrapped, zero, tir.const(rows - 1, kind))


def pack(constants: Constants) -> tuple[Array, ...]:
    """The operands of a call."""
    table = np.ascontiguousarray(constants["table"].astype(np.float32).ravel())
    return (table, epilogue.pack_scalars(constants))
