"""The command line of the single file for boards, with the standard library alone.

``python3 millifit-device.pyz serve [OPTIONS]``; the options are those of `millifit device serve`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from millifit.errors import MillifitError, UsageError
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import default_token_path
from millifit.targets.remote.serve import serve
from millifit.targets.remote.settings import DEFAULT_PORT, ServerSettings


def settings_of(arguments: Sequence[str]) -> ServerSettings:
    """The settings that a command line asks for; SystemExit where it is wrong."""
    parser = argparse.ArgumentParser(prog="millifit-device", description="Serve this device.")
    verb = parser.add_subparsers(required=True).add_parser("serve", help="serve this device")
    verb.add_argument("--host", default="127.0.0.1")
    verb.add_argument("--port", type=int, default=DEFAULT_PORT)
    verb.add_argument("--token-file", type=Path, default=default_token_path())
    verb.add_argument("--tls-cert", type=Path)
    verb.add_argument("--tls-key", type=Path)
    verb.add_argument("--max-upload", type=int, default=512, metavar="MB")
    verb.add_argument("--session-limit", type=float, default=6 * 3600.0, metavar="SECONDS")
    verb.add_argument("--tracker", metavar="HOST:PORT")
    verb.add_argument("--key", default="")
    verb.add_argument("--announce", metavar="HOST")
    given = parser.parse_args(arguments)
    return ServerSettings(
        host=given.host, port=given.port, token_file=given.token_file, tls_cert=given.tls_cert,
        tls_key=given.tls_key, max_upload_bytes=given.max_upload << 20,
        session_limit_s=given.session_limit, tracker=tracker_of(given.tracker), key=given.key,
        announce=given.announce,
    )  # fmt: skip


def tracker_of(text: str | None) -> tuple[str, int] | None:
    """The host and port of a tracker; UsageError for anything else."""
    if text is None:
        return None
    address = DeviceAddress.parse(text)
    if address.key is not None:
        raise UsageError(f"--tracker takes HOST:PORT, got '{text}': the key goes with --key.")
    return address.host, address.port


def main() -> None:
    """Entry point of the single file."""
    try:
        serve(settings_of(sys.argv[1:]))
    except MillifitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
