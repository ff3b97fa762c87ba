"""Compile a network for targets: a bundle for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from millifit.models import load_model
from millifit.pipeline.bundles import bundle_bytes
from millifit.pipeline.conclude import without_rule
from millifit.pipeline.pricing import working_bytes
from millifit.pipeline.tuning import stored_choices, tune_programs
from millifit.pipeline.workbench import Timer, local_target, open_store, timing
from millifit.progress import SILENT, Progress
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.lower import lower
from millifit.targets.runner.environment import code_versions

Shape = tuple[int, ...] | None


def compile_model(
    model: str,
    *,
    targets: list[str],
    out: Path,
    threads: int = 1,
    input_shape: Shape = None,
    store: str | None = None,
    tune: float | None = None,
    progress: Progress = SILENT,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Write a bundle for every target into ``out/TARGET``.

    Kernels that were tuned on a target, according to the `store`, are compiled as they won. With
    `tune` the network's kernels are tuned first, for so many seconds on each target; TargetError
    where one cannot be reached from here.
    """
    network = load_model(model, input_shape=input_shape).network
    find = find_target if tune is None else local_target
    devices = [find(name, threads=threads) for name in dict.fromkeys(targets)]
    programs = {device: lower(network, device) for device in devices}
    kept = open_store(store)
    reports = {}
    if tune is not None:
        with timing(timer, progress) as chosen:
            for device, program in programs.items():
                reports[device] = tune_programs(
                    {"network": program}, target=device, network_bytes=working_bytes(network),
                    store=kept, timer=chosen, seconds=tune, progress=progress, seed=0,
                )  # fmt: skip
    shape = network.types[network.inputs[0]].shape
    golden = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    bundles = []
    with progress.stage("compile", len(devices)) as advance:
        for device in devices:
            program = programs[device].with_choices(stored_choices(kept, device))
            path = out / device.name
            write_bundle(
                path, program=program, target=device, versions=code_versions(),
                golden_input=golden, details={"network": network.name},
            )  # fmt: skip
            bundles.append(
                {
                    "target": device.name,
                    "bundle": str(path),
                    "size_bytes": bundle_bytes(path),
                    "kernels": len(program.kernels),
                    "without_rule": without_rule(program),
                    "tuned": len(program.tuned),
                    "tuning": reports.get(device),
                }
            )
            advance(1)
    return {"model": network.name, "bundles": bundles}
