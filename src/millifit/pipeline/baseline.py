"""The baseline: the network as it came, compiled in fp32, measured beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from millifit.compress.evaluate import accuracy
from millifit.errors import ModelError
from millifit.pipeline.bundles import (
    TRIAL_TIMING,
    ensure_bundle,
    run_bundle,
    time_in_turn,
    write_input,
)
from millifit.pipeline.pricing import Prices
from millifit.pipeline.workbench import Workbench, sample_input
from millifit.targets.program import Program
from millifit.targets.runner.network_timing import Contender
from millifit.targets.timing import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The uncompressed network: what it takes and achieves, and what the budget refers to."""

    program: Program
    bundle: Path
    input_path: Path
    latency: Samples
    accuracy: float | None


def measure_baseline(bench: Workbench, prices: Prices) -> Baseline:
    """Compile, validate, profile and time the baseline; what was found before is kept."""
    program = bench.lower(bench.network)
    for call in program.without_rule:
        bench.progress.note(
            f"operator '{call.kernel.attribute('operator')}' of node '{call.nodes[0]}' has no "
            "schedule rule: it runs, slowly"
        )
    bundle = ensure_bundle(
        bench.folder.path / "baseline",
        network=bench.network,
        program=program,
        target=bench.target,
        golden_input=sample_input(bench.dataset),
    )
    input_path = write_input(bench.folder.path / "input.npy", sample_input(bench.dataset))
    prices.measure(program.kernels)
    found = bench.folder.read("baseline.json")
    if found is None:
        found = _measured(bench, bundle, input_path)
        bench.folder.write("baseline.json", found)
    return Baseline(
        program=program, bundle=bundle, input_path=input_path,
        latency=Samples(run_s=tuple(found["run_s"])), accuracy=found["accuracy"],
    )  # fmt: skip


def _measured(bench: Workbench, bundle: Path, input_path: Path) -> dict[str, object]:
    validation = bench.dataset.validation
    answers = run_bundle(
        bench.timer, bundle, validation.x, progress=bench.progress, title="validate baseline"
    )
    if not np.isfinite(answers).all():
        raise ModelError(
            f"the network '{bench.network.name}' gives NaN or infinite values on the validation "
            "data: check its weights, and that --mean and --std are those it was trained with"
        )
    paths = {"baseline": bundle, "onnxruntime_fp32": bench.folder.path / "baseline.onnx"}
    given = contenders(bench, paths, input_path)
    timed = time_in_turn(
        bench.timer, given, policy=TRIAL_TIMING, progress=bench.progress,
        title="time baseline" if len(given) == 1 else "time baseline and ONNX Runtime",
    )  # fmt: skip
    ours = timed["baseline"].round_medians
    achieved = None if validation.y is None else accuracy(answers, validation.y)
    said = [f"baseline {ours.median_s * 1e3:.3f} ms"]
    if "onnxruntime_fp32" in timed:
        reference_s = timed["onnxruntime_fp32"].round_medians.median_s
        said.append(f"ONNX Runtime fp32 {reference_s * 1e3:.3f} ms")
    if achieved is not None:
        said.append(f"accuracy {achieved:.2%}")
    bench.progress.note(", ".join(said))
    return {"run_s": list(ours.run_s), "accuracy": achieved}


def contenders(
    bench: Workbench, paths: Mapping[str, Path], input_path: Path
) -> dict[str, Contender]:
    """Bundles' folders and ONNX files, by name, as what is to be timed.

    Those that are not there, or that the device cannot time, are left out.
    """
    found = {
        name: Contender(
            kind="bundle" if path.is_dir() else "onnxruntime", path=path, input_path=input_path,
            threads=bench.target.threads,
        )
        for name, path in paths.items()
        if path.exists()
    }  # fmt: skip
    return {name: each for name, each in found.items() if each.kind in bench.timer.contenders}
