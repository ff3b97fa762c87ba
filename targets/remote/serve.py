"""Starting a device's server: what the command line and the single file for boards both do."""

from __future__ import annotations

import sys
import time

from millifit.targets.remote.credentials import make_token, read_token
from millifit.targets.remote.device_runtime import load_runtime
from millifit.targets.remote.server import DeviceServer
from millifit.targets.remote.settings import ServerSettings

_LONGEST_LINE = 400


def log(text: str) -> None:
    """One line on standard error; nothing that a peer sent can begin another or move the cursor."""
    plain = "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST_LINE]
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {plain}", file=sys.stderr, flush=True)  # noqa: T201


def serve(settings: ServerSettings) -> None:
    """Serve this device until SIGTERM or Ctrl-C. Raises TargetError where it cannot begin."""
    new = not settings.token_file.exists()
    token = make_token(settings.token_file) if new else read_token(settings.token_file)
    log(f"{'a new' if new else 'the'} token is in {settings.token_file}: workstations need it")
    if settings.exposed and settings.tls_cert is None:
        log(
            f"warning: {settings.host} is open to other machines, without TLS: whoever shares the "
            "network can read what is sent, and take a connection over. Use --tls-cert, or listen "
            "on 127.0.0.1 and tunnel through SSH."
        )
    facts = load_runtime(log)
    server = DeviceServer(settings, facts=facts, token=token, log=log)
    log(f"listening on {settings.host}:{server.port}")
    server.run()
    log("stopped")
