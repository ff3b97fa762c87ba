"""The last measurement: the chosen network beside everything it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from millifit.compress.evaluate import accuracy, outputs
from millifit.compress.plan import Plan
from millifit.pipeline.baseline import Baseline, contenders
from millifit.pipeline.bundles import FINAL_TIMING, run_bundle, time_in_turn
from millifit.pipeline.trials import files_of
from millifit.pipeline.workbench import Workbench
from millifit.search.budget import Budget
from millifit.search.trial import Trial
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; of the samples, the medians of each round."""
        return {
            "timed": {
                name: {
                    "round_medians_s": list(each.round_medians.run_s),
                    "peak_memory_bytes": each.peak_memory_bytes,
                    "process_peak_bytes": each.process_peak_bytes,
                }
                for name, each in self.timed.items()
            },
            "accuracy": self.accuracy,
            "agreement": dict(self.agreement),
            "problems": list(self.problems),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Final:
        """What `to_dict` described; the samples are the medians of each round."""
        timed = {}
        for name, each in plain["timed"].items():
            medians = Samples(run_s=tuple(each["round_medians_s"]))
            timed[name] = ContenderResult(
                samples=medians,
                round_medians=medians,
                peak_memory_bytes=each["peak_memory_bytes"],
                process_peak_bytes=each["process_peak_bytes"],
            )
        return cls(
            timed=timed,
            ratio=paired_ratio(timed["compressed"], timed["baseline"]),
            accuracy=plain["accuracy"],
            agreement=plain["agreement"],
            problems=tuple(plain["problems"]),
        )


def measure_final(bench: Workbench, baseline: Baseline, trial: Trial, budget: Budget) -> Final:
    """Time baseline, compressed network and ONNX Runtime in turn; validate on the device."""
    files = files_of(bench, trial.plan)
    paths = {
        "baseline": baseline.bundle,
        "compressed": files.bundle,
        "onnxruntime_fp32": bench.folder.path / "baseline.onnx",
        "onnxruntime_int8": bench.folder.path / "int8.onnx",
    }
    timed = time_in_turn(
        bench.timer,
        contenders(bench, paths, baseline.input_path),
        policy=FINAL_TIMING,
        progress=bench.progress,
        title="time all in turn",
    )
    ratio = paired_ratio(timed["compressed"], timed["baseline"])
    validation = bench.dataset.validation
    answers = run_bundle(bench.timer, files.bundle, validation.x, progress=bench.progress)
    achieved = None if validation.y is None else accuracy(answers, validation.y)
    return Final(
        timed=timed, ratio=ratio, accuracy=achieved,
        agreement=_agreement(bench, trial.plan, answers),
        problems=_problems(timed, ratio, achieved, baseline, budget, trial.plan),
    )  # fmt: skip


def _agreement(bench: Workbench, plan: Plan, answers: Any) -> dict[str, float]:
    """How close the bundle is to ONNX Runtime on the same compressed network.

    Where int8 and fp32 layers are mixed, the last bit of an fp32 sum may round a value to the next
    of 255 steps, and small differences grow. `reference_top1_equal` says how far ONNX Runtime
    agrees with itself when it runs without its graph optimizations.
    """
    from millifit.targets.importer.onnx_file import read_network

    x = bench.dataset.validation.x[:_AGREEMENT_SAMPLES]
    network = read_network(files_of(bench, plan).network)
    oracle = outputs(network, x, threads=bench.cores)
    plain = outputs(network, x, threads=bench.cores, optimized=False)
    return {
        **compare(answers[: len(x)], oracle),
        "reference_top1_equal": compare(plain, oracle)["top1_equal"],
    }


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
    if plan.compressed and ratio.high >= 1.0:
        found.append(f"not faster than the baseline (ratio {ratio.median:.3f})")
    limits = budget.resolve(baseline_s=1.0, baseline_accuracy=baseline.accuracy)
    if not limits.accuracy_met(achieved):
        found.append(f"accuracy {achieved:.2%} below {limits.min_accuracy:.2%}")
    return tuple(found)
