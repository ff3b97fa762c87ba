"""Verbs of `millifit device`: serve a board, look at one, write the single file for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millifit.cli import options
from millifit.cli.output import show, show_facts, write_json
from millifit.errors import UsageError

device = typer.Typer(no_args_is_help=True)

Megabytes = Annotated[int, typer.Option("--max-upload", metavar="MB", help="Largest upload.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="The device's token; the one in your home unless given."),
]


@device.callback()
def _device() -> None:
    """Serve a board to workstations, and look at boards from a workstation.

    \b
    Examples:
    millifit device serve --host 0.0.0.0
    millifit device agent --out millifit-device.pyz
    millifit device probe --device pi.local:9391
    millifit device build
    """


@device.command("serve")
def serve_device(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 9391,
    token_file: TokenFile = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    max_upload: Megabytes = 512,
    session_limit: Annotated[float, typer.Option(metavar="SECONDS", help="Longest session.")] = 6
    * 3600.0,
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="TVM tracker to register with.")
    ] = None,
    key: Annotated[str, typer.Option(help="The device's key at the tracker.")] = "",
    announce: Annotated[
        str | None, typer.Option(metavar="HOST", help="Host that the tracker tells others.")
    ] = None,
) -> None:
    """Serve this device: let workstations that have its token time kernels and run bundles on it.

    Whoever has the token can run any code as the user that this runs as; do not run it as root.

    \b
    Examples:
    millifit device serve
    millifit device serve --host 0.0.0.0 --tls-cert device.pem --tls-key device.key
    millifit device serve --host 0.0.0.0 --tracker tracker:9190 --key rpi4
    """
    from millifit.targets.remote.agent_main import tracker_of
    from millifit.targets.remote.credentials import default_token_path
    from millifit.targets.remote.serve import serve
    from millifit.targets.remote.settings import ServerSettings

    settings = ServerSettings(
        host=host, port=port, token_file=token_file or default_token_path(), tls_cert=tls_cert,
        tls_key=tls_key, max_upload_bytes=max_upload << 20, session_limit_s=session_limit,
        tracker=tracker_of(tracker), key=key, announce=announce,
    )  # fmt: skip
    serve(settings)


@device.command("agent")
def agent(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("millifit-device.pyz"),
) -> None:
    """Write the device's server as one file, for boards that have Python and the TVM runtime.

    \b
    Examples:
    millifit device agent --out millifit-device.pyz
    """
    from millifit.targets.remote.agent import write_agent

    show(f"Wrote {write_agent(out)}. On the board: python3 {out.name} serve")


@device.command("probe")
def probe_device(
    device: options.Device = None,
    token_file: options.DeviceToken = None,
    ca_file: options.DeviceCa = None,
    json: options.JsonFile = None,
) -> None:
    """Say what a device is, and check the way to it.

    \b
    Examples:
    millifit device probe --device pi.local:9391
    """
    from millifit.targets.remote.address import DeviceAddress
    from millifit.targets.remote.credentials import find_credentials
    from millifit.targets.remote.remote_device import device_facts

    if device is None:
        raise UsageError("name the device: --device HOST:PORT.")
    credentials = find_credentials(
        Path(token_file) if token_file else None, Path(ca_file) if ca_file else None
    )
    facts = device_facts(DeviceAddress.parse(device), credentials)
    write_json(facts.to_dict(), json)
    show_facts(facts.to_dict())
