"""The command line: one executable, one verb per job.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 budget infeasible, 130 interrupted. torch and tvm are
loaded by the verbs that need them, so that --help is quick.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

import millifit
from millifit.cli import deploy, device, device_server, fitting, native, running
from millifit.errors import MillifitError

__all__ = ["app", "main"]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Verbs(TyperGroup):
    """Turns what a verb raises into one message and the right exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except MillifitError as error:
            if ctx.params.get("debug"):
                raise
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            if ctx.params.get("debug") or error.errno not in _DISK_FULL:
                raise
            say(f"error: {error}. Free some space; the same command continues.")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as stop:
            say("interrupted; the same command continues")
            raise typer.Exit(130) from stop


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fitting.add_to(app)
deploy.add_to(app)
running.add_to(app)
device.add_to(app)
native.add_to(device_server.device)
app.add_typer(device_server.device, name="device", rich_help_panel="Devices")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"millifit {millifit.__version__}")
        raise typer.Exit


@app.callback()
def _everything(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fit a neural network into a device's milliseconds.

    \b
    Examples:
    millifit fit --demo
    millifit fit net.onnx --data images/ --budget 60%
    millifit doctor
    """


def say(text: str) -> None:
    """A line for a person, beside the output."""
    typer.echo(text, err=True)


def main() -> None:
    """Entry point of the executable."""
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv or isinstance(error, MillifitError):
            raise
        again = " ".join(["millifit --debug", *sys.argv[1:]])
        say(f"error: unexpected {type(error).__name__}: {error}")
        say(f"This is a mistake in millifit. For the traceback run: {again}")
        sys.exit(1)


def _never_fail_to_encode(stream: TextIO) -> None:
    """Terminals without UTF-8 get question marks, not an exception."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
