"""One network on a GPU three ways: our bundle, torch.compile, and eager PyTorch in a CUDA graph.

Each becomes a function that enqueues one fp16 inference, and the outputs it gave. Inputs lie on the
device; a turn is some inferences, each between two events of the stream they all use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks import models
from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.targets.bundle import write_bundle
from millifit.targets.importer.onnx_file import from_onnx, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.target import Target

Floats = npt.NDArray[np.generic]
_WARM_UP, _INFERENCES = 5, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """`run` enqueues one inference; `outputs` waits, and copies what the last one gave."""

    run: Callable[[], object]
    outputs: Callable[[], Floats]


def batched(name: str, batch: int, seed: int) -> tuple[Network, Floats]:
    """A network of the benchmarks for `batch` samples, and as many inputs."""
    model: onnx.ModelProto = models.load(name, seed)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    network = simplify(from_onnx(model, name=name, input_shape=(batch, *shape[1:])))
    return network, models.samples(name, shape, batch, seed)


def oracle(network: Network, x: Floats) -> Floats:
    """What ONNX Runtime gives in fp32, on the processor."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_network(network, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs: Floats = session.run(None, {network.inputs[0]: x})[0]
    return outputs


def error(outputs: Floats, wanted: Floats) -> float:
    """The largest error, relative to the largest magnitude wanted; infinite where not finite."""
    right = wanted.astype(np.float64)
    difference = float(np.abs(outputs.astype(np.float64) - right).max())
    return difference / float(np.abs(right).max()) if np.isfinite(difference) else float("inf")


def ours(network: Network, x: Floats, target: Target, folder: Path) -> Contender:
    """The bundle that `millifit compile` would write of the network with all layers in fp16."""
    half = quantize(network, quantizable(network, "fp16", depthwise=True), {})
    write_bundle(
        folder, program=lower(half, target), target=target, versions="benchmark", golden_input=x,
        golden_output=[oracle(half, x)], details={},
    )  # fmt: skip
    bundle = load_bundle(folder)
    bundle.set_input(x)
    last: list[Any] = []

    def run() -> None:
        last[:] = [bundle.start()]

    return Contender(run=run, outputs=lambda: np.asarray(last[0].numpy()))


def traced(network: Network, x: Any) -> Any:
    """The network as a plain graph of PyTorch's operators for inputs like `x`, a tensor.

    Interpreting it node by node would cost eager PyTorch time that is not its own.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from millifit.compress.torch_network import TorchNetwork

    module: Any = TorchNetwork(network).to(x.device, x.dtype).eval()
    module = module.to(memory_format=torch.channels_last)
    with torch.no_grad():
        return make_fx(module)(x)


def _on_device(x: Floats) -> Any:
    import torch

    return torch.from_numpy(x).to("cuda", torch.float16, memory_format=torch.channels_last)


def compiled(network: Network, x: Floats) -> Contender:
    """torch.compile at its best: tuned, and with graphs of its own."""
    import torch

    given = _on_device(x)
    compiling: Any = torch.compile  # typed for modules alone
    module = compiling(traced(network, given), mode="max-autotune")
    return _of_torch(lambda: module(given))


def eager(network: Network, x: Floats) -> Contender:
    """Eager PyTorch, captured into a CUDA graph."""
    import torch

    given = _on_device(x)
    module = traced(network, given)
    cuda: Any = torch.cuda  # partly untyped
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side), torch.no_grad():
        for _ in range(_WARM_UP):
            module(given)
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with torch.no_grad(), cuda.graph(graph):
        made = module(given)

    def run() -> Any:
        graph.replay()
        return made

    return _of_torch(run)


def _of_torch(call: Callable[[], Any]) -> Contender:
    import torch

    last: list[Any] = []

    def run() -> None:
        with torch.no_grad():
            last[:] = [call()]

    return Contender(run=run, outputs=lambda: np.asarray(last[0].float().cpu().numpy()))


def turn(run: Callable[[], object]) -> Sequence[float]:
    """Seconds of some inferences, each by two events on the stream, one after the other."""
    import torch

    cuda: Any = torch.cuda  # partly untyped
    for _ in range(_WARM_UP):
        run()
    seconds = []
    for _ in range(_INFERENCES):
        cuda.synchronize()
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return seconds


def contenders(
    network: Network, x: Floats, target: Target, folder: Path
) -> Mapping[str, Callable[[], Contender]]:
    """How to make each; ours alone where PyTorch has no CUDA."""
    import torch

    made: dict[str, Callable[[], Contender]] = {"ours": lambda: ours(network, x, target, folder)}
    if torch.cuda.is_available():
        made["compiled"] = lambda: compiled(network, x)
        made["eager"] = lambda: eager(network, x)
    return made
