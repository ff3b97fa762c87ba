"""Which kernels have code of their own on CUDA; the others are scheduled as on any GPU."""

from __future__ import annotations

from millifit.targets.kernel import Kernel
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.gpu.cuda.depthwise import depthwise
from millifit.targets.schedules.gpu.cuda.product import product
from millifit.targets.schedules.gpu.cuda.row_product import is_row, row_product
from millifit.targets.target import Target

_PRECISIONS = ("fp32", "fp16", "int8")


def cuda_schedule(kernel: Kernel, target: Target) -> KernelCode | None:
    """The code of a layer; None where the rules for any GPU are to write it."""
    if target.gpu is None or target.gpu.api != "cuda" or kernel.precision not in _PRECISIONS:
        return None
    match kernel.op:
        case "conv2d" | "dense" if is_row(kernel):
            return row_product(kernel, target.gpu)
        case "conv2d" | "dense":
            return product(kernel, target.gpu)
        case "depthwise_conv2d":
            return depthwise(kernel, target.gpu)
    return None
