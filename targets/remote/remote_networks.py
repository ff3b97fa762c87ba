"""Bundles on a device: uploaded, timed in turn, or run on many inputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import MeasurementError
from millifit.targets.manifest import check_files, read_manifest
from millifit.targets.network import Array
from millifit.targets.remote.remote_device import RemoteDevice
from millifit.targets.runner.answers import seconds_of
from millifit.targets.runner.child import ChildLostError, RequestFailedError
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
    Seconds,
    hold_rounds,
    result,
)

_TURN_S = 300.0  # loading, or one turn of, a network
_BATCH_BYTES = 4 << 20
_BATCH_S = 10.0  # far below the deadline, on the slowest board too
_LONGEST_BATCH = 256


class RemoteNetworks:
    """What can be done with bundles in one session."""

    def __init__(self, device: RemoteDevice, folder: Path) -> None:
        """`folder` is on this machine, for what travels."""
        self._device = device
        self._folder = folder

    def time(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """Every contender's result; see `RemoteRunner.time_networks`."""
        entrants = {
            name: _Entrant(name, contender, self._device, f"network{number}")
            for number, (name, contender) in enumerate(contenders.items())
        }
        with self._workers([each.worker for each in entrants.values()]):
            for entrant in entrants.values():
                entrant.load()
            turns = {name: partial(each.take_turn, policy) for name, each in entrants.items()}
            rounds = hold_rounds(turns, policy=policy, on_round=on_round)
            return {name: each.result(rounds[name]) for name, each in entrants.items()}

    def outputs(self, bundle: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
        """The first output for every sample, in batches that travel together."""
        if not len(x):
            raise MeasurementError("there is no sample to run")
        name, threads = _uploaded(self._device, bundle)
        rows = []
        with self._workers(["outputs"]):
            length, done = 1, 0
            while done < len(x):
                batch = x[done : done + length]
                begun_s = time.monotonic()
                rows.append(self._run(name, bundle, batch, threads))
                for _ in batch:
                    on_sample()
                done += len(batch)
                length = _next_length(batch, time.monotonic() - begun_s)
        return np.concatenate(rows)

    def _run(self, name: str, bundle: Path, batch: Array, threads: int) -> Array:
        given, made = self._folder / "inputs.npy", self._folder / "outputs.npy"
        np.save(given, batch)
        with _named(f"bundle '{bundle}' could not be run on {self._device.address}"):
            self._device.run(
                "outputs", {"do": "outputs"}, timeout_s=_TURN_S, threads=threads, bundle=name,
                files={"input_path": given}, save_to=made,
            )  # fmt: skip
        found: Array = np.load(made, allow_pickle=False)
        if len(found) != len(batch):
            raise MeasurementError(
                f"{self._device.address} gave {len(found)} outputs for {len(batch)} inputs"
            )
        return found

    @contextmanager
    def _workers(self, names: Sequence[str]) -> Iterator[None]:
        """Workers on the device that end with the body, unless it failed: then all do."""
        yield
        self._device.forget(names)


class _Entrant:
    """A contender in its worker on the device."""

    def __init__(self, name: str, contender: Contender, device: RemoteDevice, worker: str) -> None:
        if contender.kind != "bundle":
            raise MeasurementError(
                f"'{name}' is to be run by {contender.kind}; devices over RPC run bundles alone."
            )
        self.worker = worker
        self._name = name
        self._contender = contender
        self._device = device

    def load(self) -> None:
        """Upload the network, load it and run it once."""
        bundle, _ = _uploaded(self._device, self._contender.path)
        self._ask(
            {"do": "load", "kind": "bundle", "threads": self._contender.threads}, bundle=bundle,
            files={"input_path": self._contender.input_path},
        )  # fmt: skip

    def take_turn(self, policy: NetworkTimingPolicy) -> Seconds:
        """Seconds of the inferences of one turn."""
        return seconds_of(self._ask({"do": "take_turn", "policy": dataclasses.asdict(policy)}))

    def result(self, rounds: Sequence[Seconds]) -> ContenderResult:
        """The rounds, summed up with the memory that it took."""
        memory = self._ask({"do": "memory"})
        return result(
            rounds,
            peak_memory_bytes=int(memory["network_bytes"]),
            process_peak_bytes=int(memory["process_bytes"]),
        )

    def _ask(
        self,
        asked: Mapping[str, Any],
        *,
        bundle: str | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> Any:
        place = f"bundle at '{self._contender.path}'"
        with _named(f"'{self._name}' ({place}) could not be timed on {self._device.address}"):
            return self._device.run(
                self.worker, asked, timeout_s=_TURN_S, threads=self._contender.threads,
                bundle=bundle, files=files,
            )  # fmt: skip


@contextmanager
def _named(subject: str) -> Iterator[None]:
    """Say what could not be done, and where."""
    try:
        yield
    except (ChildLostError, RequestFailedError) as error:
        raise MeasurementError(f"{subject}: {error}") from error


def _uploaded(device: RemoteDevice, bundle: Path) -> tuple[str, int]:
    """The name that a bundle has on the device, and the threads it was made for.

    Raises BundleError where it is damaged: it is checked before it travels, and there once more.
    """
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    names = ["manifest.json", *manifest.files]
    return device.assemble({name: bundle / name for name in names}), manifest.target.threads


def _next_length(batch: Array, seconds: float) -> int:
    """Samples of the next batch: of a few megabytes and seconds, at most four times as many."""
    room: int = _BATCH_BYTES // max(1, batch[0].nbytes)
    in_time = int(len(batch) * _BATCH_S / max(seconds, 1e-6))
    return max(1, min(4 * len(batch), _LONGEST_BATCH, room, in_time))
