"""A tiny classifier that can be spoilt in many ways, and a device that takes what it is told."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from millifit.progress import Progress
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import first_outputs
from millifit.targets.network import Array
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
    result,
)
from millifit.targets.target import Target
from millifit.targets.timing import Samples, TimingPolicy

Floats = npt.NDArray[np.float32]

CLASSES = 3
SAMPLE = (1, 8, 8)
_KERNEL_S = {("conv2d", "fp32"): 20e-6, ("conv2d", "int8"): 5e-6}
_OTHER_KERNEL_S = 1e-6
# Below any time that is predicted for the compressed network: what the search promises is kept.
_NETWORK_S = {"compressed": 20e-6}
_OTHER_NETWORK_S = 60e-6


def random(seed: int, *shape: int) -> Floats:
    """Standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def classifier(
    middle: str = "Relu", *, shape: tuple[int | str, ...] = ("N", *SAMPLE), **weights: Floats
) -> onnx.ModelProto:
    """``x -> conv -> middle (an operator) -> pool -> flat -> head -> y``, three classes.

    `weights` replace random ones: ``conv_w`` [4, 1, 3, 3], ``conv_b`` [4], ``head_w`` [4, 3] and
    ``head_b`` [3].
    """
    constants = {
        "conv.w": random(1, 4, 1, 3, 3), "conv.b": random(2, 4), "head.w": random(3, 4, CLASSES),
        "head.b": random(4, CLASSES),
    } | {name.replace("_", "."): value for name, value in weights.items()}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "conv.w", "conv.b"], ["a"], name="conv", pads=[1] * 4),
        helper.make_node(middle, ["a"], ["b"], name="middle"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat"),
        helper.make_node("Gemm", ["d", "head.w", "head.b"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", CLASSES))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def limit_files(size_bytes: int) -> None:
    """From now on no file of this process can grow beyond `size_bytes`, as on a full disk."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, most))


@contextmanager
def disk() -> Iterator[None]:
    """The disk may be filled with `limit_files` in here; it has space again afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class ToldRunner:
    """Stands for LocalRunner: int8 makes convolutions four times faster, networks three times.

    `after_kernel` and `after_networks` are called when something was timed.
    """

    def __init__(
        self,
        *,
        progress: Progress | None = None,
        after_kernel: Callable[[], None] = lambda: None,
        after_networks: Callable[[], None] = lambda: None,
    ) -> None:
        self._after_kernel = after_kernel
        self._after_networks = after_networks

    contenders = frozenset({"bundle", "onnxruntime"})

    def environment(self) -> dict[str, str]:
        """There is no device."""
        return {}

    def outputs(self, bundle: Path, x: Array, *, on_sample: Callable[[], None]) -> Array:
        """What the bundle gives on this machine."""
        return first_outputs(bundle, x, on_sample=on_sample)

    def __enter__(self) -> ToldRunner:
        return self

    def __exit__(self, *_how: Any) -> None:
        pass

    def time_kernels(
        self, kernels: Iterable[Kernel], target: Target, policy: TimingPolicy, *, seed: int
    ) -> Iterator[tuple[Kernel, Samples]]:
        """The same time for every kernel of a kind."""
        for kernel in kernels:
            seconds = _KERNEL_S.get((kernel.op, kernel.precision), _OTHER_KERNEL_S)
            self._after_kernel()
            yield kernel, Samples(run_s=(seconds,) * 11)

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        """The same time for every network but the compressed one."""
        turns = {name: [_NETWORK_S.get(name, _OTHER_NETWORK_S)] for name in contenders}
        self._after_networks()
        return {
            name: result([turn] * policy.min_rounds, peak_memory_bytes=1, process_peak_bytes=2)
            for name, turn in turns.items()
        }
