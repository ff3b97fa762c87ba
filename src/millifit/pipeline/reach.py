"""How a run reaches its device: this machine, or a device server named by its address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from millifit.errors import TargetError
from millifit.pipeline.workbench import Timer
from millifit.progress import Progress
from millifit.targets.catalog import find_target
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import find_credentials
from millifit.targets.remote.remote_runner import RemoteRunner
from millifit.targets.runner.local_runner import LocalRunner
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAccess:
    """Where a device server listens, and the files that one is let in with.

    `address` is ``HOST:PORT``, or ``HOST:PORT/KEY`` of a tracker's devices. Files that are not
    named are looked for where `targets.remote.credentials` says.
    """

    address: str
    token_file: str | None = None
    ca_file: str | None = None


def device_access(
    address: str | None, token_file: str | None, ca_file: str | None
) -> DeviceAccess | None:
    """Options as a value; None where no device was named: the run measures on this machine."""
    if address is None:
        return None
    return DeviceAccess(address=address, token_file=token_file, ca_file=ca_file)


def reachable_target(name: str, device: DeviceAccess | None, *, threads: int) -> Target:
    """The target of a run, which is this machine or, where one is named, a device elsewhere.

    Raises UnknownTarget, and TargetError for one that is neither.
    """
    target = find_target(name, threads=threads)
    if device is not None:
        return replace(target, reach="remote")
    if target.reach != "local":
        raise TargetError(
            f"target '{name}' cannot be reached from here: nothing can be measured on it. Name "
            "its device with --device HOST:PORT ('millifit device serve' runs there), use "
            "--target local, or 'millifit compile' to make bundles for it."
        )
    return target


def about_device(target: Target, environment: Mapping[str, str]) -> dict[str, Any]:
    """The device that measured, as results have it; what an emulated one took means nothing."""
    return {
        "cpu": environment.get("cpu", target.cpu),
        "machine": environment.get("machine", target.machine),
        "gpu": None if target.gpu is None else target.gpu.name,
        "reach": target.reach,
        "emulated": target.emulated,
    }


@contextmanager
def timing(
    timer: Timer | None, device: DeviceAccess | None, target: Target, progress: Progress
) -> Iterator[Timer]:
    """The timer that was given, or the device's, or this machine's; ended afterwards.

    Raises TargetError where the device cannot be reached or does not run the target's code.
    """
    if timer is not None:
        yield timer
    elif device is not None:
        with _connected(device, target, progress) as remote:
            yield remote
    else:
        with LocalRunner(progress=progress) as local:
            yield local


@contextmanager
def _connected(device: DeviceAccess, target: Target, progress: Progress) -> Iterator[Timer]:
    credentials = find_credentials(
        token_file=None if device.token_file is None else Path(device.token_file),
        ca_file=None if device.ca_file is None else Path(device.ca_file),
    )
    address = DeviceAddress.parse(device.address)
    with RemoteRunner(address, target, credentials=credentials, progress=progress) as runner:
        runner.facts()  # who cannot be reached says so before anything is loaded or trained
        yield runner
