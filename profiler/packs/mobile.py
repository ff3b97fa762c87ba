"""The tables of phones: operators of their GPUs, and the networks that these are from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millifit.profiler.packs.operators import (
    Operator,
    kernels_of,
    operator_name,
    precision_name,
)
from millifit.profiler.packs.table import texts, whole_numbers
from millifit.targets.kernel import Kernel

if TYPE_CHECKING:
    import pandas as pd

OPERATOR_COLUMNS = ("network", "op_index", "op_type", "in_hw", "out_hw", "n_inputs", "fused_ops")
NETWORK_COLUMNS = ("network", "core_set", "cores_large", "threads", "size_bytes")


def mobile_op_kernels(table: pd.DataFrame) -> list[Kernel]:
    """One kernel per row, in order; what the runtime chose (`kernel_name`) is no part of it."""
    ops = {name: operator_name(name)[0] for name in table["op_type"].unique()}
    precisions = {name: precision_name(name) for name in table["precision"].unique()}
    columns = (
        whole_numbers(table, name, 1)
        for name in (
            "batch", "in_hw", "in_ch", "out_hw", "out_ch", "kernel_hw", "stride", "groups",
            "n_inputs",
        )
    )  # fmt: skip
    rows = zip(
        texts(table, "op_type"), texts(table, "precision"), texts(table, "fused_ops"), *columns,
        strict=True,
    )  # fmt: skip
    return kernels_of(
        Operator(
            op=ops[op],
            precision=precisions[precision],
            epilogue=fused,
            batch=batch,
            in_h=in_hw,
            in_w=in_hw,
            in_ch=in_ch,
            out_h=out_hw,
            out_w=out_hw,
            out_ch=out_ch,
            kernel_h=kernel,
            kernel_w=kernel,
            stride_h=stride,
            stride_w=stride,
            groups=groups if ops[op] == "conv2d" else 1,
            n_inputs=n_inputs,
        )
        for (
            op, precision, fused, batch, in_hw, in_ch, out_hw, out_ch, kernel, stride, groups,
            n_inputs,
        ) in rows
    )  # fmt: skip
