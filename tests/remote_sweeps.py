"""Sweeps over devices with kernels that do in a blink what their operator says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millifit.profiler.store import Store
from millifit.profiler.sweep import take
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.remote_runner import RemoteRunner
from millifit.targets.timing import Failed, Samples, TimingPolicy

COMPILER = (sys.executable, str(Path(__file__).with_name("fake_compiler.py")))
QUICK = TimingPolicy(warmup_s=0.0, block_s=0.0, min_samples=3, max_samples=3, limit_s=0.05)


class Notes:
    """Keeps what is said during a run."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """As `progress.Progress` has it."""
        self.said.append(text)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Any]:
        """Nobody sees it."""
        yield lambda _steps: None


def kernel(op: str, length: int = 8) -> Kernel:
    """A kernel that does what `fake_compiler` knows by its operator."""
    flat = TensorType(shape=(1, length), dtype="float32")
    return Kernel(op=op, inputs=(flat,), output=flat, precision="fp32")


def runner(address: DeviceAddress, credentials: Credentials, **changes: Any) -> RemoteRunner:
    """A runner that has libraries made in C, for this machine's own processor."""
    options: dict[str, Any] = {"compiler": COMPILER, "timeout_s": 10.0, "patience_s": 20.0}
    return RemoteRunner(
        address, find_target("local"), credentials=credentials, **{**options, **changes}
    )


def sweep(
    remote: RemoteRunner, ops: Sequence[str], store: Store | None = None
) -> dict[str, Samples | Failed]:
    """The outcome of each operator; into a store, too, where one is given."""
    kernels = [kernel(op, 8 + number) for number, op in enumerate(ops)]
    target = find_target("local")
    if store is None:
        timed = remote.time_kernels(kernels, target, QUICK, seed=0)
        return {f"{each.op} {each.output.shape[1] - 8}": outcome for each, outcome in timed}
    taken = take(
        kernels, target=target, store=store, timer=remote, policy=QUICK,
        environment=remote.environment(),
    )  # fmt: skip
    return {f"{m.kernel.op} {m.kernel.output.shape[1] - 8}": m.outcome for m in taken}


def stored(store: Store) -> list[str]:
    """The operators of what is in a store that was timed, not failed."""
    target = find_target("local")
    found = store.measurements(target.key)
    return sorted(each.kernel.op for each in found if isinstance(each.outcome, Samples))
