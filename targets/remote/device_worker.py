"""What runs on the device for the workstation: kernels out of uploaded libraries, and bundles."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import MeasurementError
from millifit.targets.build import BuiltKernel
from millifit.targets.device import runtime_device
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import LoadedBundle, load_bundle
from millifit.targets.network import TensorType
from millifit.targets.runner.clock import clock_for
from millifit.targets.runner.energy import Rapl, rapl_domains
from millifit.targets.runner.kernel_timing import repeat
from millifit.targets.runner.worker import Worker
from millifit.targets.target import Target
from millifit.targets.timing import TimingPolicy, sample

Request = Mapping[str, Any]

_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7


class DeviceWorker:
    """Answers a session's requests; holds the kernels of one operator, or a network."""

    def __init__(self) -> None:
        self._rapl = Rapl(rapl_domains())
        self._networks = Worker()
        self._subject: tuple[object, ...] = ()
        self._runs: dict[str, Any] = {}
        self._made: dict[Any, Any] = {}
        self._overheads: dict[int, float] = {}
        self._bundle: tuple[str, LoadedBundle] | None = None

    def answer(self, request: Request) -> object:
        """What `request` asks for, as JSON types; raises whatever goes wrong."""
        match request["do"]:
            case "time_library":
                return self._time_library(request)
            case "outputs":
                return self._outputs(request)
        return self._networks.answer(request)

    def _time_library(self, request: Request) -> dict[str, object]:
        """Samples of a kernel whose library was uploaded; and how long they took to take."""
        kernel = Kernel.from_dict(request["kernel"])
        target = Target.from_dict(request["target"])
        policy = TimingPolicy(**request["policy"])
        subject = (kernel.with_choice(()), target, policy.working_set_bytes, request["seed"])
        if subject != self._subject:
            self._subject, self._runs, self._made = subject, {}, {}
        if kernel.key not in self._runs:
            self._runs[kernel.key] = self._ready(kernel, target, policy, request)
        gc.disable()
        begun = time.perf_counter()
        samples = sample(self._runs[kernel.key], policy, drawn_j=self._meter(target))
        timed_s = time.perf_counter() - begun
        gc.enable()
        return {"run_s": list(samples.run_s), "energy_j": samples.energy_j, "timed_s": timed_s}

    def _meter(self, target: Target) -> Callable[[], float | None]:
        """The joules drawn so far; nobody knows those of a GPU."""
        return self._rapl.drawn_j if target.gpu is None else lambda: None

    def _ready(self, kernel: Kernel, target: Target, policy: TimingPolicy, request: Request) -> Any:
        device = runtime_device(target)
        library = _load(request["library"])
        built = BuiltKernel(
            kernel=kernel,
            function=_operator(library, device) if request["executable"] else library["main"],
            operand_types=tuple(
                TensorType(shape=tuple(shape), dtype=dtype) for shape, dtype in request["operands"]
            ),
            device=device,
        )
        rng = np.random.default_rng(request["seed"])
        operands = built.operands(rng, policy.working_set_bytes, self._made)
        clock = clock_for(target)
        overhead_s = self._overhead_s(library, len(operands[0])) if clock.counts_calls else 0.0
        return repeat(built.function, operands, overhead_s=overhead_s, clock=clock)

    def _overhead_s(self, library: Any, operands: int) -> float:
        import tvm

        if operands not in self._overheads:
            tensors = [tvm.runtime.tensor(np.zeros(1, np.float32)) for _ in range(operands)]
            empty = library.get_function("empty", query_imports=True)
            run = repeat(empty, [tensors], overhead_s=0.0)
            fastest = min(run(_OVERHEAD_CALLS) for _ in range(_OVERHEAD_REPEATS))
            self._overheads[operands] = fastest / _OVERHEAD_CALLS
        return self._overheads[operands]

    def _outputs(self, request: Request) -> dict[str, object]:
        """The first output for every sample of a batch, in a file of its own."""
        path = str(request["path"])
        if self._bundle is None or self._bundle[0] != path:
            self._bundle = (path, load_bundle(Path(path)))
        _, bundle = self._bundle
        x = np.load(request["input_path"], allow_pickle=False)
        if not len(x):
            raise MeasurementError("there is no sample to run")
        made = np.concatenate([bundle.run(each[None])[0] for each in x])
        with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
            np.save(file, made)
        return {"file": file.name}


def _operator(library: Any, device: Any) -> Any:
    """An operator that TVM lowered; it makes its output itself."""
    import tvm.runtime.vm

    run = tvm.runtime.vm.VirtualMachine(library, device)["main"]
    return lambda *given: run(*given[:-1])


def _load(path: str) -> Any:
    """Load a library, by a name that tells the runtime what it is."""
    import tvm

    named = Path(f"{path}.so")
    named.hardlink_to(path)  # the runtime looks through symbolic ones
    try:
        return tvm.runtime.load_module(str(named))
    except (RuntimeError, OSError) as error:  # the loader's own words come last
        why = str(error).strip().rpartition(": ")[2][:200]
        raise MeasurementError(f"its library does not load: {why}") from error
    finally:
        named.unlink()
