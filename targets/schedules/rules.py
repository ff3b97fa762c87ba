"""Which schedule writes which kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.schedules.argument import argument
from millifit.targets.schedules.attention import attention
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.contraction import contraction
from millifit.targets.schedules.convolution import conv2d
from millifit.targets.schedules.depthwise import depthwise
from millifit.targets.schedules.depthwise_int8 import depthwise_int8
from millifit.targets.schedules.elementwise import BINARY, CONVERSIONS, UNARY, elementwise
from millifit.targets.schedules.gather import embedding
from millifit.targets.schedules.gpu.rules import gpu_schedule
from millifit.targets.schedules.layout import layout
from millifit.targets.schedules.matmul import matmul
from millifit.targets.schedules.movement import movement
from millifit.targets.schedules.normalization import normalization
from millifit.targets.schedules.pooling import pooling
from millifit.targets.schedules.rearrange import rearrange
from millifit.targets.schedules.reduction import REDUCTIONS, reduction
from millifit.targets.schedules.resize import resize
from millifit.targets.schedules.softmax import softmax
from millifit.targets.schedules.strided import strided
from millifit.targets.schedules.weight_only import weight_only
from millifit.targets.target import WEIGHT_ONLY, Target

# Kernels count elements in 32 bits.
_MOST_ELEMENTS = 2**31 - 1


def schedule(kernel: Kernel, target: Target) -> KernelCode:
    """The code of a kernel on a target.

    Raises CompileError for an operator without a rule, for empty tensors, and for tensors whose
    elements 32 bits cannot count; `onnx` kernels are built elsewhere.
    """
    _check(kernel, (*kernel.inputs, kernel.output))
    code = _written(kernel, target) if target.gpu is None else gpu_schedule(kernel, target)
    _check(kernel, code.operands)
    return code


def _check(kernel: Kernel, tensors: Sequence[TensorType]) -> None:
    for kind in tensors:
        if any(extent <= 0 for extent in kind.shape):
            raise CompileError(
                f"kernel '{kernel.op}' has an empty tensor, {_shown(kind)}: remove it from the "
                "network, or give the input another shape"
            )
        if math.prod(kind.shape) > _MOST_ELEMENTS:
            raise CompileError(
                f"kernel '{kernel.op}' has a tensor of {_shown(kind)}, more than 2^31 elements: "
                "make the network's input or this layer smaller"
            )


def _shown(kind: TensorType) -> str:
    return "x".join(str(extent) for extent in kind.shape)


def _written(kernel: Kernel, target: Target) -> KernelCode:
    match kernel.op:
        case "conv2d":
            return conv2d(kernel, target)
        case "dense" if kernel.precision in WEIGHT_ONLY:
            return weight_only(kernel, target)
        case "dense":
            return contraction(kernel, target)
        case "depthwise_conv2d" if kernel.integer:
            return depthwise_int8(kernel, target)
        case "depthwise_conv2d":
            return depthwise(kernel, target)
        case "max_pool" | "avg_pool":
            return pooling(kernel, target)
        case op if op in REDUCTIONS:
            return reduction(kernel, target)
        case "arg_max" | "arg_min":
            return argument(kernel, target)
        case "concat" | "pad":
            return movement(kernel, target)
        case "depth_to_space" | "space_to_depth" | "channel_shuffle":
            return rearrange(kernel, target)
        case "resize":
            return resize(kernel, target)
        case "to_channels_last" | "to_channels_first":
            return layout(kernel, target)
        case "matmul":
            return matmul(kernel, target)
        case "attention":
            return attention(kernel, target)
        case "softmax":
            return softmax(kernel, target)
        case "layer_norm" | "rms_norm":
            return normalization(kernel, target)
        case "embedding":
            return embedding(kernel, target)
        case "strided":
            return strided(kernel, target)
        case op if op in BINARY or op in UNARY or op in CONVERSIONS:
            return elementwise(kernel, target)
    raise CompileError(f"no schedule rule for operator '{kernel.op}'")
