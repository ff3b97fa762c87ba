"""Fitting a tiny network on a device that exists on paper: what is found, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from roofline import RooflineTimer
from tiny import MakeRecipe

from millifit.compress.evaluate import accuracy
from millifit.compress.plan import Plan
from millifit.errors import BudgetInfeasible, TargetError
from millifit.pipeline import fit, search
from millifit.progress import Silent
from millifit.report import parse_result
from millifit.search.explain import ExplainedInfeasible
from millifit.search.trial import plan_key
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.manifest import read_manifest


class Notes(Silent):
    """Remembers what was said, and which stages were opened."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Any:
        self.stages.append(title)
        yield lambda _steps: None

    def note(self, text: str) -> None:
        self.said.append(text)


class Broken(RooflineTimer):
    """A timer that must not be asked."""

    def time_kernels(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("kernels were timed again")

    def time_networks(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("networks were timed again")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def precisions(result: Mapping[str, Any]) -> set[str]:
    return {layer["precision"] for layer in result["plan"]}


def test_fit_meets_its_budget(finished: Path) -> None:
    """60 % of the baseline is reached, upper bound included, with at most 2 points lost."""
    plain = read(finished / "run" / "result.json")
    result = parse_result(plain)
    assert result.met
    assert plain["problems"] == []
    assert plain["ratio"]["high"] <= 0.6
    assert result.compressed.latency_s.high <= 0.6 * result.baseline.latency_s.high
    assert result.baseline.accuracy is not None
    assert result.baseline.accuracy >= 0.8
    assert result.accuracy_drop is not None
    assert result.accuracy_drop <= 0.02 + 1e-9
    assert precisions(plain) == {"fp32", "int8"}
    assert result.budget.latency_s == pytest.approx(0.6 * result.baseline.latency_s.median)
    feasible = [trial for trial in result.trials if trial.feasible]
    assert [trial.accuracy for trial in feasible].count(result.compressed.accuracy) >= 1
    assert {stage.name for stage in result.stages} == {
        "baseline", "quantize", "profile", "sensitivity", "search", "verify",
    }  # fmt: skip


def test_prediction_holds(finished: Path) -> None:
    """The chosen network was measured within the interval that was predicted for it."""
    plain = read(finished / "run" / "result.json")
    for trial in plain["trials"]:
        low, high = trial["predicted_s"]["low"], trial["predicted_s"]["high"]
        assert low <= trial["latency_s"]["median"] <= high
    kernels = plain["kernels"]["compressed"]
    assert {kernel["origin"] for kernel in kernels} == {"measured"}
    assert sum(k["seconds"] for k in kernels) == pytest.approx(
        plain["compressed"]["latency_s"]["median"] / 1.1, rel=0.01
    )


def test_files_of_a_run_agree(finished: Path, data: Path) -> None:
    """compressed.onnx, the bundle and the plan are those of the result, and say the same."""
    run = finished / "run"
    plain = read(run / "result.json")
    plan = read(run / "plan.json")
    assert plan["precisions"] == {row["layer"]: row["precision"] for row in plain["plan"]}
    manifest = read_manifest(run / "bundle")
    assert manifest.details["plan"] == plan
    assert (run / "trials" / plan_key(Plan.from_dict(plan)) / "bundle").is_dir()
    assert "tiny" in (run / "report.html").read_text()
    session = onnxruntime.InferenceSession(
        run / "compressed.onnx", providers=["CPUExecutionProvider"]
    )
    bundle = load_bundle(run / "bundle")
    with np.load(data) as arrays:
        x, y = arrays["x"][:100], arrays["y"][:100]
    name = session.get_inputs()[0].name
    theirs = np.concatenate([session.run(None, {name: sample[None]})[0] for sample in x])
    ours = np.concatenate([bundle.run(sample[None])[0] for sample in x])
    np.testing.assert_allclose(ours, theirs, atol=2 / 255 * np.ptp(theirs))
    assert accuracy(ours, y) >= 0.8
    assert plain["agreement"]["top1_equal"] >= 0.995
    assert plain["agreement"]["within_two_steps"] >= 0.99


def test_second_call_returns_the_stored_result(copied: Path, make_recipe: MakeRecipe) -> None:
    """A finished run is not run again: its result is returned, and that is said."""
    recipe = make_recipe(copied)
    notes = Notes()
    before = (copied / "run" / "result.json").read_bytes()
    found = fit(recipe, notes, timer=Broken())
    assert found == json.loads(before)
    assert any("was finished before" in line for line in notes.said)
    assert (copied / "run" / "result.json").read_bytes() == before


def test_stages_are_kept_when_only_the_end_is_missing(
    copied: Path, make_recipe: MakeRecipe
) -> None:
    """Without result.json the end is done again, from what was measured: nothing is timed anew."""
    before = read(copied / "run" / "result.json")
    (copied / "run" / "result.json").unlink()
    found = fit(make_recipe(copied), timer=Broken())
    assert json.loads(json.dumps(found["compressed"])) == before["compressed"]
    assert found["plan"] == before["plan"]


def test_search_leads_to_the_plan_of_fit(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    """The verb search gives the front and plan.json; fit goes on from there to the same result."""
    recipe = make_recipe(tmp_path)
    found = search(recipe, timer=RooflineTimer())
    run = tmp_path / "run"
    assert found["plan"] == read(run / "plan.json") == read(finished / "run" / "plan.json")
    assert found["reason"]
    assert not (run / "result.json").exists()
    assert not (run / "bundle").exists()
    assert all(row in found["trials"] for row in found["front"])
    assert min(row["latency_s"]["median"] for row in found["trials"]) == min(
        row["latency_s"]["median"] for row in found["front"]
    )
    notes = Notes()
    result = fit(recipe, notes, timer=RooflineTimer())
    assert "time trial and baseline" not in notes.stages
    assert result["plan"] == read(finished / "run" / "result.json")["plan"]


def test_absolute_budget(make_recipe: MakeRecipe, finished: Path, tmp_path: Path) -> None:
    """A budget in milliseconds is met by the latency itself."""
    baseline_s = read(finished / "run" / "result.json")["baseline"]["latency_s"]["median"]
    budget = f"{baseline_s * 0.7e3:.6f}ms"
    result = fit(make_recipe(tmp_path, budget=budget), timer=RooflineTimer())
    assert result["met"]
    assert result["compressed"]["latency_s"]["high"] <= baseline_s * 0.7
    assert result["budget"]["text"] == budget
    assert precisions(result) == {"fp32", "int8"}


def test_whole_budget_needs_no_compression(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """With 100 % of the baseline's time nothing is compressed: no loss is taken for nothing."""
    result = fit(make_recipe(tmp_path, budget="100%", max_drop=0.0), timer=RooflineTimer())
    assert result["met"]
    assert precisions(result) == {"fp32"}
    assert result["ratio"]["median"] == pytest.approx(1.0)


@pytest.mark.parametrize("budget", ["1%", "1us"])
def test_infeasible_budget_is_explained(
    make_recipe: MakeRecipe, tmp_path: Path, budget: str
) -> None:
    """The floor, the layers that set it, and a budget that then works; no result is written."""
    timer = RooflineTimer()
    with pytest.raises(ExplainedInfeasible, match="is infeasible on 'local'") as refused:
        fit(make_recipe(tmp_path, budget=budget), timer=timer)
    assert refused.value.exit_code == 3
    explanation = refused.value.explanation
    assert explanation.others_reachable
    layers = {name for name, _ in explanation.binding}
    plan = read(tmp_path / "run" / "sensitivity.json")
    assert layers <= {key.removeprefix("precision:").removesuffix("=int8") for key in plan}
    assert 1e-6 < explanation.floor_s < sum(seconds for _, seconds in explanation.binding) * 2
    assert [kept for kept in ("result.json", "bundle", "plan.json")
            if (tmp_path / "run" / kept).exists()] == []  # fmt: skip
    (cheapest, *_) = explanation.relaxations
    proposed = cheapest.text.removeprefix("--budget ")
    again = fit(make_recipe(tmp_path / "again", budget=proposed), timer=timer)
    assert again["met"]
    assert set(again["plan"][0]) >= {"layer", "precision"}


@pytest.fixture(scope="module")
def undecided(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that the network can hardly decide about, labelled as it decides: int8 will differ."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = np.random.default_rng(0).standard_normal((2000, 1, 8, 8)).astype(np.float32)
    answers = np.concatenate([session.run(None, {name: sample[None]})[0] for sample in x])
    ordered = np.sort(answers, axis=1)
    closest = np.argsort(ordered[:, -1] - ordered[:, -2])[:400]
    path = tmp_path_factory.mktemp("undecided") / "noise.npz"
    np.savez(path, x=x[closest], y=answers[closest].argmax(axis=1))
    return path


def test_accuracy_out_of_reach_is_explained(
    make_recipe: MakeRecipe, undecided: Path, tmp_path: Path
) -> None:
    """Where every fast plan loses too much, the message says how much, and that then works."""
    few = {"data": str(undecided), "budget": "28%", "trials": 2}
    with pytest.raises(BudgetInfeasible, match="28% with at most 0 points lost") as refused:
        fit(make_recipe(tmp_path, max_drop=0.0, **few), timer=RooflineTimer())
    said = str(refused.value)
    proposed = re.search(r"loses (\S+) points: --max-drop (\S+) would do", said)
    assert proposed is not None, said
    assert 0 < float(proposed[1]) <= float(proposed[2])
    again = make_recipe(tmp_path / "again", max_drop=float(proposed[2]), **few)
    assert fit(again, timer=RooflineTimer())["met"]


SLOW_INT8 = {
    "kernels": {"int8_kernels": 100.0},
    "networks": {"int8_networks": 100.0},
    "networks, slightly": {"int8_networks": 4.2},
}


@pytest.mark.parametrize(
    ("slow", "budget"),
    [("kernels", "100%"), ("networks", "100%"), ("networks, slightly", "1ms")],
)
def test_slower_int8_is_never_the_result(
    make_recipe: MakeRecipe, tmp_path: Path, slow: str, budget: str
) -> None:
    """Where int8 is slower the result is fp32, whatever kernels promised and the budget allows."""
    timer = RooflineTimer(**SLOW_INT8[slow])
    result = fit(make_recipe(tmp_path, budget=budget), timer=timer)
    assert precisions(result) == {"fp32"}
    assert result["met"]


@pytest.mark.parametrize("slow", ["kernels", "networks"])
def test_slower_int8_makes_the_budget_infeasible(
    make_recipe: MakeRecipe, tmp_path: Path, slow: str
) -> None:
    """What int8 would have to give is refused by measurement, not granted by prediction."""
    timer = RooflineTimer(**SLOW_INT8[slow])
    with pytest.raises(BudgetInfeasible, match="infeasible"):
        fit(make_recipe(tmp_path, trials=2), timer=timer)
    run = tmp_path / "run"
    assert not (run / "result.json").exists()
    if slow == "networks":
        records = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
        assert len(records) == 2
        for record in records:
            assert record["run_s"] is None
            assert "refused: not faster than the baseline" in record["note"]


def test_network_that_fails_its_last_measurement_is_not_the_result(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """A network that was fast enough as a trial and is not in the end gives way to a faster one."""
    notes = Notes()
    timer = RooflineTimer(int8_finally=1.4)
    result = fit(make_recipe(tmp_path, budget="58%"), notes, timer=timer)
    assert any("the last measurement found: latency" in line for line in notes.said)
    assert notes.stages.count("time all in turn") >= 2
    assert result["met"]
    assert result["ratio"]["high"] <= 0.58


def test_network_that_never_passes_is_not_called_met(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """After some attempts the run ends with what it found, and says that the budget is not met."""
    timer = RooflineTimer(int8_finally=6.0)
    notes = Notes()
    result = fit(make_recipe(tmp_path, budget="35%", trials=2), notes, timer=timer)
    assert result["met"] is False
    assert "above 35.0%" in result["problems"][0]
    assert parse_result(result).met is False
    assert notes.stages.count("time all in turn") <= 3


def test_channels_are_pruned_where_there_is_training_data(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """A model and data of Python functions: what int8 cannot give comes from fewer channels."""
    recipe = make_recipe(
        tmp_path, model="tiny:network", data="tiny:with_training", epochs=1, budget="25%",
        max_drop=15.0, trials=3,
    )  # fmt: skip
    result = fit(recipe, timer=RooflineTimer())
    assert result["met"]
    assert result["model"] == "network"
    plan = read(tmp_path / "run" / "plan.json")
    assert plan["widths"]
    narrower = [row for row in result["plan"] if row["channels"] < row["channels_before"]]
    assert narrower
    assert result["trials"][0]["kept_channels"] < 1
    assert result["compressed"]["accuracy"] >= result["baseline"]["accuracy"] - 0.15
    steps = {row["channels"] % 8 for row in narrower}
    assert steps == {0}


def test_nothing_is_pruned_against_the_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """With --no-prune channels stay, training data or not."""
    recipe = make_recipe(tmp_path, data="tiny:with_training", prune=False, budget="40%")
    result = fit(recipe, timer=RooflineTimer())
    assert read(tmp_path / "run" / "plan.json")["widths"] == {}
    assert {row["channels"] == row["channels_before"] for row in result["plan"]} == {True}


def test_target_that_is_not_here_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Nothing can be measured on another device; no run folder is made."""
    with pytest.raises(TargetError, match="'rpi4' cannot be reached from here"):
        fit(make_recipe(tmp_path, target="rpi4"), timer=RooflineTimer())
    assert not (tmp_path / "run").exists()


def test_kernels_are_timed_once(make_recipe: MakeRecipe, finished: Path, tmp_path: Path) -> None:
    """A second run with the first one's store measures no kernel again."""
    timer = RooflineTimer()
    recipe = make_recipe(tmp_path, store=str(finished / "store.sqlite"))
    fit(recipe, timer=timer)
    assert timer.kernels == []
    assert timer.networks > 0
