"""The end of a run: the chosen network in its place, and the content of result.json."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millifit.compress.plan import Plan
from millifit.compress.size import layer_bytes
from millifit.errors import RunFolderError
from millifit.files import write_atomically
from millifit.pipeline.baseline import Baseline
from millifit.pipeline.bundles import bundle_bytes
from millifit.pipeline.final import Final
from millifit.pipeline.pricing import Prices
from millifit.pipeline.reach import about_device
from millifit.pipeline.trials import Evaluator, files_of
from millifit.pipeline.workbench import Workbench, plain_interval
from millifit.search.budget import Budget
from millifit.search.trial import Trial
from millifit.targets.network import Network
from millifit.targets.program import without_rule
from millifit.targets.runner.network_timing import ContenderResult, paired_ratio
from millifit.targets.timing import Samples


def conclude(
    bench: Workbench,
    prices: Prices,
    baseline: Baseline,
    evaluator: Evaluator,
    budget: Budget,
    trials: tuple[Trial, ...],
    best: Trial,
    final: Final,
) -> dict[str, Any]:
    """Put the chosen network, its plan and bundle in place; the content of result.json."""
    files = files_of(bench, best.plan)
    folder = bench.folder.path
    network = evaluator.network(best.plan)
    write_atomically(folder / "compressed.onnx", files.network.read_bytes())
    bench.folder.write("plan.json", best.plan.to_dict())
    _place(files.bundle, folder / "bundle")
    program = bench.lower(network)
    prices.measure(program.kernels)
    timed = final.timed
    environment = bench.timer.environment()
    return {
        "schema": 1,
        "model": bench.network.name,
        "target": bench.target.name,
        "target_cpu": bench.target.cpu,
        "device": about_device(bench.target, environment),
        "runtime_threads": bench.target.threads,
        "seed": bench.recipe.seed,
        "budget": {
            "text": budget.text,
            "latency_s": budget.latency_s(timed["baseline"].round_medians.median_s),
            "size_bytes": budget.size_bytes,
            "max_accuracy_drop": budget.max_accuracy_drop,
        },
        "baseline": _subject(timed["baseline"], baseline.accuracy, baseline.bundle),
        "compressed": _subject(timed["compressed"], final.accuracy, folder / "bundle"),
        "ratio": plain_interval(final.ratio.median, final.ratio.low, final.ratio.high),
        "reference": _reference(timed),
        "predicted_s": predicted_of(best),
        "met": not final.problems,
        "problems": list(final.problems),
        "warnings": _warnings(timed),
        "agreement": dict(final.agreement),
        "plan": layer_rows(bench.network, network, best.plan),
        "trials": [trial_row(bench, each, n) for n, each in enumerate(trials)],
        "kernels": {
            "baseline": prices.rows(baseline.program),
            "compressed": prices.rows(program),
        },
        "without_rule": without_rule(program),
        "tuning": bench.folder.read("tuning.json")["report"],
        "environment": environment,
        "stages": [
            {"name": name, "seconds": seconds}
            for name, seconds in (bench.folder.read("stages.json") or {}).items()
        ],
    }


def _place(source: Path, target: Path) -> None:
    """Copy a finished folder to where users look for it, whole or not at all."""
    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shutil.copytree(source, staging)
        shutil.rmtree(target, ignore_errors=True)
        staging.replace(target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise RunFolderError(
            f"cannot write the bundle '{target}'. Free some space; the same command continues."
        ) from error


def _subject(result: ContenderResult, achieved: float | None, bundle: Path) -> dict[str, Any]:
    return {
        "latency_s": interval_of(result.round_medians),
        "accuracy": achieved,
        "size_bytes": bundle_bytes(bundle),
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _reference(timed: Mapping[str, ContenderResult]) -> dict[str, Any]:
    """ONNX Runtime's latencies; null with a reason where the device has no ONNX Runtime."""
    found = {
        name: each.round_medians for name, each in timed.items() if name.startswith("onnxruntime")
    }
    fp32, int8 = found.get("onnxruntime_fp32"), found.get("onnxruntime_int8")
    return {
        "onnxruntime_fp32_s": None if fp32 is None else fp32.median_s,
        "onnxruntime_int8_s": None if int8 is None else int8.median_s,
        "missing": None if found else "only bundles run on the device",
        "intervals": {name: interval_of(each) for name, each in found.items()},
    }


def interval_of(samples: Samples) -> dict[str, Any]:
    """Samples as result.json has them."""
    return plain_interval(samples.median_s, *samples.interval_s, len(samples.run_s))


def predicted_of(trial: Trial) -> dict[str, Any]:
    """What was predicted for a trial before it was measured."""
    return plain_interval(trial.predicted.median_s, trial.predicted.low_s, trial.predicted.high_s)


def _warnings(timed: Mapping[str, ContenderResult]) -> list[str]:
    """Where ONNX Runtime is the faster one: said, never hidden."""
    own = timed["compressed"]
    names = {"onnxruntime_fp32": "ONNX Runtime fp32", "onnxruntime_int8": "ONNX Runtime int8"}
    found = []
    for key, name in names.items():
        if key in timed and paired_ratio(own, timed[key]).median > 1.0:
            ratio = paired_ratio(own, timed[key])
            found.append(f"the compressed network is slower than {name}: ratio {ratio.median:.2f}")
    return found


def layer_rows(before: Network, after: Network, plan: Plan) -> list[dict[str, Any]]:
    """What became of every layer."""
    made = {layer.name: layer for layer in after.layers}
    sizes = layer_bytes(after)
    rows = []
    for layer in before.layers:
        channels = before.types[layer.outputs[0]].shape[1]
        kept = made.get(layer.name)
        rows.append(
            {
                "layer": layer.name,
                "op": layer.op,
                "precision": plan.precisions.get(layer.name, "fp32"),
                "channels": channels if kept is None else after.types[kept.outputs[0]].shape[1],
                "channels_before": channels,
                "weight_bytes": sizes.get(layer.name, 0),
            }
        )
    return rows


def trial_row(bench: Workbench, trial: Trial, number: int) -> dict[str, Any]:
    """A trial as result.json has it."""
    from millifit.compress.prune.groups import channel_groups

    sizes = {group.name: group.size for group in channel_groups(bench.network)}
    kept = sum(trial.plan.widths.get(name, size) for name, size in sizes.items())
    return {
        "index": number,
        "predicted_s": predicted_of(trial),
        "latency_s": None if trial.measured is None else interval_of(trial.measured),
        "accuracy": trial.accuracy,
        "size_bytes": trial.size_bytes,
        "precisions": dict(Counter(trial.plan.precisions.values())),
        "kept_channels": kept / sum(sizes.values()) if sizes else 1.0,
        "feasible": trial.feasible,
        "note": trial.note,
    }
