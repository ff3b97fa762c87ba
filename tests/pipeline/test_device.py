"""Predicting from a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from device_with_time import paper_bundle
from roofline import RooflineTimer, kernel_s

from millifit.errors import MeasurementError
from millifit.pipeline import predict, profile
from millifit.pipeline.waterfall import KINDS, warning


def measured(model: Path, store: Path) -> tuple[dict[str, Any], RooflineTimer]:
    timer = RooflineTimer()
    return profile(str(model), store=str(store), timer=timer, build=paper_bundle), timer


def test_prediction_adds_up_what_was_measured(model: Path, tmp_path: Path) -> None:
    """A profiled model is predicted from its own kernels, exactly, with an interval."""
    store = tmp_path / "store.sqlite"
    found, timer = measured(model, store)
    said = predict(str(model), store=str(store))
    assert said["share"] == dict.fromkeys(KINDS, 0.0) | {"measured": 1.0}
    assert said["warning"] is None
    total = sum(row["seconds"] for row in said["kernels"])
    assert said["sum_of_kernels_s"] == pytest.approx(total)
    assert said["kernels"][-1]["cumulated_s"] == pytest.approx(total)
    assert sum(row["share"] for row in said["kernels"]) == pytest.approx(1)
    assert total == pytest.approx(found["sum_of_kernels_s"]["fp32"])
    interval = said["latency_s"]
    whole = next(n["median_s"] for n in found["networks"] if n["name"] == said["model"])
    assert interval["median"] == pytest.approx(whole, rel=0.2)
    assert interval["low"] < interval["median"] < interval["high"]
    assert said["networks_measured"] == len(found["networks"])
    by_name = {row["name"]: row for row in said["kernels"]}
    timed_s = [kernel_s(k) for k in timer.kernels if k.op == "conv2d" and k.precision == "fp32"]
    assert by_name["node_conv2d"]["seconds"] in [pytest.approx(seconds) for seconds in timed_s]
    assert {row["origin"] for row in said["kernels"]} == {"measured"}


def test_another_model_is_predicted_from_like_kernels(
    model: Path, finished: Path, tmp_path: Path
) -> None:
    """Kernels that were not measured are predicted, and the answer says how much of it is."""
    store = tmp_path / "store.sqlite"
    measured(model, store)
    said = predict(str(finished / "run" / "compressed.onnx"), store=str(store))
    assert 0 < said["share"]["measured"] < 1
    assert sum(said["share"].values()) == pytest.approx(1)
    assert {row["origin"] for row in said["kernels"]} >= {"measured", "predicted"}
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


def test_much_guessing_is_said_plainly() -> None:
    """Up to a tenth of the time may be guessed; more is worth a sentence that says what to do."""
    shares = dict.fromkeys(KINDS, 0.0)
    assert warning(shares | {"measured": 0.9, "unknown": 0.05, "extrapolated": 0.05}) is None
    said = warning(shares | {"predicted": 0.7, "unknown": 0.2, "extrapolated": 0.1})
    assert said is not None
    assert said.startswith("30 % of the predicted time is of kernels unlike all that were measured")
