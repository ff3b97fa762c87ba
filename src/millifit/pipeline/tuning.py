"""Tune the kernels of networks within a time limit; what won is used from then on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from millifit.latency_models.kernels.room import expected_gains
from millifit.pipeline.pricing import is_free, working_bytes
from millifit.pipeline.workbench import Workbench
from millifit.profiler.store import Store
from millifit.profiler.sweep import policy_for
from millifit.profiler.tuned import BY_RULE, Tuned, choice_from, choices_of
from millifit.profiler.tuning import first_look, tune
from millifit.progress import Progress
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.program import Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target
from millifit.targets.timing import KernelTimer, Samples

_FILE = "tuning.json"


def stored_choices(store: Store, target: Target) -> dict[Kernel, Choice]:
    """What tuning found for kernels of a target with this code, in any run."""
    return choices_of(store.tuned(target.key, code_versions()))


def tune_programs(
    programs: Mapping[str, Program],
    *,
    target: Target,
    network_bytes: int,
    store: Store,
    timer: KernelTimer,
    seconds: float,
    progress: Progress,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Tune the kernels of some programs, by expected gain, for at most about `seconds`.

    Operators without a rule come last: their candidates are drawn at random, and take longer to
    make. Winners are stored. Returns a report of plain values: what was tuned and how much faster
    it became, and for each program by its name the expected share of its latency that is left.
    """
    from millifit.targets.schedules.candidates import candidates

    began = clock()
    policy = policy_for(target, network_bytes)
    calls = Counter(call.kernel for program in programs.values() for call in program.calls)
    kernels = [kernel for kernel in calls if not is_free(kernel)]
    by_rule_s = first_look(
        kernels, target=target, store=store, timer=timer, policy=policy, seconds=seconds,
        progress=progress, seed=seed, clock=clock,
    )  # fmt: skip
    gains = expected_gains(calls, by_rule_s)
    order = sorted(gains, key=lambda kernel: (kernel.op == "onnx", -gains[kernel]))
    now = tune(
        order, candidates=candidates, target=target,
        store=store, timer=timer, policy=policy, seconds=seconds - (clock() - began),
        progress=progress, seed=seed, clock=clock,
    )  # fmt: skip
    known = {each.kernel: each for each in store.tuned(target.key, code_versions())}
    left = [k for k in kernels if k not in known and len(candidates(k, target)) > 1]
    report = {
        "limit_s": seconds,
        "spent_s": clock() - began,
        "tried": len(now),
        "known": len(known.keys() & set(kernels)) - len(now),
        "left": len(left),
        "tuned": [_row(known[k], calls[k]) for k in kernels if k in known and known[k].choice],
        "failures": [_failure(each, choice, why) for each in now for choice, why in each.failures],
        "expected_ratio": {
            name: _expected_ratio(program, by_rule_s, known) for name, program in programs.items()
        },
    }
    progress.note(_said(report))
    return report


def _row(tuned: Tuned, calls: int) -> dict[str, Any]:
    def median_s(choice: Choice) -> float | None:
        outcome = tuned.trials[choice]
        return outcome.median_s if isinstance(outcome, Samples) else None

    return {
        "kernel": tuned.kernel.key,
        "op": tuned.kernel.op,
        "precision": tuned.kernel.precision,
        "shape": list(tuned.kernel.output.shape),
        "calls": calls,
        "choice": dict(tuned.choice),
        "by_rule_s": median_s(BY_RULE),
        "tuned_s": median_s(tuned.choice),
        "gain": tuned.gain,
    }


def _failure(tuned: Tuned, choice: Choice, reason: str) -> dict[str, Any]:
    return {
        "kernel": tuned.kernel.key,
        "op": tuned.kernel.op,
        "choice": dict(choice),
        "reason": reason,
    }


def _expected_ratio(
    program: Program, by_rule_s: Mapping[Kernel, float], known: Mapping[Kernel, Tuned]
) -> float | None:
    """The share of a program's time that is left, as the sum of its kernels; None if unknown."""
    times = [(call.kernel, by_rule_s[call.kernel]) for call in program.calls
             if call.kernel in by_rule_s]  # fmt: skip
    before_s = sum(taken_s for _, taken_s in times)
    if before_s == 0:
        return None
    return sum(s / (known[k].gain if k in known else 1.0) for k, s in times) / before_s


def _said(report: Mapping[str, Any]) -> str:
    """The report in a line."""
    ratios = [f"{name} {ratio:.1%}" for name, ratio in report["expected_ratio"].items() if ratio]
    return (
        f"tuned {report['tried']} kernels in {report['spent_s']:.0f} s ({report['known']} known "
        f"before, {report['left']} left): {len(report['tuned'])} beat their rule; expected of the "
        f"untuned latency: {', '.join(ratios) or 'nothing known'}"
    )


def settled(bench: Workbench, programs: Callable[[], Mapping[str, Program]]) -> Workbench:
    """The workbench with the choices of its run: tuned now if the recipe says so, or stored.

    They are written into the run folder, so that a resumed run goes on with the same ones.
    """
    found = bench.folder.read(_FILE)
    if found is None:
        report = None
        if bench.recipe.tune is not None:
            with bench.stage("tune"):
                report = tune_programs(
                    programs(), target=bench.target, network_bytes=working_bytes(bench.network),
                    store=bench.store, timer=bench.timer, seconds=bench.recipe.tune,
                    progress=bench.progress, seed=bench.recipe.seed,
                )  # fmt: skip
        choices = stored_choices(bench.store, bench.target)
        found = {
            "report": report,
            "choices": [{"kernel": k.to_dict(), "choice": c} for k, c in choices.items()],
        }
        bench.folder.write(_FILE, found)
    kept = {
        Kernel.from_dict(each["kernel"]): choice_from(each["choice"]) for each in found["choices"]
    }
    return replace(bench, choices=kept)
