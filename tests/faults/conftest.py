"""A device server for faults, a store, and what both must look like afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from device_servers import DeviceServerProcess
from remote_sweeps import Notes

from millifit.profiler.store import Store


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceServerProcess]:
    """A server of its own for each test; at the end nothing of it is left."""
    server = DeviceServerProcess(tmp_path / "device")
    try:
        yield server
        server.wait_until_idle()
        assert server.stop() == 0
    finally:
        server.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where measurements go."""
    return Store(tmp_path / "profile.sqlite")


@pytest.fixture
def notes() -> Notes:
    """What is said during a sweep."""
    return Notes()
