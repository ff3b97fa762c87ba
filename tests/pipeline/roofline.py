"""A device on paper: kernels and networks take what a roofline says, always the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from millifit.pipeline.bundles import FINAL_TIMING
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import first_outputs
from millifit.targets.lower import lower
from millifit.targets.manifest import read_manifest
from millifit.targets.network import Array
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
    result,
)
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy

_MACS_PER_S = {"fp32": 2e9, "int8": 8e9}
_BYTES_PER_S = 8e9
_CALL_S = 0.2e-6
# A whole network takes this much longer than its kernels alone; ONNX Runtime still more.
_WHOLE, _REFERENCE = 1.1, 1.3
# Samples stray by so much, all contenders of a round alike.
_DRIFT = 0.005


class RooflineTimer:
    """Times kernels and networks by arithmetic.

    `int8_kernels` are how many times longer int8 arithmetic takes, `int8_networks` how many times
    longer still in whole networks, and `int8_finally` in the last measurement of a run.

    A bundle is known by the network that stands beside it: ``network.onnx`` of a trial, and
    ``baseline.onnx`` or ``compressed.onnx`` in the run folder.
    """

    def __init__(
        self,
        *,
        int8_kernels: float = 1.0,
        int8_networks: float = 1.0,
        int8_finally: float = 1.0,
    ) -> None:
        self._int8_kernels = int8_kernels
        self._int8_networks = int8_kernels * int8_networks
        self._int8_finally = int8_finally
        self.kernels: list[Kernel] = []  # timed so far
        self.networks = 0

    contenders = frozenset({"bundle", "onnxruntime"})

    def environment(self) -> dict[str, str]:
        """There is no device."""
        return {"cpu": "paper"}

    def outputs(self, bundle: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
        """What the bundle gives on this machine."""
        return first_outputs(bundle, x, on_sample=on_sample)

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples | Failed]]:
        """Each kernel with eleven samples about its roofline."""
        for kernel in kernels:
            self.kernels.append(kernel)
            seconds = kernel_s(kernel, self._int8_kernels)
            yield kernel, Samples(run_s=tuple(seconds * _drift(n) for n in range(11)))

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """Every contender for the fewest rounds that the policy allows."""
        int8 = self._int8_networks
        if policy.min_rounds == FINAL_TIMING.min_rounds:
            int8 *= self._int8_finally
        self.networks += len(contenders)
        seconds = {name: _network_s(each, int8) for name, each in contenders.items()}
        for done in range(policy.min_rounds):
            on_round(done + 1)
        return {
            name: result(
                [[each * _drift(n)] for n in range(policy.min_rounds)],
                peak_memory_bytes=1000,
                process_peak_bytes=2000,
            )
            for name, each in seconds.items()
        }


def _network_s(contender: Contender, int8_factor: float) -> float:
    if contender.kind == "onnxruntime":
        target = find_target("local", threads=contender.threads)
        return _REFERENCE * _sum(contender.path, target, int8_factor)
    file = _network_of(contender.path)
    if file is None:  # a bundle on its own
        return (contender.path / "weights.bin").stat().st_size / _BYTES_PER_S
    return _WHOLE * _sum(file, read_manifest(contender.path).target, int8_factor)


def _sum(file: Path, target: Target, int8_factor: float) -> float:
    program = lower(simplify(read_network(file)), target)
    return math.fsum(kernel_s(call.kernel, int8_factor) for call in program.calls)


def kernel_s(kernel: Kernel, int8_factor: float = 1.0) -> float:
    """Seconds of one kernel: arithmetic or memory, whichever takes longer, and the call."""
    moved = sum(kind.bytes for kind in (*kernel.inputs, kernel.output))
    arithmetic = _macs(kernel) / _MACS_PER_S[kernel.precision]
    if kernel.precision == "int8":
        arithmetic *= int8_factor
    return max(arithmetic, moved / _BYTES_PER_S) + _CALL_S


def _macs(kernel: Kernel) -> float:
    match kernel.op:
        case "conv2d" | "depthwise_conv2d":
            attributes = dict(kernel.attributes)
            height, width = attributes["kernel"]  # type: ignore[misc]  # two integers
            channels = kernel.inputs[0].shape[3] // int(str(attributes.get("groups", 1)))
            depth = 1 if kernel.op == "depthwise_conv2d" else channels
            return float(kernel.output.elements * height * width * depth)
        case "dense":
            return float(kernel.output.elements * kernel.inputs[0].shape[1])
        case _:
            return 0.0


def _network_of(bundle: Path) -> Path | None:
    names = ("network.onnx", "compressed.onnx") if bundle.name == "bundle" else ("baseline.onnx",)
    found = (bundle.parent / name for name in names)
    return next((file for file in found if file.exists()), None)


def _drift(n: int) -> float:
    return 1.0 + _DRIFT * (-1, 0, 1)[n % 3]
