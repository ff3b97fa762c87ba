"""A real arm64 system, emulated: what is measured, fitted and verified on it from here."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from millifit import demo
from millifit.data import Dataset
from millifit.errors import BundleError, TargetError
from millifit.pipeline import compile_model, fit, profile, verify
from millifit.pipeline.reach import DeviceAccess
from millifit.profiler.store import Store
from millifit.profiler.sweep import measure
from millifit.progress import Silent
from millifit.recipe import Recipe
from millifit.search.spaces.mobilenet import MobileNetSpace
from millifit.targets.catalog import find_target
from millifit.targets.device_facts import why_not
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.network import TensorType
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.remote_device import device_facts
from millifit.targets.remote.remote_runner import RemoteRunner
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy
from tests.boards.board import Board
from tests.device_servers import wait_until

QUICK = TimingPolicy(limit_s=0.05)
CPU = "Cortex-A76 emulated by qemu"


@pytest.fixture
def kernels(model: Path, target: Target) -> list[Kernel]:
    """The kernels of the small network."""
    return list(lower(simplify(read_network(model)), target).kernels)


def test_the_board_is_what_its_target_says(board: Board, target: Target) -> None:
    """Architecture, instructions and runtime are the target's, and no other target's."""
    facts = device_facts(board.address, board.credentials)
    assert facts.machine == "aarch64"
    assert facts.cpu.startswith(CPU)
    assert facts.versions["apache-tvm"] == "0.27.0.post1"
    assert why_not(target, facts) is None
    assert "x86_64, this device is aarch64" in str(why_not(find_target("x86-avx2"), facts))
    assert "lacks" in str(why_not(find_target("graviton3"), facts))


def test_a_space_is_profiled(
    board: Board, access: DeviceAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels in fp32 and int8 are measured; each keeps the board's environment, not this one's."""
    small = MobileNetSpace(resolutions=(32,), widths=("0.35",), kernels=(3,), expansions=(3,))
    monkeypatch.setattr("millifit.pipeline.profiling.find_space", lambda _: small)
    monkeypatch.setattr("millifit.pipeline.profile_subject._MOST_NETWORKS", 10)
    store = Store(tmp_path / "s.sqlite")
    found = profile(
        space="mobilenet",
        seconds=16,
        target="arm64-emulated",
        device=access,
        store=str(tmp_path / "s.sqlite"),
        clock=lambda: float(store.count()),  # a kernel a second, however slow the emulator is
    )
    assert found["device"]["emulated"]
    assert found["device"]["cpu"].startswith(CPU)
    assert found["failed"] == []
    assert found["measured_now"] >= 16
    stored = store.measurements(find_target("arm64-emulated").key)
    assert {m.environment["machine"] for m in stored} == {"aarch64"}
    assert {m.environment["emulated"] for m in stored} == {"yes"}
    assert {m.kernel.precision for m in stored} >= {"fp32", "int8"}


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The digits with forty of them to validate on: one takes the emulator a tenth of a second.

    The demo trains for three epochs, which is enough for 97 % of them.
    """
    torch.set_num_threads(1)
    whole = demo.digits_dataset(seed=0)
    few = dataclasses.replace(whole, validation=whole.validation.take(np.arange(40)))
    monkeypatch.setattr(demo, "digits_dataset", lambda seed: few)
    monkeypatch.setattr(demo, "train_digits_network", partial(demo.train_digits_network, epochs=3))
    return few


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of `fit` is kept for the tests after it."""
    return tmp_path_factory.mktemp("fitted")


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("digits")
def test_the_digits_network_is_fitted(access: DeviceAccess, fitted: Path) -> None:
    """fit --demo on the board keeps a relative budget, and says throughout that it is emulated."""
    result = fit(
        Recipe(
            demo=True,
            target="arm64-emulated",
            device=access.address,
            budget="60%",
            device_token_file=access.token_file,
            run=str(fitted / "run"),
            prune=False,
            trials=2,
            store=str(fitted / "store.sqlite"),
            max_drop=5.0,
        )
    )
    assert result["met"], result["problems"]
    assert result["device"] == {
        "cpu": result["environment"]["cpu"], "machine": "aarch64", "gpu": None,
        "reach": "remote", "emulated": True,
    }  # fmt: skip
    assert result["device"]["cpu"].startswith(CPU)
    assert result["reference"]["onnxruntime_fp32_s"] is None
    assert result["reference"]["missing"] == "only bundles run on the device"
    assert result["agreement"]["top1_equal"] >= 0.95
    assert result["ratio"]["high"] <= 0.6
    assert "Emulated device" in (fitted / "run" / "report.html").read_text()


