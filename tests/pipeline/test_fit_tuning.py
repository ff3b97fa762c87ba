"""Tuning as users meet it: compile, profile and fit use what won, and say so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roofline import RooflineTimer
from tiny import MakeRecipe

from millifit.errors import TargetError
from millifit.pipeline import compile_model, fit, predict, profile
from millifit.profiler.store import Store
from millifit.profiler.tuned import choices_of
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.manifest import read_manifest
from millifit.targets.runner.environment import code_versions
from millifit.targets.schedules.candidates import candidates
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy


class Tunable(RooflineTimer):
    """A device where the last candidate takes 0.8 of the rule's time, and the others 1.2."""

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        for kernel, outcome in super().time_kernels(kernels, target, policy, seed=seed):
            assert isinstance(outcome, Samples)
            factor = 1.2 if kernel.choice else 1.0
            if kernel.choice == best(kernel, target):
                factor = 0.8
            yield kernel, Samples(run_s=tuple(factor * s for s in outcome.run_s))


def best(kernel: Kernel, target: Target) -> Choice:
    """The choice that wins on this device."""
    others = candidates(kernel, target)[1:]
    return others[-1] if others else (("nothing", 0),)


def stored(store: Path) -> dict[Kernel, Choice]:
    return choices_of(Store(store).tuned(find_target("local").key, code_versions()))


