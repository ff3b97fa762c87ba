"""What runs on the device for the workstation: kernels out of uploaded libraries, and bundles."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import MeasurementError
from millifit.targets.build import BuiltKernel
from millifit.targets.device import runtime_device
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import LoadedBundle, load_bundle
from millifit.targets.network import TensorType
from millifit.targets.runner.energy import Rapl, rapl_domains
from millifit.targets.runner.kernel_timing import KernelBench
from millifit.targets.runner.worker import Worker
from millifit.targets.target import Target
from millifit.targets.timing import TimingPolicy

Request = Mapping[str, Any]


class DeviceWorker:
    """Answers a session's requests; holds the kernels of one operator, or a network."""

    def __init__(self) -> None:
        self._bench = KernelBench(Rapl(rapl_domains()))
        self._networks = Worker()
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
        policy, seed = TimingPolicy(**request["policy"]), request["seed"]
        self._bench.prepare(kernel, target, policy, seed=seed, source=_Uploaded(request))
        begun = time.perf_counter()
        samples = self._bench.time(kernel, target, policy, seed=seed)
        timed_s = time.perf_counter() - begun
        return {"run_s": list(samples.run_s), "energy_j": samples.energy_j, "timed_s": timed_s}

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


class _Uploaded:
    """The library of a request, with its kernel and the empty function of as many arguments."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._library: Any = None

    def build(self, kernel: Kernel, target: Target) -> BuiltKernel:
        """The kernel of the library; MeasurementError where it does not load."""
        device = runtime_device(target)
        self._library = _load(self._request["library"])
        executable = self._request["executable"]
        return BuiltKernel(
            kernel=kernel,
            function=_operator(self._library, device) if executable else self._library["main"],
            operand_types=tuple(
                TensorType(shape=tuple(shape), dtype=dtype)
                for shape, dtype in self._request["operands"]
            ),
            device=device,
        )

    def empty(self, operands: int) -> Any:  # noqa: ARG002 - as many as the kernel has
        """The library's empty function, which takes as many arguments as its kernel."""
        return self._library.get_function("empty", query_imports=True)


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