def test_its_bundle_is_verified_on_the_board(
    access: DeviceAccess, fitted: Path, digits: Dataset, tmp_path: Path
) -> None:
    """The certificate: ONNX Runtime's golden output is given, and the run's accuracy again."""
    result = json.loads((fitted / "run" / "result.json").read_text())
    for name, part in {"val": digits.validation, "calib": digits.calibration}.items():
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    found = verify(
        fitted / "run" / "bundle", device=access, data=str(tmp_path),
        model=str(fitted / "run" / "compressed.onnx"),
    )  # fmt: skip
    assert found["device"]["emulated"]
    assert found["golden"]["made_by"] == "onnxruntime"
    assert found["golden_error"] <= found["golden"]["tolerance"]
    assert found["agreement"]["top1_equal"] >= 0.95
    assert found["accuracy"] == result["compressed"]["accuracy"]
    assert found["peak_memory_bytes"] > 10_000
    with pytest.raises(BundleError, match=r"cannot run here: it is for aarch64.*--device HOST"):
        verify(fitted / "run" / "bundle")


def test_a_bundle_changed_on_the_way_is_refused(
    access: DeviceAccess, model: Path, tmp_path: Path
) -> None:
    """One changed byte in the library, and nothing of it reaches the board."""
    compile_model(str(model), targets=["arm64-emulated"], out=tmp_path)
    assert verify(tmp_path / "arm64-emulated", device=access)["golden_error"] <= 1e-4
    library = tmp_path / "arm64-emulated" / "library.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    with pytest.raises(BundleError, match=r"library\.so does not match its"):
        verify(tmp_path / "arm64-emulated", device=access)


def test_a_board_that_reboots_in_a_sweep_loses_nothing(
    board: Board, target: Target, kernels: list[Kernel], tmp_path: Path
) -> None:
    """The power is cut after two kernels and comes back: all are measured in the same sweep."""
    store = Store(tmp_path / "s.sqlite")

    class Cut(Silent):
        @contextmanager
        def stage(self, title: str, total: int | None = None) -> Any:
            done = 0

            def advance(steps: int) -> None:
                nonlocal done
                done += steps
                if done == 2:
                    board.switch_off()
                    board.switch_on()

            yield advance

    with RemoteRunner(board.address, target, credentials=board.credentials) as patient:
        found = measure(
            kernels, target=target, store=store, timer=patient, policy=QUICK, progress=Cut()
        )
    assert {kernel: type(m.outcome) for kernel, m in found.items()} == dict.fromkeys(
        kernels, Samples
    )
    assert store.count() == len(kernels)


def test_a_board_that_stays_off_ends_a_sweep_which_goes_on_later(
    board: Board, target: Target, kernels: list[Kernel], tmp_path: Path
) -> None:
    """What was measured is kept; the error says what to check; the rest is measured afterwards."""
    store = Store(tmp_path / "s.sqlite")

    class Off(Silent):
        @contextmanager
        def stage(self, title: str, total: int | None = None) -> Any:
            yield lambda _: board.switch_off()

    sweep = partial(measure, kernels, target=target, store=store, policy=QUICK)
    with (
        RemoteRunner(board.address, target, credentials=board.credentials, patience_s=1) as timer,
        pytest.raises(TargetError, match=str(board.address)),
    ):
        sweep(timer=timer, progress=Off())
    kept = store.count()
    assert 1 <= kept < len(kernels)
    assert board.processes() == []
    board.switch_on()
    with RemoteRunner(board.address, target, credentials=board.credentials) as timer:
        found = sweep(timer=timer)
    assert store.count() == len(found) == len(kernels)


def test_a_kernel_that_does_not_end_is_a_failure(
    board: Board, target: Target, kernels: list[Kernel]
) -> None:
    """Its process is killed on the board at the deadline, and the next kernel is timed.

    Ten thousand million multiplications take the emulator a minute or more.
    """
    conv = next(kernel for kernel in kernels if kernel.op == "conv2d")
    image = TensorType(shape=(1, 512, 512, 64), dtype="float32")
    weight = TensorType(shape=(64, 3, 3, 64), dtype="float32")
    endless = dataclasses.replace(conv, inputs=(image, weight, *conv.inputs[2:]), output=image)
    with RemoteRunner(board.address, target, credentials=board.credentials, timeout_s=15) as runner:
        ((_, outcome),) = runner.time_kernels([endless], target, QUICK, seed=0)
        assert isinstance(outcome, Failed)
        assert "no answer within 15 s" in outcome.reason
        ((_, outcome),) = runner.time_kernels([conv], target, QUICK, seed=0)
        assert isinstance(outcome, Samples)


def test_a_wrong_token_opens_nothing(board: Board, target: Target) -> None:
    """The message says which file to copy; nothing is left of it on the board."""
    before = set(board.processes())
    other = Credentials(token="not-the-token-of-this-board")
    with (
        RemoteRunner(board.address, target, credentials=other) as stranger,
        pytest.raises(TargetError, match="token"),
    ):
        stranger.facts()
    wait_until(lambda: set(board.processes()) <= before, 30.0)


def test_a_target_that_the_board_is_not_is_refused(board: Board) -> None:
    """Nothing is measured under the name of another device."""
    with (
        RemoteRunner(
            board.address, find_target("graviton3"), credentials=board.credentials
        ) as runner,
        pytest.raises(TargetError, match=r"'graviton3' does not run on .* lacks"),
    ):
        runner.facts()


def test_switched_off_nothing_is_left(board: Board) -> None:
    """No process of the board outlives it, whoever was connected."""
    board.switch_off()
    assert board.processes() == []
