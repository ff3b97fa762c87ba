"""Timing on a device: the real thing next to the same on this machine; and what may go wrong."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_servers import DeviceServerProcess
from remote_bundles import inputs, small_bundle
from remote_sweeps import QUICK, Notes, kernel, runner, sweep

from millifit.errors import BundleError, MeasurementError, TargetError
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import first_outputs
from millifit.targets.network import TensorType
from millifit.targets.remote import remote_device
from millifit.targets.remote.remote_device import RemoteDevice
from millifit.targets.remote.remote_runner import RemoteRunner
from millifit.targets.runner.local_runner import LocalRunner
from millifit.targets.runner.network_timing import Contender, NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy

TURNS = NetworkTimingPolicy(turn_s=0.002, warmup_s=0.0, min_rounds=3, max_rounds=3)


def convolution(channels: int) -> Kernel:
    shape = TensorType(shape=(1, 16, 16, channels), dtype="float32")
    return Kernel(
        op="conv2d", inputs=(shape,), output=shape, precision="fp32",
        attributes=(
            ("dilations", (1, 1)), ("group", 1), ("kernel", (3, 3)), ("pads", (1, 1, 1, 1)),
            ("strides", (1, 1)),
        ),
        epilogue=("relu",),
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def remote(device: DeviceServerProcess) -> Iterator[RemoteRunner]:
    """A runner on the shared device; it leaves nothing there."""
    with runner(device.address, device.credentials) as made:
        yield made
    device.wait_until_idle()


def test_a_kernel_takes_there_what_it_takes_here(device: DeviceServerProcess) -> None:
    """The device is this machine, the code and the way of timing are the same, so the time is."""
    target, policy = find_target("local"), TimingPolicy(limit_s=0.2)
    kernels = [convolution(64)] * 3
    with (
        RemoteRunner(device.address, target, credentials=device.credentials) as there,
        LocalRunner() as here,
    ):
        medians = [
            min(
                outcome.median_s
                for _, outcome in timer.time_kernels(kernels, target, policy, seed=0)
                if isinstance(outcome, Samples)
            )
            for timer in (there, here)
        ]
    assert 0.5 < medians[0] / medians[1] < 2.0  # another process may take a core from one of them


def test_every_kernel_has_its_outcome(remote: RemoteRunner) -> None:
    """Samples, or the reason why there are none; one bad kernel costs nothing but itself."""
    found = sweep(remote, ["relu", "crash", "refuse", "leave", "relu", "large"])
    failed = {name: each.reason for name, each in found.items() if isinstance(each, Failed)}
    assert failed == {
        "crash 1": "killed by signal 11 (SIGSEGV)",
        "refuse 2": "CompileError: no rule for this shape",
        "leave 3": "ended with exit code 7",
    }
    assert set(found) == {"relu 0", "crash 1", "refuse 2", "leave 3", "relu 4", "large 5"}


def test_what_was_uploaded_is_not_sent_again(device: DeviceServerProcess, tmp_path: Path) -> None:
    """A session knows files by their content; one that had to make room is sent once more."""
    (tmp_path / "input.npy").write_bytes(b"content")
    remote = RemoteDevice(device.address, device.credentials)
    sent: list[int] = []
    child_ask = remote._child.ask

    def counting(do: str, **request: object) -> object:
        sent.append(1 if request["content"] else 0)
        return child_ask(do, **request)

    remote._child.ask = counting  # type: ignore[method-assign, assignment]
    for _ in range(2):
        remote.assemble({"input.npy": tmp_path / "input.npy"})
    assert sent == [1, 0, 0]
    digest = remote.put(tmp_path / "input.npy")
    remote.forget([])
    (device.sessions()[0] / "files" / digest).unlink()
    remote.assemble({"input.npy": tmp_path / "input.npy"})
    assert sent == [1, 0, 0, 0, 0, 1, 0]
    remote.close()
    device.wait_until_idle()


def test_networks_take_turns(remote: RemoteRunner, bundle: Path, tmp_path: Path) -> None:
    """Every contender has its rounds and its memory, as on this machine."""
    given = tmp_path / "input.npy"
    np.save(given, inputs(1))
    contender = Contender(kind="bundle", path=bundle, input_path=given)
    rounds: list[int] = []
    found = remote.time_networks(
        {"one": contender, "two": contender}, policy=TURNS, on_round=rounds.append
    )
    assert rounds == [1, 2, 3]
    for each in found.values():
        assert len(each.round_medians.run_s) == 3
        assert 0 < each.samples.median_s < 0.1
        assert each.process_peak_bytes > 1 << 20


def test_outputs_are_computed_on_the_device(remote: RemoteRunner, bundle: Path) -> None:
    """Bit for bit what this machine computes with the same bundle, in several batches."""
    x = inputs(600)
    told: list[int] = []
    made = remote.outputs(bundle, x, on_sample=lambda: told.append(1))
    np.testing.assert_array_equal(made, first_outputs(bundle, x, on_sample=lambda: None))
    assert len(told) == 600


def test_the_environment_is_the_devices(device: DeviceServerProcess) -> None:
    """An emulated one says so, because its times mean nothing."""
    target = replace(find_target("local"), emulated=True)
    with RemoteRunner(device.address, target, credentials=device.credentials) as remote:
        found = remote.environment()
    assert found["emulated"] == "yes"
    assert {"cpu", "governor", "temperature_c", "kernel", "apache-tvm"} <= found.keys()
    device.wait_until_idle()


def test_only_bundles_run_on_devices(remote: RemoteRunner, bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime is not there; the contender is named."""
    wrong = Contender(kind="onnxruntime", path=bundle, input_path=tmp_path)
    with pytest.raises(MeasurementError, match="'fast' is to be run by onnxruntime; devices over"):
        remote.time_networks({"fast": wrong}, policy=TURNS, on_round=lambda _: None)
    assert remote.contenders == {"bundle"}


