"""What the person who starts a device's server decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from millifit.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_PORT = 9391


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where a device's server listens, and what it allows.

    `port` 0 takes any that is free. `max_upload_bytes` is the largest message that a session takes
    and the most that its folder may hold, `session_limit_s` the longest that one may last.
    `tracker` is the address of a TVM tracker, where the device is known by `key`; `announce` is the
    host to be told to others there, where they do not reach it at the one that the tracker sees.
    An address that failed `failures` handshakes within a minute is refused for the rest of it.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token_file: Path
    tls_cert: Path | None = None
    tls_key: Path | None = None
    max_upload_bytes: int = 512 << 20
    session_limit_s: float = 6 * 3600.0
    handshake_s: float = 10.0
    failures: int = 10
    tracker: tuple[str, int] | None = None
    key: str = ""
    announce: str | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("TLS needs a certificate and its key: --tls-cert and --tls-key.")
        if (self.tracker is None) != (not self.key):
            raise UsageError("a tracker knows a device by a key: --tracker HOST:PORT --key KEY.")
        if self.max_upload_bytes <= 0 or self.session_limit_s <= 0 or self.handshake_s <= 0:
            raise UsageError("the limits of uploads, sessions and handshakes are above zero.")

    @property
    def exposed(self) -> bool:
        """Whether other machines can connect."""
        return self.host not in LOOPBACK
