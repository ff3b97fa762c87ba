"""The end of a run: the chosen network, measured once more beside what it is compared with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from millifit.compress.evaluate import accuracy, outputs
from millifit.compress.plan import Plan
from millifit.compress.size import layer_bytes
from millifit.files import write_atomically
from millifit.pipeline.baseline import Baseline, contender
from millifit.pipeline.bundles import FINAL_TIMING, bundle_bytes, run_bundle, time_in_turn
from millifit.pipeline.pricing import Prices
from millifit.pipeline.trials import Evaluator, files_of
from millifit.pipeline.workbench import Workbench, plain_interval
from millifit.search.budget import Budget
from millifit.search.trial import Trial
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.runner.environment import describe_environment
from millifit.targets.runner.network_timing import ContenderResult, Ratio, paired_ratio
from millifit.targets.timing import Samples

# Images on which the bundle is compared with ONNX Runtime, value by value.
_AGREEMENT_SAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The last measurement: every contender in turn, and whether the budget held."""

    timed: Mapping[str, ContenderResult]
    ratio: Ratio
    accuracy: float | None
    agreement: Mapping[str, float]
    problems: tuple[str, ...]


def measure_final(bench: Workbench, baseline: Baseline, trial: Trial, budget: Budget) -> Final:
    """Time baseline, compressed network and both ONNX Runtime references in turn; validate."""
    files = files_of(bench, trial.plan)
    paths = {
        "baseline": baseline.bundle,
        "compressed": files.bundle,
        "onnxruntime_fp32": bench.folder.path / "baseline.onnx",
        "onnxruntime_int8": bench.folder.path / "int8.onnx",
    }
    timed = time_in_turn(
        bench.timer,
        {
            name: contender(path, baseline.input_path, bench.target.threads)
            for name, path in paths.items()
            if path.exists()
        },
        policy=FINAL_TIMING,
        progress=bench.progress,
        title="time all in turn",
    )
    ratio = paired_ratio(timed["compressed"], timed["baseline"])
    validation = bench.dataset.validation
    answers = run_bundle(files.bundle, validation.x, progress=bench.progress)
    achieved = None if validation.y is None else accuracy(answers, validation.y)
    return Final(
        timed=timed, ratio=ratio, accuracy=achieved,
        agreement=_agreement(bench, trial.plan, answers),
        problems=_problems(timed, ratio, achieved, baseline, budget, trial.plan),
    )  # fmt: skip


def _agreement(bench: Workbench, plan: Plan, answers: Any) -> dict[str, float]:
    """How close the bundle is to ONNX Runtime on the same compressed network."""
    from millifit.targets.importer.onnx_file import read_network

    x = bench.dataset.validation.x[:_AGREEMENT_SAMPLES]
    network = read_network(files_of(bench, plan).network)
    oracle = outputs(network, x, threads=bench.cores)
    return compare(answers[: len(x)], oracle)


def compare(answers: Any, oracle: Any) -> dict[str, float]:
    """Agreement of two sets of outputs ``[N, ...]``.

    `within_two_steps` is the share of values that differ by at most two of the 255 steps of the
    oracle's range of values; `largest_error` is relative to its largest magnitude.
    """
    flat, true = answers.reshape(len(answers), -1), oracle.reshape(len(oracle), -1)
    step = float(np.ptp(true)) / 255
    off = np.abs(flat - true)
    return {
        "samples": float(len(true)),
        "top1_equal": float(np.mean(flat.argmax(axis=1) == true.argmax(axis=1))),
        "within_two_steps": float(np.mean(off <= 2 * step)),
        "largest_error": float(off.max() / max(float(np.abs(true).max()), 1e-30)),
    }


def _problems(
    timed: Mapping[str, ContenderResult],
    ratio: Ratio,
    achieved: float | None,
    baseline: Baseline,
    budget: Budget,
    plan: Plan,
) -> tuple[str, ...]:
    """Everything about the final measurement that breaks a promise."""
    found = []
    own = timed["compressed"].round_medians
    if budget.fraction is not None and ratio.high > budget.fraction:
        found.append(f"latency {ratio.high:.1%} of the baseline, above {budget.fraction:.1%}")
    if budget.seconds is not None and own.interval_s[1] > budget.seconds:
        found.append(
            f"latency {own.interval_s[1] * 1e3:.3f} ms, above {budget.seconds * 1e3:.3f} ms"
        )
    changed = bool(plan.widths) or "int8" in plan.precisions.values()
    if changed and ratio.high >= 1.0:
        found.append(f"not faster than the baseline (ratio {ratio.median:.3f})")
    limits = budget.resolve(baseline_s=1.0, baseline_accuracy=baseline.accuracy)
    if not limits.accuracy_met(achieved):
        found.append(f"accuracy {achieved:.2%} below {limits.min_accuracy:.2%}")
    return tuple(found)


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
    program = lower(network, bench.target)
    timed = final.timed
    int8 = timed.get("onnxruntime_int8")
    return {
        "schema": 1,
        "model": bench.network.name,
        "target": bench.target.name,
        "target_cpu": bench.target.cpu,
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
        "reference": {
            "onnxruntime_fp32_s": timed["onnxruntime_fp32"].round_medians.median_s,
            "onnxruntime_int8_s": None if int8 is None else int8.round_medians.median_s,
            "intervals": {
                name: interval_of(each.round_medians)
                for name, each in timed.items()
                if name.startswith("onnxruntime")
            },
        },
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
        "environment": describe_environment(),
        "stages": [
            {"name": name, "seconds": seconds}
            for name, seconds in (bench.folder.read("stages.json") or {}).items()
        ],
    }


def _place(source: Path, target: Path) -> None:
    """Copy a finished folder to where users look for it, whole or not at all."""
    staging = target.with_name(f".{target.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging)
    shutil.rmtree(target, ignore_errors=True)
    staging.replace(target)


def _subject(result: ContenderResult, achieved: float | None, bundle: Path) -> dict[str, Any]:
    return {
        "latency_s": interval_of(result.round_medians),
        "accuracy": achieved,
        "size_bytes": bundle_bytes(bundle),
        "peak_memory_bytes": result.peak_memory_bytes,
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
        "int8_layers": sum(p == "int8" for p in trial.plan.precisions.values()),
        "layers": len(trial.plan.precisions),
        "kept_channels": kept / sum(sizes.values()) if sizes else 1.0,
        "feasible": trial.feasible,
        "note": trial.note,
    }


def without_rule(program: Program) -> list[dict[str, str]]:
    """The nodes that run without a schedule rule."""
    return [
        {"node": call.nodes[0], "op": str(call.kernel.attribute("operator"))}
        for call in program.without_rule
    ]
