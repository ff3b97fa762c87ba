"""Devices that TVM's own tracker lends: shared sweeps, devices that drop out, and wrong keys."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from device_servers import DeviceServerProcess, served, wait_until
from remote_sweeps import Notes, runner, sweep

from millifit.errors import TargetError
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import Credentials, make_token
from millifit.targets.remote.remote_device import RemoteDevice
from millifit.targets.remote.tracker import Tracker, TrackerError
from millifit.targets.timing import Samples

KEY = "rpi4"


@pytest.fixture(scope="module")
def tracker() -> Iterator[DeviceAddress]:
    """TVM's tracker, as people start it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--port-end", str(port + 1)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: _answers(port), 60)
        yield DeviceAddress(host="127.0.0.1", port=port, key=KEY)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        Tracker("127.0.0.1", port).close()
    except TrackerError:
        return False
    return True


def free(tracker: DeviceAddress) -> tuple[int, int]:
    with Tracker(tracker.host, tracker.port) as asked:
        return asked.free(KEY)


@pytest.fixture
def two(
    tracker: DeviceAddress, tmp_path: Path
) -> Iterator[tuple[DeviceServerProcess, DeviceServerProcess]]:
    """Two devices of one kind, with one token."""
    token = make_token(tmp_path / "token")
    with ExitStack() as stack:
        made = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "token").touch(0o600)
            (tmp_path / name / "token").write_text(token)
            options = ("--tracker", f"{tracker.host}:{tracker.port}", "--key", KEY)
            made.append(stack.enter_context(served(tmp_path / name, *options)))
        wait_until(lambda: free(tracker) == (2, 2), 20)
        yield made[0], made[1]
    wait_until(lambda: free(tracker) == (0, 0), 20)


def sessions(device: DeviceServerProcess) -> int:
    return device.log.count(" begins")


def test_devices_of_one_kind_share_a_sweep(
    tracker: DeviceAddress, two: tuple[DeviceServerProcess, DeviceServerProcess]
) -> None:
    """Each has a session and times kernels, and both are free again afterwards."""
    with runner(tracker, two[0].credentials) as remote:
        found = sweep(remote, ["slow"] * 12)
        assert free(tracker) == (0, 2)
    assert len(found) == 12
    assert all(isinstance(each, Samples) for each in found.values())
    assert [sessions(device) for device in two] == [1, 1]
    wait_until(lambda: free(tracker) == (2, 2), 20)


def test_a_device_that_drops_out_leaves_its_kernels_to_the_other(
    tracker: DeviceAddress, two: tuple[DeviceServerProcess, DeviceServerProcess]
) -> None:
    """It is noted, nothing is lost, and when it is back it is used again."""
    notes = Notes()
    failing = threading.Timer(0.0, two[0].power_off)
    with runner(tracker, two[0].credentials, progress=notes) as remote:
        sweep(remote, ["relu"] * 2)
        failing.start()
        found = sweep(remote, ["slow"] * 12)
        failing.join()
        two[0].start()
        wait_until(lambda: sessions(two[0]) == 2, 20)
        sweep(remote, ["slow"] * 4)
    assert len(found) == 12
    assert all(isinstance(each, Samples) for each in found.values())
    assert any("was lost" in said and said.endswith("Looking for it again.") for said in notes.said)


def test_who_comes_without_the_tracker_is_no_surprise(
    tracker: DeviceAddress, two: tuple[DeviceServerProcess, DeviceServerProcess]
) -> None:
    """A device that has a session is not lent meanwhile, however the session came about."""
    direct = RemoteDevice(two[0].address, two[0].credentials)
    wait_until(lambda: free(tracker) == (1, 2), 20)
    direct.close()
    wait_until(lambda: free(tracker) == (2, 2), 20)


def test_a_device_that_was_lent_and_not_used_is_offered_again(
    tracker: DeviceAddress, two: tuple[DeviceServerProcess, DeviceServerProcess]
) -> None:
    """Whoever asked for it may have died."""
    with Tracker(tracker.host, tracker.port) as asked:
        offer = asked.request(KEY)
        assert offer.port in {device.port for device in two}
        assert free(tracker) == (1, 2)
    wait_until(lambda: free(tracker) == (2, 2), 30)


def test_a_key_that_nobody_has_is_said(tracker: DeviceAddress) -> None:
    """With the command that registers a device."""
    wrong = DeviceAddress(host=tracker.host, port=tracker.port, key="rpi9")
    with (
        runner(wrong, Credentials(token="a" * 16)) as remote,
        pytest.raises(TargetError, match=r"knows no device of key 'rpi9'\. Start `millifit device"),
    ):
        remote.facts()


def test_no_tracker_is_said() -> None:
    """With the command that starts one."""
    nobody = DeviceAddress(host="127.0.0.1", port=1, key=KEY)
    with (
        runner(nobody, Credentials(token="a" * 16)) as remote,
        pytest.raises(TargetError, match=r"does not answer: .*python -m tvm\.exec\.rpc_tracker"),
    ):
        remote.facts()
