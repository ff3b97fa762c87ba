"""What goes wrong in the middle of a sweep: the wire, the power, a kernel. No measurement is lost.

Every test fills a store as `millifit profile` does, and looks at what is in it afterwards.
"""

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from cutting_proxy import CuttingProxy
from device_servers import DeviceServerProcess
from remote_sweeps import Notes, runner, stored, sweep

from millifit.errors import TargetError
from millifit.profiler.store import Store
from millifit.targets.timing import Failed, Samples


@pytest.fixture
def wire(device: DeviceServerProcess) -> Iterator[CuttingProxy]:
    """A wire to the device that can be cut."""
    proxy = CuttingProxy(device.address)
    yield proxy
    proxy.close()


def lost_and_found(notes: Notes) -> list[str]:
    return [said for said in notes.said if said.endswith("Looking for it again.")]


def test_a_wire_cut_in_an_upload_costs_nothing(
    device: DeviceServerProcess, wire: CuttingProxy, store: Store, notes: Notes
) -> None:
    """The kernel whose library was on its way is sent again; it is not recorded as failed."""
    with runner(wire.address, device.credentials, progress=notes) as remote:
        sweep(remote, ["relu"], store)
        wire.cut_after(1 << 20)  # the library of "large" has three megabytes
        found = sweep(remote, ["relu", "large", "relu"], store)
    assert wire.cuts == 1
    assert all(isinstance(each, Samples) for each in found.values())
    assert stored(store) == ["large", "relu", "relu"]
    assert len(lost_and_found(notes)) == 1
    assert "was lost" in lost_and_found(notes)[0]


def test_a_wire_cut_in_a_timing_costs_nothing(
    device: DeviceServerProcess, wire: CuttingProxy, store: Store, notes: Notes
) -> None:
    """The kernel that was being timed is timed again, in another session."""
    with runner(wire.address, device.credentials, progress=notes) as remote:
        sweep(remote, ["relu"], store)
        cutting = threading.Timer(0.3, wire.cut)
        cutting.start()
        found = sweep(remote, ["relu", *["long"] * 4], store)
        cutting.join()
    assert all(isinstance(each, Samples) for each in found.values())
    assert stored(store) == ["long"] * 4 + ["relu"]
    assert len(lost_and_found(notes)) == 1


def test_a_wire_that_is_cut_again_and_again_ends_the_sweep(
    device: DeviceServerProcess, wire: CuttingProxy, store: Store
) -> None:
    """With an error that says so; no kernel is blamed, and what was measured stays."""
    with runner(wire.address, device.credentials) as remote:
        sweep(remote, ["relu"], store)
        done = threading.Event()

        def cut_always() -> None:
            while not done.wait(0.2):
                wire.cut()

        cutting = threading.Thread(target=cut_always)
        cutting.start()
        try:
            with pytest.raises(TargetError, match="third time in a row"):
                sweep(remote, ["relu", "longest"], store)
        finally:
            done.set()
            cutting.join()
        assert stored(store) == ["relu"]
        assert len(sweep(remote, ["relu", "long"], store)) == 2  # the same command continues


def test_a_device_that_starts_again_goes_on(
    device: DeviceServerProcess, store: Store, notes: Notes
) -> None:
    """A board that was rebooted in the middle: every process of it killed, and started again."""
    with runner(device.address, device.credentials, progress=notes) as remote:
        sweep(remote, ["relu"], store)

        def reboot() -> None:
            device.power_off()
            time.sleep(1.0)
            device.start()

        rebooting = threading.Timer(0.3, reboot)
        rebooting.start()
        found = sweep(remote, ["relu", *["long"] * 4], store)
        rebooting.join()
    assert all(isinstance(each, Samples) for each in found.values())
    assert stored(store) == ["long"] * 4 + ["relu"]
    assert len(lost_and_found(notes)) == 1
    assert len(device.folders()) == 1  # the session's folder of before went when it started


def test_a_device_that_stays_away_ends_the_sweep(device: DeviceServerProcess, store: Store) -> None:
    """After the patience that was asked for; the same command continues later."""
    with runner(device.address, device.credentials, patience_s=1.5) as remote:
        sweep(remote, ["relu"], store)
        device.power_off()
        begun_s = time.monotonic()
        with pytest.raises(TargetError, match=r"no device answers at .* Check that"):
            sweep(remote, ["relu", "long"], store)
        assert time.monotonic() - begun_s < 15
    assert stored(store) == ["relu"]
    device.start()
    with runner(device.address, device.credentials) as remote:
        assert isinstance(sweep(remote, ["relu", "long"], store)["long 1"], Samples)


@pytest.mark.parametrize("op", ["hang", "spin"])
def test_a_kernel_that_hangs_is_recorded_as_failed(
    device: DeviceServerProcess, store: Store, notes: Notes, op: str
) -> None:
    """Asleep or busy, it is given up after its time; the session goes on with the others."""
    with runner(device.address, device.credentials, timeout_s=1.5, progress=notes) as remote:
        found = sweep(remote, ["relu", op, "relu"], store)
        assert len(device.sessions()) == 1
    assert found[f"{op} 1"] == Failed(reason="no answer within 1.5 s")
    assert stored(store) == ["relu", "relu"]
    assert notes.said == []
    assert device.log.count(" begins") == 1


@pytest.mark.parametrize(
    ("op", "reason"),
    [("crash", "killed by signal 11 (SIGSEGV)"), ("leave", "ended with exit code 7")],
)
def test_a_kernel_that_crashes_is_recorded_as_failed(
    device: DeviceServerProcess, store: Store, op: str, reason: str
) -> None:
    """It takes its own process with it, and nothing else."""
    with runner(device.address, device.credentials) as remote:
        found = sweep(remote, ["relu", op, "relu"], store)
    assert found[f"{op} 1"] == Failed(reason=reason)
    assert stored(store) == ["relu", "relu"]
    assert device.log.count(" begins") == 1


def test_a_kernel_that_kills_its_session_twice_is_recorded_as_failed(
    device: DeviceServerProcess, store: Store
) -> None:
    """The device is still there and says that the session died: once more, then it is blamed."""
    with runner(device.address, device.credentials) as remote:
        found = sweep(remote, ["relu", "kill session", "relu"], store)
    failed = found["kill session 1"]
    assert isinstance(failed, Failed)
    assert "its process was killed by signal 9 (SIGKILL)" in failed.reason
    assert stored(store) == ["relu", "relu"]


def test_a_workstation_that_is_killed_frees_the_device(
    device: DeviceServerProcess, store: Store
) -> None:
    """Its measurements so far are in the store, its session's processes are gone."""
    with runner(device.address, device.credentials, timeout_s=60.0) as remote:
        sweep(remote, ["relu"], store)
        child = next(iter(remote._pool._free))._child
        child._process.send_signal(signal.SIGKILL)
        device.wait_until_idle()
        assert isinstance(sweep(remote, ["relu", "long"], store)["long 1"], Samples)
    assert stored(store) == ["long", "relu"]
