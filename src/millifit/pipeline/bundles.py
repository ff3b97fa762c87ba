"""Bundles within a run: compiled once, run on many samples, timed against each other."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from millifit.compress.evaluate import activations
from millifit.errors import BundleError
from millifit.files import write_atomically
from millifit.pipeline.workbench import Timer
from millifit.progress import SILENT, Progress
from millifit.samples import Floats
from millifit.targets.bundle import write_bundle
from millifit.targets.loaded_bundle import runs_here
from millifit.targets.manifest import check_files, read_manifest
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimer,
    NetworkTimingPolicy,
)
from millifit.targets.target import Target

TRIAL_TIMING = NetworkTimingPolicy()
FINAL_TIMING = NetworkTimingPolicy(min_rounds=12, max_rounds=60, limit_s=60.0)


def ensure_bundle(
    path: Path,
    *,
    network: Network,
    program: Program,
    target: Target,
    golden_input: Floats,
    plan: Mapping[str, Any] | None = None,
) -> Path:
    """The bundle at `path`; compiled unless a whole one of the same code and target is there.

    The same code: the same versions, and the same choices of tuned kernels. `program` is the
    `network` lowered for the target; `plan` is what it was compressed by.
    """
    versions = code_versions()
    if path.exists():
        try:
            manifest = read_manifest(path)
            check_files(path, manifest)
        except BundleError:
            manifest = None  # damaged: made again
        wanted = (versions, target, program.tuned)
        if manifest and (manifest.versions, manifest.target, manifest.tuned) == wanted:
            return path
    write_bundle(
        path, program=program, target=target, versions=versions, golden_input=golden_input,
        golden_output=None if runs_here(target) is None else oracle(network, golden_input),
        details={"network": network.name, "plan": plan},
    )  # fmt: skip
    return path


def oracle(network: Network, x: Floats) -> list[Floats]:
    """ONNX Runtime's outputs, all of them, for one input ``[1, *sample]``."""
    (found,) = activations(network, x, network.outputs)
    return [found[name] for name in network.outputs]


def bundle_bytes(path: Path) -> int:
    """What a bundle takes on the device: library and weights."""
    return sum((path / name).stat().st_size for name in ("library.so", "weights.bin"))


def run_bundle(
    timer: Timer,
    path: Path,
    x: Floats,
    *,
    progress: Progress = SILENT,
    title: str = "validate",
) -> Floats:
    """The first output, on the device, for every sample ``[N, *sample]``: ``[N, ...]``."""
    with progress.stage(title, len(x)) as advance:
        answers = timer.outputs(path, x, on_sample=lambda: advance(1))
    return np.asarray(answers, np.float32)


def time_in_turn(
    timer: NetworkTimer,
    contenders: Mapping[str, Contender],
    *,
    policy: NetworkTimingPolicy,
    progress: Progress,
    title: str,
) -> Mapping[str, ContenderResult]:
    """Time networks round by round, with progress."""
    with progress.stage(title, policy.max_rounds) as advance:
        return timer.time_networks(contenders, policy=policy, on_round=lambda _: advance(1))


def write_input(path: Path, x: Floats) -> Path:
    """Write the input that networks are timed with."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(x, np.float32), allow_pickle=False)
    return write_atomically(path, content.getvalue())