def test_what_wins_is_compiled_and_recorded(model: Path, tmp_path: Path) -> None:
    """The bundle has the winners, names them in its manifest, and computes the same."""
    store = tmp_path / "store.sqlite"
    plain = compile_model(str(model), targets=["local"], out=tmp_path / "plain", store=str(store))
    assert not store.exists()
    assert (plain["bundles"][0]["tuned"], plain["bundles"][0]["tuning"]) == (0, None)
    found = compile_model(
        str(model), targets=["local"], out=tmp_path / "tuned", store=str(store), tune=1e6,
        timer=Tunable(),
    )["bundles"][0]  # fmt: skip
    winners = stored(store)
    assert winners
    assert found["tuned"] == len(found["tuning"]["tuned"]) == len(winners)
    manifest = read_manifest(tmp_path / "tuned" / "local")
    assert {each["kernel"]: tuple(sorted(each["choice"].items())) for each in manifest.tuned} == {
        kernel.key: choice for kernel, choice in winners.items()
    }
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    ours, theirs = (load_bundle(tmp_path / n / "local").run(x)[0] for n in ("plain", "tuned"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    again = compile_model(str(model), targets=["local"], out=tmp_path / "again", store=str(store))
    assert again["bundles"][0]["tuned"] == len(winners)


def test_the_report_says_what_was_gained(model: Path, tmp_path: Path) -> None:
    """Old and new medians per kernel, and what is left of the network's latency."""
    report = compile_model(
        str(model), targets=["local"], out=tmp_path, store=str(tmp_path / "s.sqlite"), tune=1e6,
        timer=Tunable(),
    )["bundles"][0]["tuning"]  # fmt: skip
    json.dumps(report)
    for row in report["tuned"]:
        assert row["tuned_s"] == pytest.approx(0.8 * row["by_rule_s"])
        assert row["gain"] == pytest.approx(1.25)
        assert row["calls"] >= 1
    assert report["tried"] == len(report["tuned"])
    assert (report["known"], report["left"], report["failures"]) == (0, 0, [])
    assert 0.8 <= report["expected_ratio"]["network"] < 1
    assert report["limit_s"] == 1e6
    assert report["spent_s"] > 0


def test_time_that_is_over_leaves_the_rest_to_the_next_run(model: Path, tmp_path: Path) -> None:
    """Nothing is tuned in no time, which is no error, and says how many are left."""
    out, store = tmp_path / "out", str(tmp_path / "s.sqlite")

    def report(seconds: float) -> dict[str, Any]:
        made = compile_model(
            str(model), targets=["local"], out=out, store=store, tune=seconds, timer=Tunable()
        )
        tuning: dict[str, Any] = made["bundles"][0]["tuning"]
        return tuning

    first = report(1e-9)
    assert first["tried"] == 0
    assert first["left"] > 0
    second = report(1e6)
    assert second["tried"] == first["left"]
    third = report(1e6)
    assert (third["tried"], third["known"], third["left"]) == (0, first["left"], 0)
    assert third["tuned"] == second["tuned"]


def test_a_candidate_that_fails_is_reported(model: Path, tmp_path: Path) -> None:
    """A crash of one candidate costs that candidate only."""

    class Crashing(Tunable):
        def time_kernels(self, *arguments: Any, **options: Any) -> Any:
            for kernel, outcome in super().time_kernels(*arguments, **options):
                bad = kernel.op == "dense" and dict(kernel.choice).get("panels_outside") is not None
                yield kernel, Failed(reason="killed by signal 11") if bad else outcome

    report = compile_model(
        str(model), targets=["local"], out=tmp_path, store=str(tmp_path / "s.sqlite"), tune=1e6,
        timer=Crashing(),
    )["bundles"][0]["tuning"]  # fmt: skip
    assert {each["op"] for each in report["failures"]} == {"dense"}
    assert {each["reason"] for each in report["failures"]} == {"killed by signal 11"}
    assert report["left"] == 0


def test_a_device_elsewhere_cannot_be_tuned(model: Path, tmp_path: Path) -> None:
    """A target that cannot be reached is refused before anything is tuned or compiled."""
    with pytest.raises(TargetError, match="'rpi5' cannot be reached from here"):
        compile_model(
            str(model), targets=["local", "rpi5"], out=tmp_path / "out", tune=10, timer=Tunable(),
            store=str(tmp_path / "s.sqlite"),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_profile_prices_kernels_as_they_won(model: Path, tmp_path: Path) -> None:
    """After tuning, measured sums and predictions are those of the winners."""
    by_rule = profile(str(model), store=str(tmp_path / "a.sqlite"), timer=Tunable())
    store = tmp_path / "b.sqlite"
    tuned = profile(str(model), store=str(store), timer=Tunable(), tune=1e6)
    assert by_rule["tuning"] is None
    assert set(tuned["tuning"]["expected_ratio"]) == set(tuned["sum_of_kernels_s"])
    for precision, ratio in tuned["tuning"]["expected_ratio"].items():
        sums = tuned["sum_of_kernels_s"][precision], by_rule["sum_of_kernels_s"][precision]
        assert sums[0] / sums[1] == pytest.approx(ratio, rel=0.01)
    measured = {each.kernel for each in Store(store).measurements()}
    winners = stored(store)
    assert {kernel.with_choice(choice) for kernel, choice in winners.items()} <= measured
    assert not winners.keys() & measured
    said = predict(str(model), store=str(store))
    assert said["share"]["measured"] == 1.0
    total = sum(row["seconds"] for row in said["kernels"])
    assert total == pytest.approx(tuned["sum_of_kernels_s"]["fp32"])


def test_a_fit_tunes_once_and_keeps_its_choices(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Trials and result use what won; the choices of a run stay, whatever is tuned later."""
    recipe = make_recipe(tmp_path, tune=1e6)
    result = fit(recipe, timer=Tunable())
    assert result["tuning"]["tuned"]
    run = tmp_path / "run"
    kept = json.loads((run / "tuning.json").read_text())
    assert len(kept["choices"]) == len(stored(tmp_path / "store.sqlite")) > 0
    assert read_manifest(run / "baseline").tuned
    assert read_manifest(run / "bundle").tuned
    (tmp_path / "store.sqlite").unlink()
    (run / "result.json").unlink()
    timer = Tunable()
    again = fit(recipe, timer=timer)
    assert again["tuning"] == result["tuning"]
    assert [r["precision"] for r in again["plan"]] == [r["precision"] for r in result["plan"]]
    assert not (tmp_path / "store.sqlite").exists() or stored(tmp_path / "store.sqlite") == {}
    priced = {kernel for kernel in timer.kernels if kernel.choice}
    assert {Kernel.from_dict(each["kernel"]) for each in kept["choices"]} >= {
        kernel.with_choice(()) for kernel in priced
    }
    assert priced
