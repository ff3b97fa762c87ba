"""Addresses of devices and trackers, as people write them."""

import pytest

from millifit.errors import UsageError
from millifit.targets.remote.address import DeviceAddress


@pytest.mark.parametrize(
    ("text", "host", "port", "key"),
    [
        ("pi.local:9391", "pi.local", 9391, None),
        ("10.0.0.7:1", "10.0.0.7", 1, None),
        ("tracker:9190/rpi4", "tracker", 9190, "rpi4"),
        ("[fe80::1%eth0]:9391/a-b_c.d", "fe80::1%eth0", 9391, "a-b_c.d"),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int, key: str | None) -> None:
    """What was read is written as it was."""
    address = DeviceAddress.parse(text)
    assert (address.host, address.port, address.key) == (host, port, key)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["pi", "pi:", ":9391", "pi:0", "pi:65536", "pi:9391/", "pi:9391/a b", "a b:1", "::1:5"]
)
def test_what_is_no_address_is_refused_with_the_form(text: str) -> None:
    """The message repeats what was written and says how it is written."""
    with pytest.raises(UsageError, match=r"is no address of a device\. Write HOST:PORT, or HOST"):
        DeviceAddress.parse(text)
