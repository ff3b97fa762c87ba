"""Latency models learnt from a store, kept in a file, and refused where they do not belong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from device_with_time import paper_bundle
from roofline import RooflineTimer

from millifit.errors import DataError, MeasurementError, UsageError
from millifit.latency_models.archive import read_state, write_state
from millifit.pipeline import learn, predict, profile


@pytest.fixture
def learnt(model: Path, tmp_path: Path) -> Path:
    """Models of a profiled network, in a file."""
    store = tmp_path / "store.sqlite"
    profile(str(model), store=str(store), timer=RooflineTimer(), build=paper_bundle)
    learn(out=str(tmp_path / "board.npz"), store=str(store))
    return tmp_path / "board.npz"


def test_a_saved_model_predicts_like_the_store(model: Path, learnt: Path) -> None:
    """Every kernel and the whole network, to the last digit; the store is no longer needed."""
    by_store = predict(str(model), store=str(learnt.with_name("store.sqlite")))
    by_file = predict(str(model), latency_model=str(learnt), store="nowhere.sqlite")
    assert by_file["kernels"] == by_store["kernels"]
    assert by_file["latency_s"] == by_store["latency_s"]


def test_learning_says_how_good_it_is(model: Path, tmp_path: Path) -> None:
    """A row for each operator and precision with enough kernels, from kernels held out."""
    store = tmp_path / "store.sqlite"
    profile(str(model), store=str(store), timer=RooflineTimer(), build=paper_bundle)
    found = learn(out=str(tmp_path / "board.npz"), store=str(store))
    assert found["kernels_measured"] > 3
    for row in found["families"]:
        assert row["held_out"] <= row["kernels"]
        assert 0 <= row["within_5"] <= row["within_10"] <= 1
    assert found["networks"] is None  # too few were measured for fifths of them


def test_the_same_store_gives_the_same_file(model: Path, learnt: Path, tmp_path: Path) -> None:
    """Arrays and facts, bit by bit: nothing depends on time or on the order of hashes."""
    learn(out=str(tmp_path / "again.npz"), store=str(learnt.with_name("store.sqlite")))
    first, again = np.load(learnt), np.load(tmp_path / "again.npz")
    assert first.files == again.files
    for name in first.files:
        np.testing.assert_array_equal(first[name], again[name])


def test_nothing_measured_is_nothing_learnt(tmp_path: Path) -> None:
    """And no file is left behind."""
    with pytest.raises(MeasurementError, match="nothing was measured on target 'local'"):
        learn(out=str(tmp_path / "board.npz"), store=str(tmp_path / "empty.sqlite"))
    assert not (tmp_path / "board.npz").exists()


def test_a_model_of_another_target_is_refused(model: Path, learnt: Path) -> None:
    """The message names both targets."""
    with pytest.raises(UsageError, match=r"is of target 'local' with 1 thread.*not of 'rpi4'"):
        predict(str(model), target="rpi4", latency_model=str(learnt))
    with pytest.raises(UsageError, match=r"with 1 thread\(s\), not of 'local' with 2"):
        predict(str(model), threads=2, latency_model=str(learnt))


def test_a_model_of_other_code_is_refused(model: Path, learnt: Path) -> None:
    """Other schedules make other kernels: their prices say nothing of these."""
    state = read_state(learnt)
    write_state(dataclasses.replace(state, facts={**state.facts, "versions": "older"}), learnt)
    with pytest.raises(UsageError, match="learnt from kernels of other code"):
        predict(str(model), latency_model=str(learnt))


@pytest.mark.parametrize("damage", ["truncated", "foreign", "part"])
def test_a_damaged_file_is_named(model: Path, learnt: Path, damage: str) -> None:
    """Half of a file, another file, or one whose parts are missing: a DataError with its path."""
    if damage == "truncated":
        learnt.write_bytes(learnt.read_bytes()[:1000])
    elif damage == "foreign":
        learnt.write_text("kernel,seconds\n")
    else:
        write_state(dataclasses.replace(read_state(learnt), parts={}), learnt)
    with pytest.raises(DataError, match=r"board\.npz"):
        predict(str(model), latency_model=str(learnt))


def test_an_absent_file_is_a_mistake_of_the_command(model: Path, tmp_path: Path) -> None:
    """With what makes one."""
    with pytest.raises(UsageError, match=r"there is no file .*profile learn --out"):
        predict(str(model), latency_model=str(tmp_path / "no.npz"))