def test_a_bundle_that_cannot_run_is_named(
    remote: RemoteRunner, bundle: Path, tmp_path: Path
) -> None:
    """By the name and path that it has here, not by those on the device."""
    given = tmp_path / "input.npy"
    np.save(given, inputs(2))
    contender = Contender(kind="bundle", path=bundle, input_path=given)
    with pytest.raises(MeasurementError, match=rf"'net' \(bundle at '{bundle}'\) could not be t"):
        remote.time_networks({"net": contender}, policy=TURNS, on_round=lambda _: None)
    with pytest.raises(BundleError, match="is no bundle"):
        remote.outputs(tmp_path, inputs(1), on_sample=lambda: None)
    assert remote.outputs(bundle, inputs(1), on_sample=lambda: None).shape == (1, 8)


def test_who_waits_is_told_for_whom(device: DeviceServerProcess) -> None:
    """A device that is busy is waited for, and the sweep goes on when it is free."""
    device.wait_until_idle()
    other = RemoteDevice(device.address, device.credentials)
    notes = Notes()
    with runner(device.address, device.credentials, progress=notes) as remote:
        timed = remote.time_kernels([kernel("relu")], find_target("local"), QUICK, seed=0)

        def let_go(text: str) -> None:
            notes.said.append(text)
            other.close()

        notes.note = let_go  # type: ignore[method-assign]
        assert isinstance(next(timed)[1], Samples)
    assert len(notes.said) == 1
    assert notes.said[0].startswith(f"Waiting: {device.address} is busy: a session from 127.0.0.1")
    device.wait_until_idle()


def test_a_sweep_that_is_left_ends_at_once(device: DeviceServerProcess) -> None:
    """Whoever stops early does not wait for a kernel that hangs; nothing of it is left."""
    begun_s = time.monotonic()
    with runner(device.address, device.credentials, timeout_s=60.0) as remote:
        kernels = [kernel("relu"), kernel("late hang", 9), kernel("late hang", 10)]
        timed = remote.time_kernels(kernels, find_target("local"), QUICK, seed=0)
        assert next(timed)[0].op == "relu"
        timed.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun_s < 25
    device.wait_until_idle()


def test_a_device_that_is_not_asked_is_given_back_and_taken_again(
    device: DeviceServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a network is trained, others may have the board; nobody notices."""
    monkeypatch.setattr(remote_device, "_IDLE_S", 0.3)
    notes = Notes()
    with runner(device.address, device.credentials, progress=notes) as remote:
        sweep(remote, ["relu"])
        device.wait_until_idle()
        assert isinstance(sweep(remote, ["relu"])["relu 0"], Samples)
    assert notes.said == []
    device.wait_until_idle()


def test_nobody_there_is_said_at_once(device: DeviceServerProcess) -> None:
    """With what to check; nothing is retried where nothing was ever there."""
    begun_s = time.monotonic()
    nobody = replace(device.address, port=1)
    with (
        runner(nobody, device.credentials) as remote,
        pytest.raises(TargetError, match=r"no device answers at 127\.0\.0\.1:1: .* Check that"),
    ):
        remote.facts()
    assert time.monotonic() - begun_s < 10
