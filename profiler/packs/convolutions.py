"""The table of convolutions of a server GPU (see `sources` for its columns)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millifit.profiler.packs.operators import (
    Operator,
    kernels_of,
    operator_name,
    precision_name,
)
from millifit.profiler.packs.settings import Place, settings
from millifit.profiler.packs.sheet import Sheet
from millifit.profiler.packs.table import numbers, texts, whole_numbers
from millifit.targets.kernel import Kernel

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("config_id", "op_type", "in_ch", "in_h", "in_w", "elementwise_fused", "status")


def convolution_kernels(table: pd.DataFrame) -> list[Kernel]:
    """One kernel per row, in order; a fused sum is an addition with a second input.

    The table states no output size and no padding: the output has ``ceil(in / stride)`` positions.
    """
    ops = {name: operator_name(name)[0] for name in table["op_type"].unique()}
    precisions = {name: precision_name(name) for name in table["precision"].unique()}
    columns = (
        whole_numbers(table, name, 1 if name in ("batch", "groups") else None)
        for name in ("batch", "in_ch", "in_h", "in_w", "out_ch", "kernel_hw", "stride", "groups")
    )
    rows = zip(
        texts(table, "op_type"), texts(table, "precision"), table["elementwise_fused"], *columns,
        strict=True,
    )  # fmt: skip
    return kernels_of(
        Operator(
            op=ops[op],
            precision=precisions[precision],
            batch=batch,
            in_ch=in_ch,
            in_h=in_h,
            in_w=in_w,
            out_ch=out_ch,
            kernel_h=kernel,
            kernel_w=kernel,
            stride_h=stride,
            stride_w=stride,
            groups=groups if op == "conv_2d" else 1,
            epilogue="add" if fused else "",
        )
        for op, precision, fused, batch, in_ch, in_h, in_w, out_ch, kernel, stride, groups in rows
    )


def convolution_sheet(table: pd.DataFrame, source: str) -> Sheet:
    """All rows; those that the source calls failed have no latency."""
    place = Place(parts=("device", "runtime", "precision"))
    return Sheet.of(
        source,
        convolution_kernels(table),
        settings(table, place),
        numbers(table, "latency_s"),
        failures=[
            "" if status == "ok" else f"{status}, says the source"
            for status in texts(table, "status")
        ],
    )
