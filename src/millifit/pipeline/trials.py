"""One trial: a plan applied, compiled, validated and timed in turn with the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from millifit.compress.apply import apply_plan
from millifit.compress.evaluate import accuracy
from millifit.compress.plan import Plan
from millifit.latency_models.networks.scaled_sum import NetworkModel, NetworkObservation, observe
from millifit.pipeline.baseline import Baseline, contenders
from millifit.pipeline.bundles import (
    TRIAL_TIMING,
    bundle_bytes,
    ensure_bundle,
    run_bundle,
    time_in_turn,
)
from millifit.pipeline.losses import training_of
from millifit.pipeline.pricing import Prices
from millifit.pipeline.workbench import Workbench, sample_input
from millifit.search.budget import Budget
from millifit.search.trial import Trial, plan_key
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network
from millifit.targets.runner.network_timing import Ratio, paired_ratio
from millifit.targets.target import Precision
from millifit.targets.timing import Samples

RECORDS = "trials.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where a trial keeps what it made."""

    folder: Path

    @property
    def network(self) -> Path:
        """The compressed network."""
        return self.folder / "network.onnx"

    @property
    def bundle(self) -> Path:
        """Its bundle."""
        return self.folder / "bundle"


def files_of(bench: Workbench, plan: Plan) -> Files:
    """The files of a plan's trial."""
    return Files(folder=bench.folder.path / "trials" / plan_key(plan))


class Evaluator:
    """Evaluates plans on the device and learns the whole-network residual from each."""

    def __init__(
        self,
        bench: Workbench,
        prices: Prices,
        baseline: Baseline,
        budget: Budget,
        *,
        model: NetworkModel,
    ) -> None:
        self._bench = bench
        self._prices = prices
        self._baseline = baseline
        self._budget = budget
        self.model = model

    def __call__(self, plan: Plan) -> Trial:
        """Compress, compile, validate and time `plan`, and append it to the run's records."""
        files = files_of(self._bench, plan)
        network = self.network(plan)
        program = self._bench.lower(network)
        self._prices.measure(program.kernels)
        calls = self._prices.of_calls(program)
        believed = self.model.predict(calls)
        bundle = ensure_bundle(
            files.bundle, network=network, program=program, target=self._bench.target,
            golden_input=sample_input(self._bench.dataset), plan=plan.to_dict(),
        )  # fmt: skip
        achieved = self._accuracy(bundle)
        timed = time_in_turn(
            self._bench.timer,
            contenders(
                self._bench,
                {"baseline": self._baseline.bundle, "compressed": bundle},
                self._baseline.input_path,
            ),
            policy=TRIAL_TIMING,
            progress=self._bench.progress,
            title="time trial and baseline",
        )
        ratio = paired_ratio(timed["compressed"], timed["baseline"])
        own = timed["compressed"].round_medians
        trial = Trial(
            plan=plan,
            predicted=believed,
            measured=self._judged_by(timed["baseline"].round_medians, own),
            accuracy=achieved,
            size_bytes=bundle_bytes(bundle),
        )
        trial = _gated(trial, ratio, unchanged=_unchanged(plan))
        observation = observe(calls, own.median_s)
        self.model = self.model.updated(observation)
        self._bench.folder.append(RECORDS, _record(trial, observation))
        self._say(trial, ratio)
        return trial

    def network(self, plan: Plan) -> Network:
        """The compressed network of a plan, made once."""
        files = files_of(self._bench, plan)
        if not files.network.exists():
            made = apply_plan(
                self._bench.network, plan, dataset=self._bench.dataset,
                training=training_of(self._bench),
                calibration=self._bench.calibration,
                seed=self._bench.recipe.seed,
                threads=self._bench.cores, progress=self._bench.progress,
            )  # fmt: skip
            write_network(made.network, files.network)
        return simplify(read_network(files.network))

    def known(self) -> dict[str, Trial]:
        """Trials of an earlier, interrupted run of the same folder; the model learns them, too."""
        trials = {}
        for record in self._bench.folder.lines(RECORDS):
            trial = Trial.from_dict(record)
            trials[plan_key(trial.plan)] = trial
            self.model = self.model.updated(NetworkObservation(**record["observation"]))
        return trials

    def _accuracy(self, bundle: Path) -> float | None:
        validation = self._bench.dataset.validation
        if validation.y is None:
            return None
        answers = run_bundle(self._bench.timer, bundle, validation.x, progress=self._bench.progress)
        return accuracy(answers, validation.y)

    def _judged_by(self, baseline: Samples, own: Samples) -> Samples:
        """What the budget is compared with.

        A relative budget is about the ratio to the baseline of the same rounds: each round's ratio,
        times the baseline's reference latency.
        """
        if self._budget.fraction is None:
            return own
        reference_s = self._baseline.latency.median_s
        pairs = zip(own.run_s, baseline.run_s, strict=True)
        return Samples(run_s=tuple(a / b * reference_s for a, b in pairs))

    def _say(self, trial: Trial, ratio: Ratio) -> None:
        measured = "refused" if trial.measured is None else f"{ratio.median:.1%} of the baseline"
        achieved = "" if trial.accuracy is None else f", accuracy {trial.accuracy:.2%}"
        self._bench.progress.note(
            f"trial: {_counted(trial.plan)}, "
            f"{len(trial.plan.widths)} groups narrower: {measured} (predicted "
            f"{trial.predicted.median_s / self._baseline.latency.median_s:.1%}){achieved}"
        )


def new_evaluator(
    bench: Workbench, prices: Prices, baseline: Baseline, budget: Budget
) -> Evaluator:
    """An evaluator whose model of whole networks knows the baseline."""
    first = observe(prices.of_calls(baseline.program), baseline.latency.median_s)
    model = NetworkModel().updated(first)
    return Evaluator(bench, prices, baseline, budget, model=model)


def _unchanged(plan: Plan) -> bool:
    return not plan.compressed


def _counted(plan: Plan) -> str:
    """How many layers have which precision, e.g. "12 int8, 3 fp32 of 15 layers"."""
    counts = Counter(plan.precisions.values())
    named = ", ".join(f"{counts[p]} {p}" for p in get_args(Precision) if counts[p])
    return f"{named} of {len(plan.precisions)} layers"


def _gated(trial: Trial, ratio: Ratio, *, unchanged: bool) -> Trial:
    """The regression gate: a compressed network that is not faster is no result."""
    if unchanged or ratio.high < 1.0:
        return trial
    return replace(
        trial,
        measured=None,
        note=f"refused: not faster than the baseline (ratio {ratio.median:.3f}, "
        f"at most {ratio.high:.3f})",
    )


def _record(trial: Trial, observation: NetworkObservation) -> Mapping[str, Any]:
    return {**trial.to_dict(), "observation": asdict(observation)}
