"""Profile a device for a model, a folder of models or a search space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from millifit.errors import MeasurementError, MillifitError, TargetError, UsageError
from millifit.pipeline.pricing import working_bytes
from millifit.pipeline.profile_knowledge import Knowledge
from millifit.pipeline.profile_networks import Build, build_bundle
from millifit.pipeline.profile_pool import Pool, PoolNetwork
from millifit.pipeline.profile_run import Limits, ProfileRun
from millifit.pipeline.profile_subject import (
    ProfiledModel,
    Shape,
    load_models,
    subject_of_models,
    subject_of_space,
)
from millifit.pipeline.reach import DeviceAccess, about_device, reachable_target, timing
from millifit.pipeline.tuning import stored_choices, tune_programs
from millifit.pipeline.workbench import Timer, open_store
from millifit.profiler.store import Store, default_store_path
from millifit.progress import SILENT, Progress
from millifit.search.spaces import find_space
from millifit.targets.program import without_rule
from millifit.targets.target import Precision, Target
from millifit.targets.timing import Failed, Samples

_SPACE_S = 900.0  # a space has no end: so long where nobody says how long


def profile(
    model: str | None = None,
    *,
    space: str | None = None,
    seconds: float | None = None,
    until: float | None = None,
    target: str = "local",
    device: DeviceAccess | None = None,
    threads: int = 1,
    store: str | None = None,
    input_shape: Shape = None,
    progress: Progress = SILENT,
    seed: int = 0,
    tune: float | None = None,
    precisions: tuple[Precision, ...] | None = None,
    timer: Timer | None = None,
    clock: Callable[[], float] = time.monotonic,
    build: Build = build_bundle,
) -> dict[str, Any]:
    """Measure what a model, a folder of ONNX files or a search space is made of; resumes.

    `model` or `space` is given. It goes on until `seconds` are over or the median error on kernels
    that were held out is at most `until` (0.05 is 5 %); with neither, until all kernels of the
    models are measured, and 15 minutes for a space. What a model's layers are in is as for a fit;
    kernel times do not depend on the scales, so no data is needed. With `tune` the kernels of
    models are tuned first, for so many seconds. `device` is where the target is, if not here.

    Of a folder, files that cannot be read are left out and named. Raises UsageError for limits
    without sense, and TargetError or MeasurementError where the device is lost: what was measured
    is kept.
    """
    if (model is None) == (space is None):
        raise UsageError("name either a model, or a folder of them, or a search space.")
    limits = _limits(space, seconds, until)
    began = clock()
    place = reachable_target(target, device, threads=threads)
    found_space = None if space is None else find_space(space)
    models, skipped = load_models(model, input_shape, place, seed, precisions, progress)
    kept = open_store(store)
    with timing(timer, device, place, progress) as chosen:
        tuning = None
        if tune is not None and models:
            tuning = _tuned(models, place, kept, chosen, tune, progress, seed)
        choices = stored_choices(kept, place)
        if found_space is not None:
            with progress.stage(f"draw networks of '{found_space.name}'"):
                subject = subject_of_space(
                    found_space, target=place, choices=choices, limit_s=limits.seconds,
                    seed=seed, clock=clock,
                )  # fmt: skip
        else:
            subject = subject_of_models(str(model), models, place, choices)
        lanes = place.fp32_lanes
        run = ProfileRun(
            Knowledge(
                Pool.of(subject.pool, vector_lanes=lanes),
                Pool.of(subject.fresh, vector_lanes=lanes),
                vector_lanes=lanes, seed=seed, clock=clock,
            ),
            subject.whole, target=place, store=kept, timer=chosen, progress=progress,
            limits=limits, seed=seed, began=began, clock=clock, build=build,
        )  # fmt: skip
        about = about_device(place, chosen.environment())
        stopped = _run(run, str(store or default_store_path()), progress)
    return {
        "model": None if space else subject.name,
        "space": space,
        "target": place.name,
        "device": about,
        "threads": threads,
        "stopped": stopped,
        "skipped": skipped,
        **of_run(run),
        **_of_models(models, subject.pool, run.knowledge),
        "tuning": tuning,
        "store": str(store or default_store_path()),
    }


def _run(run: ProfileRun, place: str, progress: Progress) -> str:
    """Run; whatever ends it, say what was kept."""
    try:
        return run.run()
    except (MeasurementError, TargetError) as error:
        raise type(error)(
            f"{error} {_kept(run)} in '{place}'; the same command continues."
        ) from error
    except (MillifitError, KeyboardInterrupt):
        progress.note(f"{_kept(run)} in '{place}'.")
        raise


def _kept(run: ProfileRun) -> str:
    networks = len(run.tally.networks)
    return f"{run.tally.kernels} kernels and {networks} networks were measured and are kept"


def _limits(space: str | None, seconds: float | None, until: float | None) -> Limits:
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"the time limit must be more than 0 s, got {seconds:g} s.")
    if until is not None and not 0 < until < 1:
        raise UsageError(f"the error to reach must be between 0 % and 100 %, got {until:.0%}.")
    if space is not None and seconds is None and until is None:
        seconds = _SPACE_S
    return Limits(seconds=seconds, error=until)


def _tuned(
    models: Sequence[ProfiledModel],
    target: Target,
    store: Store,
    timer: Timer,
    seconds: float,
    progress: Progress,
    seed: int,
) -> dict[str, Any]:
    """Tune the kernels of all models together."""
    programs = {
        name if len(models) == 1 else f"{model.network.name} {name}": program
        for model in models
        for name, program in model.programs.items()
    }
    return tune_programs(
        programs, target=target, network_bytes=max(working_bytes(m.network) for m in models),
        store=store, timer=timer, seconds=seconds, progress=progress, seed=seed,
    )  # fmt: skip


def of_run(run: ProfileRun) -> dict[str, Any]:
    """What a run did and what is known after it, as plain values."""
    knowledge, sections = run.knowledge, run.watch.sections
    held_out = knowledge.held_out()
    outcomes = {item: knowledge.measured[item].outcome for item in knowledge.pool_measured()}
    return {
        "elapsed_s": run.elapsed_s,
        "kernels": len(outcomes),
        "measured_now": run.tally.kernels,
        "failed": [
            {"kernel": kernel.op, "reason": outcome.reason}
            for (kernel, _), outcome in outcomes.items()
            if isinstance(outcome, Failed)
        ],
        "pool": {"networks": len(knowledge.pool.calls), "kernels": len(knowledge.pool.items)},
        "coverage": asdict(knowledge.coverage()),
        "held_out": None if held_out is None else asdict(held_out),
        "networks": [
            {
                "name": each.name,
                "architecture": each.architecture,
                "median_s": each.outcome.median_s if isinstance(each.outcome, Samples) else None,
                "failure": each.outcome.reason if isinstance(each.outcome, Failed) else None,
            }
            for each in run.tally.networks.values()
        ],
        "sections": [
            {"number": s.number, "shift": s.shift, "drifting": s.drifting} for s in sections
        ],
        "level_shift": run.watch.level,
        "drifted": sum(section.drifting for section in sections),
        "remeasured": run.tally.remeasured,
        "in_doubt": len(knowledge.in_doubt()),
        "energy": any(
            isinstance(outcome, Samples) and outcome.energy_j is not None
            for outcome in outcomes.values()
        ),
        "fit_s": knowledge.fit_total_s,
    }


def _of_models(
    models: Sequence[ProfiledModel], networks: Sequence[PoolNetwork], knowledge: Knowledge
) -> dict[str, Any]:
    """Of every model what its kernels add up to, and its operators without a rule."""
    made = iter(networks)
    rows = [
        {
            "model": model.network.name,
            "sum_of_kernels_s": {
                name: knowledge.sum_of(network.items)
                for name, network in zip(model.programs, made)  # noqa: B905 - the next model goes on
            },
            "without_rule": without_rule(model.programs["fp32"]),
        }
        for model in models
    ]
    if len(rows) == 1:
        return {name: value for name, value in rows[0].items() if name != "model"}
    return {"models": rows} if rows else {}
