"""A device server that the tests of this folder share."""

from collections.abc import Iterator

import pytest
from device_servers import DeviceServerProcess, served


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceServerProcess]:
    """A server on this machine; at the end it must leave nothing behind."""
    with served(tmp_path_factory.mktemp("device")) as server:
        yield server
