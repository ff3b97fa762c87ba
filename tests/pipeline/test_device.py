"""Profiling a device and predicting from the profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from roofline import RooflineTimer, kernel_s

from millifit.errors import MeasurementError, TargetError
from millifit.pipeline import predict, profile
from millifit.profiler.store import Store
from millifit.targets.timing import Failed


def measured(model: Path, store: Path) -> tuple[dict[str, Any], RooflineTimer]:
    timer = RooflineTimer()
    return profile(str(model), store=str(store), timer=timer), timer


def test_profile_measures_both_precisions_once(model: Path, tmp_path: Path) -> None:
    """All kernels in fp32 and int8 are stored; the same call again measures nothing."""
    store = tmp_path / "store.sqlite"
    found, timer = measured(model, store)
    assert {kernel.precision for kernel in timer.kernels} == {"fp32", "int8"}
    assert found["kernels"] == len(timer.kernels) == Store(store).count()
    assert found["failed"] == []
    assert found["without_rule"] == []
    assert (found["model"], found["target"], found["threads"]) == ("tiny", "local", 1)
    assert found["sum_of_kernels_s"]["int8"] < found["sum_of_kernels_s"]["fp32"]
    again, idle = measured(model, store)
    assert idle.kernels == []
    assert again["sum_of_kernels_s"] == found["sum_of_kernels_s"]


def test_prediction_adds_up_what_was_measured(model: Path, tmp_path: Path) -> None:
    """A profiled model is predicted from its own kernels, exactly, with an interval."""
    store = tmp_path / "store.sqlite"
    found, timer = measured(model, store)
    said = predict(str(model), store=str(store))
    assert said["share"] == {"measured": 1.0, "predicted": 0.0}
    total = sum(row["seconds"] for row in said["kernels"])
    assert total == pytest.approx(found["sum_of_kernels_s"]["fp32"])
    interval = said["latency_s"]
    assert interval["low"] < total < interval["high"]
    assert interval["median"] == pytest.approx(total, rel=0.2)
    by_name = {row["name"]: row for row in said["kernels"]}
    first = next(k for k in timer.kernels if k.op == "conv2d" and k.precision == "fp32")
    assert by_name["node_conv2d"]["seconds"] == pytest.approx(kernel_s(first))
    assert {row["origin"] for row in said["kernels"]} == {"measured"}


def test_another_model_is_predicted_from_like_kernels(
    model: Path, finished: Path, tmp_path: Path
) -> None:
    """Kernels that were not measured are predicted, and the answer says how much of it is."""
    store = tmp_path / "store.sqlite"
    measured(model, store)
    said = predict(str(finished / "run" / "compressed.onnx"), store=str(store))
    assert 0 < said["share"]["measured"] < 1
    assert said["share"]["measured"] + said["share"]["predicted"] == pytest.approx(1)
    assert {row["origin"] for row in said["kernels"]} == {"measured", "predicted"}
    for row in said["kernels"]:
        assert 0 < row["low_s"] <= row["seconds"] <= row["high_s"]


def test_prediction_without_a_profile_says_how_to_get_one(model: Path, tmp_path: Path) -> None:
    """A store without measurements of the target is a MeasurementError, not a guess."""
    store = tmp_path / "store.sqlite"
    with pytest.raises(MeasurementError, match="nothing was measured on target 'local' with 1"):
        predict(str(model), store=str(store))
    measured(model, store)
    with pytest.raises(MeasurementError, match="nothing was measured on target 'rpi4'"):
        predict(str(model), target="rpi4", store=str(store))


def test_kernels_that_fail_are_named(model: Path, tmp_path: Path) -> None:
    """A kernel that cannot be timed is part of the answer, with the reason."""

    class Failing(RooflineTimer):
        def time_kernels(self, *arguments: Any, **options: Any) -> Any:
            for kernel, outcome in super().time_kernels(*arguments, **options):
                bad = kernel.op == "dense" and kernel.precision == "int8"
                yield kernel, Failed(reason="killed by signal 11") if bad else outcome

    found = profile(str(model), store=str(tmp_path / "store.sqlite"), timer=Failing())
    assert found["failed"] == [{"kernel": "dense", "reason": "killed by signal 11"}]
    assert found["sum_of_kernels_s"]["int8"] is None  # infinity is no JSON
    assert found["sum_of_kernels_s"]["fp32"] < 1


def test_device_elsewhere_cannot_be_profiled(model: Path, tmp_path: Path) -> None:
    """A target that is not this machine is refused before anything is stored."""
    store = tmp_path / "store.sqlite"
    with pytest.raises(TargetError, match="'rpi5' cannot be reached from here"):
        profile(str(model), target="rpi5", store=str(store), timer=RooflineTimer())
    assert not store.exists()
