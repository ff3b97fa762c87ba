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
    rows, channels = int(number(kernel, "rows", 0)), kernel.output.shape[-1]
    operands = {
        "table": TensorType(shape=(rows * channels,), dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    parameters = signature(kernel, operands)
    views = parameters.views
    quantized = kernel.output.dtype == "uint8"

    def row(i: tir.Expr) -> list[tir.Statement]:
        given = tir.load(views["input"], i)
        kind = kernel.inputs[0].dtype
        wrapped = given + tirx.Select(
            given < tir.const(0, kind), tir.const(rows, kind), tir.const(0, kind)
        )
        inside = tir.clamp(wrapped, tir.const(0, kind), tir.const(rows - 1, kind))
        # The table may have more elements than 32 bits count.
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
        pack=_pack,
    )


def _pack(constants: Constants) -> tuple[Array, ...]:
    table = np.ascontiguousarray(constants["table"].astype(np.float32).ravel())
    return (table, epilogue.pack_scalars(constants))
