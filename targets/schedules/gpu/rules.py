"""Which code writes which kernel on a GPU."""

from __future__ import annotations

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.elementwise import BINARY, CONVERSIONS, UNARY
from millifit.targets.schedules.gpu.copies import (
    concat,
    embedding,
    layout,
    pad,
    rearrange,
    strided,
)
from millifit.targets.schedules.gpu.elementwise import elementwise
from millifit.targets.schedules.gpu.windows import pooling, resize
from millifit.targets.target import Gpu, Target


def gpu_schedule(kernel: Kernel, target: Target) -> KernelCode:
    """The code of a kernel on the target's GPU.

    Raises CompileError for an operator without a rule.
    """
    assert target.gpu is not None
    return _generic(kernel, target.gpu)


def _generic(kernel: Kernel, gpu: Gpu) -> KernelCode:
    match kernel.op:
        case "max_pool" | "avg_pool":
            return pooling(kernel, gpu)
        case "resize":
            return resize(kernel, gpu)
        case "concat":
            return concat(kernel, gpu)
        case "pad":
            return pad(kernel, gpu)
        case "depth_to_space" | "space_to_depth" | "channel_shuffle":
            return rearrange(kernel, gpu)
        case "to_channels_last" | "to_channels_first":
            return layout(kernel, gpu)
        case "embedding":
            return embedding(kernel, gpu)
        case "strided":
            return strided(kernel, gpu)
        case op if op in BINARY or op in UNARY or op in CONVERSIONS:
            return elementwise(kernel, gpu)
    raise CompileError(f"no schedule rule for operator '{kernel.op}' on a GPU")
