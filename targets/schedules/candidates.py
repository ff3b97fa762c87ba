"""What tuning may try for a kernel in place of what its schedule rule says."""

from __future__ import annotations

import math

from millifit.targets.kernel import Choice, Kernel
from millifit.targets.schedules import depthwise, depthwise_int8
from millifit.targets.schedules.choice import choice_of
from millifit.targets.schedules.contraction import contraction_candidates
from millifit.targets.schedules.convolution import conv2d_candidates
from millifit.targets.schedules.tile import COLUMNS
from millifit.targets.target import WEIGHT_ONLY, Target

_SAMPLES = 11  # of schedules for an operator without a rule


def candidates(kernel: Kernel, target: Target) -> tuple[Choice, ...]:
    """A handful of choices, the rule's own first: the empty one.

    Only it for an operator whose schedule has nothing to choose, and on GPUs.
    """
    if target.gpu is not None:
        return ((),)
    match kernel.op:
        case "conv2d":
            others = conv2d_candidates(kernel, target)
        case "dense" if kernel.precision not in WEIGHT_ONLY:
            others = contraction_candidates(kernel, target)
        case "depthwise_conv2d" if kernel.integer:
            others = _depthwise_int8(kernel, target)
        case "depthwise_conv2d":
            others = _columns(depthwise.design(kernel.with_choice(()), target).columns, kernel)
        case "onnx":
            others = tuple(choice_of(sample=number) for number in range(1, _SAMPLES + 1))
        case _:
            others = ()
    return ((), *others)


def _columns(by_rule: int, kernel: Kernel) -> tuple[Choice, ...]:
    """Other widths of a depthwise tile: those that divide the row with the least rest."""
    width = kernel.output.shape[2]
    widths = dict.fromkeys(math.ceil(width / parts) for parts in range(1, width + 1))
    near = sorted((w for w in widths if w != by_rule), key=lambda w: (abs(w - by_rule), w))
    return tuple(choice_of(columns=w) for w in sorted(near[:6]) if w in COLUMNS)


def _depthwise_int8(kernel: Kernel, target: Target) -> tuple[Choice, ...]:
    plan = depthwise_int8.design(kernel.with_choice(()), target)
    vectors, most = plan.block // plan.lanes, math.ceil(plan.channels / plan.lanes)
    blocks = {vectors // 2, vectors * 2, most} - {0, vectors}
    return (
        *_columns(plan.columns, kernel),
        *(choice_of(vectors=n) for n in sorted(blocks) if n <= most),
    )
