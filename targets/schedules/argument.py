"""Where an extreme stands: arg_max and arg_min."""

from __future__ import annotations

import math

from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.schedules import epilogue, moves, tir
from millifit.targets.schedules.code import KernelCode, number, signature
from millifit.targets.target import Target


def argument(kernel: Kernel, target: Target) -> KernelCode:
    """Code of an arg_max or arg_min kernel: the first place along `axis`, int64.

    With attribute ``last`` of 1 the last one of equal values.
    """
    shape, axis = kernel.inputs[0].shape, int(number(kernel, "axis", 0))
    extent, inner = shape[axis], math.prod(shape[axis + 1 :])
    # Not read: TVM would take a function of one tensor for a reshape.
    parameters = signature(kernel, {"scalars": epilogue.SCALARS_TYPE})
    source, out = parameters.views["input"], parameters.views["output"]
    later = bool(number(kernel, "last", 0))

    def better(value: tir.Expr, best: tir.Expr) -> tir.Expr:
        if kernel.op == "arg_max":
            return value >= best if later else value > best
        return value <= best if later else value < best

    def position(o: tir.Expr, i: tir.Expr) -> list[tir.Statement]:
        base = o * (extent * inner) + i
        value_memory, best = tir.scratch("best", 1, kernel.inputs[0].dtype, registers=True)
        place_memory, place = tir.scratch("place", 1, "int32", registers=True)

        def step(at: tir.Expr) -> list[tir.Statement]:
            named, value = tir.bind(
                "value", tir.load(source, base + at * inner), kernel.inputs[0].dtype
            )
            so_far = tir.load(best, tir.const(0))
            found, is_better = tir.bind("better", better(value, so_far), "bool")
            held = tir.load(place, tir.const(0))
            return [
                named, found,
                tir.store(place, tir.const(0), tirx.Select(is_better, at, held)),
                tir.store(best, tir.const(0), tirx.Select(is_better, value, so_far)),
            ]  # fmt: skip

        return [
            value_memory, place_memory, tir.store(best, tir.const(0), tir.load(source, base)),
            tir.store(place, tir.const(0), tir.const(0)),
            *tir.loop(extent - 1, step, name="at", start=1),
            tir.store(out, o * inner + i, tir.cast(tir.load(place, tir.const(0)), "int64", 1)),
        ]  # fmt: skip

    outer = math.prod(shape[:axis])
    parallel = target.threads > 1 and kernel.inputs[0].elements >= moves.PARALLEL_ELEMENTS
    body = tir.loop(
        outer,
        lambda o: tir.loop(inner, lambda i: position(o, i), name="i"),
        name="o",
        parallel=parallel,
    )
    return KernelCode(
        function=parameters.function(body),
        operands=(epilogue.SCALARS_TYPE,),
        pack=lambda constants: (epilogue.pack_scalars(constants),),
    )
