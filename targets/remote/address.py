"""Where a device is: a host and a port, or a tracker's host and port and the device's key there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from millifit.errors import UsageError

_FORM = re.compile(r"(\[[0-9a-fA-F:.]+(?:%[\w.-]+)?\]|[^\s:/\[\]]+):(\d{1,5})(?:/([\w.-]{1,64}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAddress:
    """A device server at `host`:`port`; where there is a `key`, a tracker that knows some."""

    host: str
    port: int
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``"pi.local:9391"``, or ``"tracker.local:9190/rpi4"``; UsageError for anything else.

        IPv6 addresses stand in brackets: ``"[fe80::1]:9391"``.
        """
        found = _FORM.fullmatch(text)
        if found is None or not 0 < int(found[2]) < 1 << 16:
            raise UsageError(
                f"'{text}' is no address of a device. Write HOST:PORT, or HOST:PORT/KEY for "
                "devices that a tracker knows by that key."
            )
        return cls(host=found[1].strip("[]"), port=int(found[2]), key=found[3])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f"/{self.key}" if self.key else "")
