"""The tables of phones: operators of their GPUs, and the networks that these are from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from millifit.profiler.packs.operators import (
    Operator,
    kernels_of,
    operator_name,
    precision_name,
)
from millifit.profiler.packs.settings import Place, settings
from millifit.profiler.packs.sheet import Sheet, Subject, shared
from millifit.profiler.packs.table import numbers, read_table, texts, whole_numbers
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.target import Precision, activation_dtype

if TYPE_CHECKING:
    import pandas as pd

OPERATOR_COLUMNS = ("network", "op_index", "op_type", "in_hw", "out_hw", "n_inputs", "fused_ops")
NETWORK_COLUMNS = ("network", "core_set", "cores_large", "threads", "size_bytes")


OPERATORS_FILE = "mobile_gpu_ops.parquet"
_DEVICE = Place(parts=("device", "delegate", "precision"))


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


def mobile_op_sheet(table: pd.DataFrame, source: str) -> Sheet:
    """All rows; an operator that several networks have is one kernel with as many samples."""
    return Sheet.of(
        source, mobile_op_kernels(table), settings(table, _DEVICE), numbers(table, "latency_s")
    )


def mobile_network_sheet(table: pd.DataFrame, source: str, beside: Path) -> Sheet:
    """All rows; where the folder `beside` has the table of operators, networks have their calls.

    The operators are as the GPU fuses them. On a CPU the same ones are called in its precision:
    nobody says how its runtime fuses them.
    """
    calls = _calls(beside / OPERATORS_FILE)
    names, batches = texts(table, "network"), whole_numbers(table, "batch", 1)
    precisions = [precision_name(name) for name in texts(table, "precision")]

    @cache
    def called(name: str, precision: Precision) -> tuple[Kernel, ...]:
        return tuple(_in_precision(kernel, precision) for kernel in calls.get(name, ()))

    subjects = shared(
        Subject(name=name, batch=batch, calls=called(name, precision))
        for name, batch, precision in zip(names, batches, precisions, strict=True)
    )
    return Sheet.of(
        source,
        subjects,
        settings(table, replace(_DEVICE, detail="core_set")),
        numbers(table, "latency_s"),
        std_s=numbers(table, "latency_std_s"),
    )


def _calls(path: Path) -> dict[str, tuple[Kernel, ...]]:
    """The kernels of every network, in order; nothing where there is no such file.

    All devices list the same operators, so those of the first one are taken.
    """
    if not path.is_file():
        return {}
    table = read_table(path)
    table = table[table["device"] == table["device"].iloc[0]].sort_values(["network", "op_index"])
    found: dict[str, list[Kernel]] = {}
    for name, kernel in zip(table["network"], mobile_op_kernels(table), strict=True):
        found.setdefault(str(name), []).append(kernel)
    return {name: tuple(kernels) for name, kernels in found.items()}


def _in_precision(kernel: Kernel, precision: Precision) -> Kernel:
    dtype = activation_dtype(precision)
    inputs = tuple(TensorType(shape=each.shape, dtype=dtype) for each in kernel.inputs)
    output = TensorType(shape=kernel.output.shape, dtype=dtype)
    return replace(kernel, inputs=inputs, output=output, precision=precision)
