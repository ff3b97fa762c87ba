"""Schedules for operators without a rule: drawn from the space that TVM's MetaSchedule describes.

MetaSchedule is used for what it knows, tilings and vectorisations of any loop nest, and not for its
search: the draws are candidates like those of a rule, timed and kept in the same way. A draw is
named by its seed, and with one version of TVM the same seed gives the same schedule.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from millifit.errors import CompileError

_INTRINSICS = "tvm.s_tir.tensor_intrin"
_OPAQUE = 8  # TVM's kind for functions that no pass may fuse with others
# It stores weights in other layouts, which the caller would have to know.
_LEFT_OUT = ("ApplyCustomRule", "RewriteLayout")


def scheduled(module: Any, target: Any, seed: int) -> Any:
    """A Relax module whose loop nests, fused first, are scheduled by the draw `seed` (from 1).

    Raises CompileError where MetaSchedule has no schedule for any of them.
    """
    import tvm
    from tvm import relax, tirx

    passes = (
        relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(), relax.transform.FuseOps(), relax.transform.FuseTIR(),
    )  # fmt: skip
    with target:
        module = tvm.transform.Sequential(passes)(module)
    made = 0
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            drawn = _drawn(function, target, seed)
            if drawn is not None:
                named = drawn.with_attr("global_symbol", variable.name_hint)
                module.update_func(variable, named.with_attr("op_pattern", _OPAQUE))
                made += 1
    if not made:
        raise CompileError(f"MetaSchedule has no schedule of number {seed} for this operator")
    return module


def _drawn(function: Any, target: Any, seed: int) -> Any:
    """A schedule of one loop nest, or None where the draw cannot be carried out."""
    import tvm
    from tvm.s_tir import meta_schedule

    def kept(steps: Any) -> list[Any]:
        return [step for step in steps if type(step).__name__ not in _LEFT_OUT]

    with _without_intrinsics():
        context = meta_schedule.TuneContext(
            mod=tvm.IRModule({"main": function.with_attr("global_symbol", "main")}),
            target=target,
            num_threads=1,
            rand_state=seed,
            space_generator=meta_schedule.space_generator.PostOrderApply(
                sch_rules=kept(meta_schedule.schedule_rule.ScheduleRule.create("llvm")),
                postprocs=kept(meta_schedule.postproc.Postproc.create("llvm")),
                mutator_probs={},
            ),
        )
    for schedule in context.generate_design_space():
        if all(step.apply(schedule) for step in context.space_generator.postprocs):
            return schedule.mod["main"]
    return None


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """Spare the import of TVM's tensor intrinsics, which takes over 30 s and is not needed here."""
    spared = _INTRINSICS not in sys.modules
    if spared:
        sys.modules[_INTRINSICS] = ModuleType(_INTRINSICS)
    try:
        yield
    finally:
        if spared:
            del sys.modules[_INTRINSICS]
