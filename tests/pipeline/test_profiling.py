"""Profiles of models, folders and spaces: on a device on paper whose time passes as it is told."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_with_time import Clock, TimedDevice, paper_bundle
from roofline import kernel_s

from millifit.errors import MeasurementError, ModelError, TargetError, UsageError
from millifit.pipeline import profile
from millifit.pipeline.profile_model import Expectation
from millifit.pipeline.profile_pool import Item, PoolNetwork, is_held_out, of_space
from millifit.profiler.store import Store
from millifit.search.spaces.mobilenet import MobileNetSpace
from millifit.targets.catalog import find_target
from millifit.targets.timing import Failed, Samples

SPACE = MobileNetSpace(resolutions=(32, 48), widths=("0.35", "0.5"), kernels=(3, 5))


@cache
def drawn() -> list[PoolNetwork]:
    """The networks that all tests draw: drawing takes longer than measuring on paper."""
    target = find_target("local", threads=1)
    return list(itertools.islice(of_space(SPACE, target=target, choices={}, seed=0), 10))


class PaperModel:
    """Knows the roofline but for 4 %."""

    def expect(self, items: Sequence[Item]) -> Expectation:
        """A little more than the truth, with some doubt."""
        seconds = np.array([1.04 * kernel_s(kernel) for kernel, _ in items])
        n = len(items)
        return Expectation(seconds=seconds, log_sd=np.full(n, 0.1), known=np.ones(n, bool))


class Fits:
    """Stands in for fitting; remembers what was fitted on."""

    def __init__(self) -> None:
        self.training: list[set[Item]] = []

    def __call__(self, measured: dict[Item, float], **_: Any) -> PaperModel:
        self.training.append(set(measured))
        return PaperModel()


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    """Fitting costs nothing, and the space is a small one."""
    fits = Fits()
    monkeypatch.setattr("millifit.pipeline.profile_knowledge.fit_profile_model", fits)
    monkeypatch.setattr("millifit.pipeline.profile_subject._MOST_NETWORKS", 10)
    monkeypatch.setattr(
        "millifit.pipeline.profile_subject.of_space", lambda *_, **__: iter(drawn())
    )
    monkeypatch.setattr("millifit.pipeline.profiling.find_space", lambda _: SPACE)
    return fits


class Notes:
    """Progress that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, title: str, total: int | None = None) -> Any:
        from millifit.progress import SILENT

        return SILENT.stage(title, total)

    def note(self, text: str) -> None:
        self.lines.append(text)


def profiled(
    store: Path,
    model: Path | None = None,
    *,
    device: TimedDevice | None = None,
    **options: Any,
) -> tuple[dict[str, Any], TimedDevice]:
    device = device or TimedDevice(Clock())
    found = profile(
        None if model is None else str(model), store=str(store), timer=device,
        clock=device.clock, build=paper_bundle, **options,
    )  # fmt: skip
    return found, device


def test_a_model_is_measured_whole_and_once(model: Path, tmp_path: Path, fits: Fits) -> None:
    """Kernels in fp32 and int8 and both networks are stored; the same call measures nothing."""
    del fits
    store = tmp_path / "s.sqlite"
    found, device = profiled(store, model)
    assert {kernel.precision for kernel in device.kernels} == {"fp32", "int8"}
    assert found["kernels"] == found["measured_now"] == Store(store).count()
    assert found["kernels"] == len(set(device.kernels))
    assert (found["stopped"], found["failed"], found["without_rule"]) == ("complete", [], [])
    assert (found["model"], found["target"], found["threads"]) == ("tiny", "local", 1)
    assert found["sum_of_kernels_s"]["int8"] < found["sum_of_kernels_s"]["fp32"]
    assert found["coverage"]["measured"] == pytest.approx(1)
    assert [each["name"] for each in found["networks"]] == ["tiny", "tiny int8"]
    again, idle = profiled(store, model)
    assert (idle.kernels, idle.networks, again["measured_now"]) == ([], 0, 0)
    assert again["sum_of_kernels_s"] == found["sum_of_kernels_s"]


def test_networks_are_kept_with_their_calls(model: Path, tmp_path: Path, fits: Fits) -> None:
    """What a network took is stored with its kernels, as often as they run."""
    del fits
    store = tmp_path / "s.sqlite"
    found, _ = profiled(store, model)
    whole = Store(store).networks()
    assert [each.name for each in whole] == ["tiny", "tiny int8"]
    total = sum(kernel_s(kernel) for kernel in whole[0].calls)
    assert found["sum_of_kernels_s"]["fp32"] == pytest.approx(total)
    assert whole[0].section is not None
    assert isinstance(whole[0].outcome, Samples)


