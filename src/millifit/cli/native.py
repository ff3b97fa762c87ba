"""`millifit device build`: the native parts, for this machine or a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millifit.cli import options
from millifit.cli.output import show, write_json


def build_native(
    android_ndk: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Build for phones, with this Android NDK.")
    ] = None,
    cross: Annotated[
        str, typer.Option(metavar="PREFIX", help="Build with PREFIX-g++, e.g. aarch64-linux-gnu.")
    ] = "",
    opencl_headers: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where CL/cl.h is, if at no usual place.")
    ] = None,
    json: options.JsonFile = None,
) -> None:
    """Build the runtime for OpenCL devices and the runner of bundles.

    For this machine both are found where they are built; for another, copy them there.
    """
    from millifit.targets.native import Toolchain, build

    toolchain = Toolchain(android_ndk=android_ndk, prefix=cross)
    library = build("opencl", toolchain=toolchain, headers=opencl_headers) / "libmillifit_opencl.so"
    runner = build("runner", toolchain=toolchain) / "millifit-run"
    show(library, runner)
    write_json({"opencl": str(library), "runner": str(runner)}, json)


def add_to(device: typer.Typer) -> None:
    """Add the verb to `millifit device`."""
    device.command("build")(build_native)
