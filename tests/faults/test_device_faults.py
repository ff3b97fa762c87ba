"""Devices that will not do, uploads that are none, and bundles that somebody changed.

Each is a clear error with what to do; what was measured before stays, and nothing is left behind.
"""

import shutil
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_servers import DeviceServerProcess, served
from remote_bundles import inputs, small_bundle
from remote_sweeps import QUICK, kernel, runner, stored, sweep

from millifit.errors import BundleError, MeasurementError, TargetError
from millifit.profiler.store import Store
from millifit.targets.catalog import find_target
from millifit.targets.manifest import manifest_text, read_manifest, with_hashes
from millifit.targets.remote import handshake
from millifit.targets.remote.client import open_link
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.link import LinkLostError
from millifit.targets.remote.remote_device import RemoteDevice
from millifit.targets.remote.remote_networks import RemoteNetworks
from millifit.targets.remote.remote_runner import RemoteRunner
from millifit.targets.runner.network_timing import Contender, NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples

TURNS = NetworkTimingPolicy(turn_s=0.002, warmup_s=0.0, min_rounds=2, max_rounds=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine."""
    return small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def test_a_device_of_another_architecture_is_refused(
    device: DeviceServerProcess, store: Store
) -> None:
    """Before anything is compiled, with the reason and where to look for the right target."""
    board = replace(find_target("rpi4"), reach="remote")
    with (
        RemoteRunner(device.address, board, credentials=device.credentials) as remote,
        pytest.raises(
            TargetError,
            match=r"target 'rpi4' does not run on .*: it is for aarch64, this device is .*list`",
        ),
    ):
        next(remote.time_kernels([kernel("relu")], board, QUICK, seed=0))
    assert stored(store) == []


def test_a_device_without_the_runtime_says_so(tmp_path: Path, store: Store) -> None:
    """Its server runs all the same, and the message has the command that installs it."""
    blocked = tmp_path / "blocked" / "tvm"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('libtvm_runtime.so is missing')")
    with served(tmp_path / "device", PYTHONPATH=str(blocked.parent)) as device:
        assert "no TVM runtime: ImportError: libtvm_runtime.so is missing" in device.log
        with (
            runner(device.address, device.credentials) as remote,
            pytest.raises(TargetError, match=r"there is no TVM runtime on the device.*pip install"),
        ):
            sweep(remote, ["relu"], store)
        device.wait_until_idle()
    assert stored(store) == []


def test_a_wrong_token_is_refused_and_nothing_is_lost(
    device: DeviceServerProcess, store: Store
) -> None:
    """What was measured with the right one stays; nothing reaches the device with the wrong one."""
    with runner(device.address, device.credentials) as remote:
        sweep(remote, ["relu"], store)
    device.wait_until_idle()
    with (
        runner(device.address, Credentials(token="another device's token".replace(" ", "-"))) as no,
        pytest.raises(TargetError, match="Copy the device's token file again"),
    ):
        sweep(no, ["relu", "long"], store)
    assert stored(store) == ["relu"]
    assert device.log.count(" begins") == 1


def test_a_device_that_does_not_know_the_token_gets_no_code(tmp_path: Path) -> None:
    """Somebody else listens where the device was."""
    with served(tmp_path / "one") as one, served(tmp_path / "two") as two:
        with (
            runner(one.address, two.credentials) as remote,
            pytest.raises(TargetError, match="token"),
        ):
            remote.facts()
        assert one.sessions() == []


@pytest.mark.parametrize("garbage", [b"\x00" * 5000, b"\xff" * 5000, b"D\x04\x00\x00\x00abcd" * 9])
def test_garbage_in_place_of_a_session_ends_it_alone(
    device: DeviceServerProcess, store: Store, garbage: bytes
) -> None:
    """Somebody with the token, and a program that is none of ours: the device stays usable."""
    link = open_link(device.address, None, timeout_s=10)
    handshake.ask(
        link, device.credentials.token, want="session", match=None, deadline_s=_soon()
    )  # fmt: skip
    with suppress(LinkLostError):
        link.send(b"D", garbage[:64])
        link.settle(1.0)
        with suppress(OSError):
            socket.socket(fileno=socket.dup(link.fileno())).sendall(garbage)
        while True:
            link.next(_soon())
    link.close()
    device.wait_until_idle()
    with runner(device.address, device.credentials) as remote:
        assert isinstance(sweep(remote, ["relu"], store)["relu 0"], Samples)


def _soon() -> float:
    return time.monotonic() + 5.0


def test_a_library_that_is_none_is_recorded_as_failed(
    device: DeviceServerProcess, store: Store, tmp_path: Path
) -> None:
    """A compiler that writes nonsense costs one kernel; the loader's reason is kept."""
    compiler = tmp_path / "compiler.py"
    source = Path(__file__).parent.parent / "fake_compiler.py"
    compiler.write_text(source.read_text().replace("library(op) + bytes", "b'ELF?' + bytes"))
    options = {"compiler": (sys.executable, str(compiler))}
    with runner(device.address, device.credentials, **options) as remote:
        found = sweep(remote, ["relu"], store)["relu 0"]
    assert found == Failed(reason="MeasurementError: its library does not load: file too short")
    assert stored(store) == []


def test_an_oversized_upload_is_refused_with_the_option(tmp_path: Path, store: Store) -> None:
    """The kernel's library is larger than the device takes; the others are measured."""
    with served(tmp_path / "device", "--max-upload", "2") as device:
        with runner(device.address, device.credentials) as remote:
            sweep(remote, ["relu"], store)
            with pytest.raises(TargetError, match="Start its server with a larger --max-upload"):
                sweep(remote, ["relu", "large"], store)
        device.wait_until_idle()
    assert stored(store) == ["relu"]


@pytest.mark.parametrize("name", ["library.so", "weights.bin", "golden.npz", "manifest.json"])
def test_a_tampered_bundle_does_not_travel(
    device: DeviceServerProcess, bundle: Path, name: str
) -> None:
    """The file that was changed is named, and nothing of the bundle was uploaded."""
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with runner(device.address, device.credentials) as remote:
        remote.facts()
        with pytest.raises(BundleError, match=r"was changed|is damaged"):
            remote.outputs(bundle, inputs(1), on_sample=lambda: None)
        with pytest.raises(BundleError, match=r"was changed|is damaged"):
            remote.time_networks(
                {"net": _contender(bundle, bundle.parent)}, policy=TURNS, on_round=lambda _: None
            )
    device.wait_until_idle()


def test_a_bundle_that_is_changed_on_its_way_does_not_run(
    device: DeviceServerProcess, bundle: Path, tmp_path: Path
) -> None:
    """The device checks every file itself before it loads one."""
    remote = RemoteDevice(device.address, device.credentials)
    names = ["manifest.json", *read_manifest(bundle).files]
    (bundle / "library.so").write_bytes((bundle / "library.so").read_bytes() + b"x")
    name = remote.assemble({each: bundle / each for each in names})
    np.save(tmp_path / "x.npy", inputs(1))
    with pytest.raises(MeasurementError, match=r"library\.so does not match its sha256"):
        remote.run(
            "outputs", {"do": "outputs"}, timeout_s=30, threads=1, bundle=name,
            files={"input_path": tmp_path / "x.npy"},
        )  # fmt: skip
    remote.close()


def test_a_bundle_for_another_processor_does_not_run(
    device: DeviceServerProcess, bundle: Path, tmp_path: Path
) -> None:
    """Even where the workstation took it for the device's: the device says what it is."""
    manifest = replace(read_manifest(bundle), target=find_target("rpi4"))
    (bundle / "manifest.json").write_text(manifest_text(with_hashes(manifest, bundle)))
    remote = RemoteDevice(device.address, device.credentials)
    with pytest.raises(MeasurementError, match=r"it is for aarch64, this device is"):
        RemoteNetworks(remote, tmp_path).outputs(bundle, inputs(1), on_sample=lambda: None)
    remote.close()


def _contender(bundle: Path, folder: Path) -> Contender:
    np.save(folder / "input.npy", inputs(1))
    return Contender(kind="bundle", path=bundle, input_path=folder / "input.npy")