def test_a_space_is_measured_until_the_time_is_over(tmp_path: Path, fits: Fits) -> None:
    """Kernels and some networks within the limit; coverage and error are said while it runs."""
    notes, store = Notes(), tmp_path / "s.sqlite"
    found, device = profiled(store, space="mobilenet", seconds=40.0, progress=notes)
    assert (found["stopped"], found["space"], found["model"]) == ("time", "mobilenet", None)
    assert 40 <= found["elapsed_s"] < 44
    assert found["measured_now"] == Store(store).count() > 60
    assert len(found["networks"]) == device.networks >= 1
    assert 2 * len(found["networks"]) <= 0.3 * found["elapsed_s"]
    assert 0.1 < found["coverage"]["measured"] < found["coverage"]["families"] <= 1
    assert found["held_out"]["median"] == pytest.approx(0.04, abs=0.01)
    assert found["drifted"] == 0
    assert any("coverage" in line and "held-out error 4.0%" in line for line in notes.lines)
    assert Store(store).networks()[0].architecture.startswith("ends.precision=")
    assert fits.training


def test_what_tells_the_error_is_never_fitted_on(tmp_path: Path, fits: Fits) -> None:
    """About a tenth of what is measured is held out, and in no training set of any fit."""
    store = tmp_path / "s.sqlite"
    found, _ = profiled(store, space="mobilenet", seconds=40.0)
    held_out = [m for m in Store(store).measurements() if is_held_out(m.kernel)]
    assert found["held_out"]["n"] == len(held_out)
    assert 0.05 < len(held_out) / found["measured_now"] < 0.15
    trained = set().union(*fits.training)
    assert not trained & {(m.kernel, m.policy) for m in held_out}


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path, fits: Fits) -> None:
    """What is measured in the second run was not measured in the first."""
    del fits
    store = tmp_path / "s.sqlite"
    first, _ = profiled(store, space="mobilenet", seconds=15.0)
    second, _ = profiled(store, space="mobilenet", seconds=15.0)
    assert Store(store).count() == first["measured_now"] + second["measured_now"]
    assert second["remeasured"] == 0
    assert len(Store(store).networks()) == len(first["networks"]) + len(second["networks"])
    assert second["coverage"]["measured"] > first["coverage"]["measured"]
    assert second["level_shift"] == pytest.approx(0, abs=0.01)


def test_the_same_seed_measures_the_same(tmp_path: Path, fits: Fits) -> None:
    """Two runs with new stores measure the same kernels in the same order."""
    del fits
    runs = [profiled(tmp_path / name, space="mobilenet", seconds=8.0)[1] for name in "ab"]
    assert runs[0].kernels == runs[1].kernels


def test_it_stops_when_the_error_is_small_enough(tmp_path: Path, fits: Fits) -> None:
    """4 % is at most 5 %: done, but not before 20 kernels say so."""
    del fits
    found, _ = profiled(tmp_path / "s", space="mobilenet", until=0.05)
    assert found["stopped"] == "error"
    assert found["held_out"]["n"] >= 20
    assert found["elapsed_s"] < 200
    assert found["networks"]


def test_what_was_measured_while_the_machine_was_slow_is_measured_again(
    tmp_path: Path, fits: Fits
) -> None:
    """30 % slower from 15 s to 25 s: sections are flagged, and in the end all times are calm."""
    del fits
    store = tmp_path / "s.sqlite"
    device = TimedDevice(Clock(), slowness=lambda now: 1.3 if 15 < now < 25 else 1.0)
    found, _ = profiled(store, space="mobilenet", seconds=60.0, device=device)
    assert 1 <= found["drifted"] <= 3
    assert found["remeasured"] > 10
    assert found["in_doubt"] == 0
    slow = [each["shift"] for each in found["sections"] if each["drifting"]]
    assert slow == pytest.approx([0.3] * len(slow), abs=0.02)
    for each in Store(store).measurements():
        assert isinstance(each.outcome, Samples)
        assert each.outcome.median_s == pytest.approx(kernel_s(each.kernel), rel=0.02)
    assert Store(store).superseded() == found["remeasured"]


def test_a_machine_that_is_never_calm_is_given_up_on(
    model: Path, tmp_path: Path, fits: Fits
) -> None:
    """Every reading differs: retries are bounded, and the answer says how much is in doubt."""
    del fits
    device = TimedDevice(Clock(), slowness=lambda now: 1.0 + (int(now / 2.3) % 5) / 5)
    found, _ = profiled(tmp_path / "s.sqlite", model, device=device)
    assert found["stopped"] == "complete"
    assert found["kernels"] == found["pool"]["kernels"]
    assert found["in_doubt"] > 0
    assert found["sum_of_kernels_s"]["fp32"] > 0


def test_another_speed_than_before_is_said(model: Path, tmp_path: Path, fits: Fits) -> None:
    """A machine that is a quarter slower than when it was profiled does not go unnoticed."""
    del fits
    store, notes = tmp_path / "s.sqlite", Notes()
    profiled(store, model)
    device = TimedDevice(Clock(), slowness=lambda _: 1.25)
    found, _ = profiled(store, space="mobilenet", seconds=5.0, device=device, progress=notes)
    assert found["level_shift"] == pytest.approx(0.25, abs=0.01)
    assert any("+25% compared with" in line for line in notes.lines)


def _lost() -> BaseException:
    return MeasurementError("the device does not answer.")


