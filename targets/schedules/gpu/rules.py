"""Which code writes which kernel on a GPU."""

from __future__ import annotations

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.elementwise import BINARY, CONVERSIONS, UNARY
from millifit.targets.schedules.gpu.attention import attention
from millifit.targets.schedules.gpu.contraction import contraction
from millifit.targets.schedules.gpu.copies import (
    concat,
    embedding,
    layout,
    pad,
    rearrange,
    strided,
)
from millifit.targets.schedules.gpu.cuda.rules import cuda_schedule
from millifit.targets.schedules.gpu.depthwise import depthwise
from millifit.targets.schedules.gpu.elementwise import elementwise
from millifit.targets.schedules.gpu.matmul import matmul
from millifit.targets.schedules.gpu.reduction import reduction
from millifit.targets.schedules.gpu.rows import argument, normalization, softmax
from millifit.targets.schedules.gpu.windows import pooling, resize
from millifit.targets.schedules.reduction import REDUCTIONS
from millifit.targets.target import Gpu, Target


def gpu_schedule(kernel: Kernel, target: Target) -> KernelCode:
    """The code of a kernel on the target's GPU.

    Raises CompileError for an operator without a rule.
    """
    assert target.gpu is not None
    return cuda_schedule(kernel, target) or _generic(kernel, target.gpu)


def _generic(kernel: Kernel, gpu: Gpu) -> KernelCode:
    match kernel.op:
        case "conv2d" | "dense":
            return contraction(kernel, gpu)
        case "depthwise_conv2d":
            return depthwise(kernel, gpu)
        case "matmul":
            return matmul(kernel, gpu)
        case "attention":
            return attention(kernel, gpu)
        case "softmax":
            return softmax(kernel, gpu)
        case "layer_norm" | "rms_norm":
            return normalization(kernel, gpu)
        case op if op in REDUCTIONS:
            return reduction(kernel, gpu)
        case "arg_max" | "arg_min":
            return argument(kernel, gpu)
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
