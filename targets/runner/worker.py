"""The child process that compiles, runs and times: ``python -m millifit.targets.runner.worker``.

It reads requests from its standard input and answers on its standard output, one JSON object a
line (see `child.Child`), and leaves at the end of its input. It loads only what a request needs,
so that a bundle is timed without ONNX Runtime in memory and the other way round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from millifit.errors import MeasurementError
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array
from millifit.targets.runner.energy import Rapl, rapl_domains
from millifit.targets.runner.kernel_timing import KernelBench
from millifit.targets.runner.memory import forget_peak, status_bytes
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.runner.serving import Request, answered, serve
from millifit.targets.target import Target
from millifit.targets.timing import TimingPolicy

Infer = Callable[[], object]
DeviceBytes = Callable[[], int | None]  # what the network held on a GPU; None on the processor
# Of a file, an input and a number of threads.
OpenNetwork = Callable[[Path, Array, int], tuple[Infer, DeviceBytes]]


class Worker:
    """Answers requests; holds the network it was asked to load, or the operator it times."""

    def __init__(self) -> None:
        self._bench = KernelBench(Rapl(rapl_domains()))
        self._infer: Infer | None = None
        self._resident_bytes = 0
        self._device_bytes: DeviceBytes = lambda: None

    def answer(self, request: Request) -> object:
        """What `request` asks for, as JSON types; raises whatever goes wrong."""
        match request["do"]:
            case "prepare":
                _prepare()
                return None
            case "time_kernel":
                return self._time_kernel(request)
            case "load":
                self._load(request)
                return None
            case "take_turn":
                return self._take_turn(NetworkTimingPolicy(**request["policy"]))
            case "memory":
                return self._memory()
            case unknown:
                raise MeasurementError(f"unknown request {unknown!r}")

    def _time_kernel(self, request: Request) -> dict[str, object]:
        samples = self._bench.time(
            Kernel.from_dict(request["kernel"]),
            Target.from_dict(request["target"]),
            TimingPolicy(**request["policy"]),
            seed=request["seed"],
        )
        return {"run_s": list(samples.run_s), "energy_j": samples.energy_j}

    def _load(self, request: Request) -> None:
        open_network = _IMPORTS[request["kind"]]()
        forget_peak()
        self._resident_bytes = status_bytes("VmHWM")
        sample = np.load(request["input_path"], allow_pickle=False)
        self._infer, self._device_bytes = open_network(
            Path(request["path"]), sample, int(request["threads"])
        )
        self._infer()
        gc.disable()  # no pause of the collector inside a timed inference

    def _take_turn(self, policy: NetworkTimingPolicy) -> list[float]:
        if self._infer is None:
            raise MeasurementError("asked to time a network before one was loaded")
        return take_turn(self._infer, policy)

    def _memory(self) -> dict[str, int]:
        """What the network takes: on a GPU memory of the GPU, else what the process grew by."""
        peak, device_bytes = status_bytes("VmHWM"), self._device_bytes()
        grown = max(0, peak - self._resident_bytes)
        return {
            "network_bytes": grown if device_bytes is None else device_bytes,
            "process_bytes": peak,
        }


def take_turn(infer: Infer, policy: NetworkTimingPolicy) -> list[float]:
    """Warm up, then time inferences for one turn: seconds each."""
    clock = time.perf_counter
    warm_until = clock() + policy.warmup_s
    warm = 0
    single_s = math.inf
    while warm < policy.warmup_runs or clock() < warm_until:
        start = clock()
        infer()
        single_s = min(single_s, clock() - start)
        warm += 1
    # A sample shorter than half of min_sample_s would be a few ticks of clock and loop.
    short = single_s < policy.min_sample_s / 2
    per_sample = math.ceil(policy.min_sample_s / max(single_s, 1e-9)) if short else 1
    seconds: list[float] = []
    stop = clock() + policy.turn_s
    while len(seconds) < policy.min_runs or clock() < stop:
        start = clock()
        for _ in range(per_sample):
            infer()
        seconds.append((clock() - start) / per_sample)
    return seconds


def _prepare() -> None:
    import millifit.targets.build  # noqa: F401 - loads the compiler before the first deadline runs


def _import_bundle() -> OpenNetwork:
    import tvm.runtime.vm  # noqa: F401 - so that the runtime does not count as the network's memory

    from millifit.targets.loaded_bundle import load_bundle

    def open_bundle(path: Path, sample: Array, _threads: int) -> tuple[Infer, DeviceBytes]:
        loaded = load_bundle(path)  # threads: TVM reads them from the environment
        loaded.set_input(sample)
        return lambda: loaded.invoke(), loaded.device_bytes

    return open_bundle


def _import_onnxruntime() -> OpenNetwork:
    import onnxruntime

    def open_onnx(path: Path, sample: Array, threads: int) -> tuple[Infer, DeviceBytes]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        # Input and outputs are bound once: neither runtime pays for copying the sample.
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, sample)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        return lambda: session.run_with_iobinding(binding), lambda: None

    return open_onnx


_IMPORTS: Mapping[str, Callable[[], OpenNetwork]] = {
    "bundle": _import_bundle,
    "onnxruntime": _import_onnxruntime,
}


def main() -> None:
    """Serve on the pipes."""
    worker = Worker()
    serve(lambda request: answered(worker.answer, request))


if __name__ == "__main__":
    main()