@pytest.mark.parametrize(("lost", "kind"), [(_lost, MeasurementError), (KeyboardInterrupt,) * 2])
def test_a_run_that_ends_early_keeps_all(
    tmp_path: Path, fits: Fits, lost: Callable[[], BaseException], kind: type[BaseException]
) -> None:
    """The device vanishes, or somebody stops it: how much is kept is said, and it goes on."""
    del fits
    store, notes = tmp_path / "s.sqlite", Notes()
    device = TimedDevice(Clock(), lost_after=25, lost=lost)
    with pytest.raises(kind) as caught:
        profiled(store, space="mobilenet", seconds=30.0, device=device, progress=notes)
    kept = Store(store).count()
    said = " ".join([str(caught.value), *notes.lines])
    assert f"{kept} kernels and 0 networks were measured and are kept in '{store}'" in said
    assert kept > 15
    again, _ = profiled(store, space="mobilenet", seconds=10.0)
    assert Store(store).count() == kept + again["measured_now"]


def test_two_runs_at_once_share_the_work(model: Path, tmp_path: Path, fits: Fits) -> None:
    """Two threads profile one model into one store: nothing is lost, and both know all of it."""
    del fits
    store = tmp_path / "s.sqlite"
    found: list[dict[str, Any]] = []
    runs = [
        threading.Thread(target=lambda: found.append(profiled(store, model)[0])) for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(found) == 2
    assert found[0]["kernels"] == found[1]["kernels"] == Store(store).count()
    assert found[0]["sum_of_kernels_s"] == found[1]["sum_of_kernels_s"]


def test_kernels_that_fail_are_named(model: Path, tmp_path: Path, fits: Fits) -> None:
    """A kernel that cannot be timed is part of the answer, with the reason."""
    del fits

    class Failing(TimedDevice):
        def time_kernels(self, *arguments: Any, **options: Any) -> Any:
            for kernel, outcome in super().time_kernels(*arguments, **options):
                bad = kernel.op == "dense" and kernel.precision == "int8"
                yield kernel, Failed(reason="no answer within 30 s") if bad else outcome

    found, _ = profiled(tmp_path / "s.sqlite", model, device=Failing(Clock()))
    assert found["failed"] == [{"kernel": "dense", "reason": "no answer within 30 s"}]
    assert found["sum_of_kernels_s"]["int8"] is None  # infinity is no JSON
    assert found["sum_of_kernels_s"]["fp32"] < 1
    assert [each["failure"] for each in found["networks"]] == [None, "no answer within 30 s"]


def test_of_a_folder_what_can_be_read_is_profiled(model: Path, tmp_path: Path, fits: Fits) -> None:
    """A broken file is named and left out; the others are measured, each with its sum."""
    del fits
    folder, notes = tmp_path / "models", Notes()
    folder.mkdir()
    for name in ("one", "two"):
        shutil.copy(model, folder / f"{name}.onnx")
    (folder / "broken.onnx").write_bytes(b"not a model")
    (folder / "notes.txt").write_text("not for profiling")
    found, _ = profiled(tmp_path / "s.sqlite", folder, progress=notes)
    assert [each["model"] for each in found["models"]] == ["one", "two"]
    assert found["models"][0]["sum_of_kernels_s"] == found["models"][1]["sum_of_kernels_s"]
    assert [Path(each["model"]).name for each in found["skipped"]] == ["broken.onnx"]
    assert any("broken.onnx" in line for line in notes.lines)


def test_a_folder_without_a_usable_model_is_refused(tmp_path: Path) -> None:
    """Empty, or with nothing that can be read: an error before anything is measured."""
    with pytest.raises(UsageError, match=r"has no \.onnx file"):
        profiled(tmp_path / "s.sqlite", tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"no model in folder .* can be used: .*broken\.onnx"):
        profiled(tmp_path / "s.sqlite", tmp_path)
    assert not (tmp_path / "s.sqlite").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"space": "resnet"}, "no search space 'resnet'. Choose one of: mobilenet"),
        ({"space": "mobilenet", "seconds": 0.0}, "time limit must be more than 0 s"),
        ({"space": "mobilenet", "seconds": float("nan")}, "time limit must be more than 0 s"),
        ({"space": "mobilenet", "until": 2.0}, "between 0 % and 100 %, got 200%"),
        ({"space": "mobilenet", "until": 0.0}, "between 0 % and 100 %"),
        ({}, "name either a model"),
    ],
)
def test_limits_without_sense_are_refused(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    """Before anything is drawn or measured, with what is allowed."""
    with pytest.raises(UsageError, match=said):
        profiled(tmp_path / "s.sqlite", **options)
    assert not (tmp_path / "s.sqlite").exists()


def test_a_device_elsewhere_cannot_be_profiled(model: Path, tmp_path: Path) -> None:
    """A target that is not this machine is refused before anything is stored."""
    store = tmp_path / "store.sqlite"
    assert find_target("rpi5", threads=1).reach != "local"
    with pytest.raises(TargetError, match="'rpi5' cannot be reached from here"):
        profiled(store, model, target="rpi5")
    assert not store.exists()
