"""A bundle in memory, ready to run. It needs the TVM runtime and no compiler."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import BundleError
from millifit.targets.detect_gpu import reachable_gpus
from millifit.targets.device import device_peak_bytes, forget_device_peak, runtime_device
from millifit.targets.device_facts import probe, why_not
from millifit.targets.manifest import ALIGNMENT, Manifest, check_files, read_manifest
from millifit.targets.network import Array
from millifit.targets.portfolio import (
    Choice,
    choose,
    is_portfolio,
    read_portfolio,
    variant_folder,
)
from millifit.targets.target import Target


def runs_here(target: Target) -> str | None:
    """None if this machine runs the target's code, else the reason why not."""
    return why_not(target, probe(gpus=() if target.gpu is None else reachable_gpus()))


class LoadedBundle:
    """A bundle in memory, ready to run. Inputs are fixed in shape: the network's, batch 1."""

    def __init__(self, manifest: Manifest, path: Path) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        self.manifest = manifest
        # Bound to one core each, the pool's threads would bind the caller, too, for good.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        configure = tvm.get_global_func("runtime.config_threadpool", allow_missing=True)
        if configure is not None and manifest.target.threads > 1:
            configure(1, manifest.target.threads)
        self._device = runtime_device(manifest.target)
        forget_device_peak(manifest.target)
        self._machine = VirtualMachine(_load_library(path / "library.so"), self._device)
        self._main = self._machine["main"]
        self._weights = _read_weights(path / "weights.bin", manifest, self._device)
        self._input: Any = None
        self._is_gpu = manifest.target.gpu is not None

    def set_input(self, x: Array) -> None:
        """Copy an input, shaped as the manifest says, to where `invoke` reads it."""
        self._input = self._given(x)
        # A closure with everything bound: one call, no conversion of arguments.
        self._machine.save_function("main", "bound", self._input, *self._weights)
        self._bound = self._machine["bound"]

    def invoke(self) -> Any:
        """Run once on the input set last; returns the runtime's own tensors, on the device."""
        made = self.start()
        if self._is_gpu:
            self._device.sync()  # a GPU works on after the call
        return made

    def start(self) -> Any:
        """The same without waiting: a GPU may still be at work on the tensors that it returns."""
        return self._bound()

    def device_bytes(self) -> int | None:
        """The most memory that the network held on a GPU; None where the processor runs it.

        OpenCL's runtime counts what it allocates; CUDA's does not, so it is what was planned.
        """
        if not self._is_gpu:
            return None
        counted = device_peak_bytes(self.manifest.target)
        return self.manifest.planned_memory_bytes if counted is None else counted

    def observe(self, hear: Callable[[str, bool, tuple[Any, ...]], None]) -> None:
        """Run once on the input set last; `hear` is told of every call of the runtime.

        It gets the name of what is called, whether the call begins or ended, and its arguments.
        """

        def instrument(_called: Any, name: str, begins: bool, _made: Any, *given: Any) -> None:
            hear(name, begins, given)

        self._machine.set_instrument(instrument)
        try:
            self._main(self._input, *self._weights)
        finally:
            self._machine.set_instrument(_silent)

    def run(self, x: Array) -> tuple[Array, ...]:
        """Run on one input and return the outputs."""
        made = self._main(self._given(x), *self._weights)
        if len(self.manifest.outputs) == 1:
            return (made.numpy(),)
        return tuple(made[i].numpy() for i in range(len(self.manifest.outputs)))

    def _given(self, x: Array) -> Any:
        import tvm

        expected = self.manifest.input
        if tuple(x.shape) != expected.shape:
            raise BundleError(
                f"bundle '{self.manifest.name}' takes an input of shape {expected.shape}, "
                f"got {tuple(x.shape)}: convert the input"
            )
        given = np.ascontiguousarray(x, dtype=expected.dtype)
        return tvm.runtime.tensor(given, device=self._device)


def first_outputs(path: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
    """The first output of the bundle at `path` for every sample ``[N, *sample]``: ``[N, ...]``."""
    loaded = load_bundle(path)
    rows = []
    for sample in x:
        rows.append(loaded.run(sample[None])[0])
        on_sample()
    return np.concatenate(rows)


def _silent(*_: Any) -> None:
    """Hears nothing: the runtime cannot be without an instrument again once it had one."""


def _load_library(path: Path) -> Any:
    """Load a library from a copy of its own, which need not outlive the call.

    The dynamic linker knows libraries by the path they were opened with: a bundle that replaced
    another at the same path would get the other's code.
    """
    import tvm

    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            return tvm.runtime.load_module(str(copy))
    except OSError as error:
        raise BundleError(
            f"cannot load '{path}' from a copy in '{tempfile.gettempdir()}' ({error.strerror}). "
            "Free some space there, or set TMPDIR to another folder."
        ) from error


def _read_weights(path: Path, manifest: Manifest, device: Any) -> list[Any]:
    import tvm

    blob = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    made, at = [], 0
    for kind in manifest.weights:
        if at + kind.bytes > len(blob):
            raise BundleError(f"'{path}' is shorter than its manifest says: compile it again")
        values = blob[at : at + kind.bytes].view(kind.dtype).reshape(kind.shape)
        made.append(tvm.runtime.tensor(values, device=device))
        at += kind.bytes + (-kind.bytes % ALIGNMENT)
    return made


def choose_here(path: Path) -> Choice:
    """The variant of the portfolio at `path` for this machine; see `portfolio.choose`."""
    portfolio = read_portfolio(path)
    asked = any(variant.target.gpu is not None for variant in portfolio.variants)
    return choose(portfolio, probe(gpus=reachable_gpus() if asked else ()))


def load_bundle(path: Path) -> LoadedBundle:
    """Check a bundle, or a portfolio's variant for this machine, and load it.

    Raises BundleError for missing or changed files, and for a bundle made for another processor.
    """
    if is_portfolio(path):
        path = variant_folder(path, choose_here(path).variant)
    manifest = read_manifest(path)
    check_files(path, manifest)
    reason = runs_here(manifest.target)
    if reason is not None:
        raise BundleError(
            f"bundle '{path}' was compiled for target '{manifest.target.name}' and cannot run "
            f"here: {reason}. Compile it for this machine: millifit compile MODEL --target local"
        )
    return LoadedBundle(manifest, path)
