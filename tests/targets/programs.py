"""Lower small ONNX models and run the programs that come out, on any target of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.network import Array
from millifit.targets.program import Program
from millifit.targets.target import Target

Constants = dict[str, Array]


def lowered(model: onnx.ModelProto, target: Target) -> Program:
    """The program of a model, read and simplified as the pipeline does it."""
    return lower(simplify(from_onnx(model, name="small")), target)


class Compiled:
    """A program compiled in this process."""

    def __init__(self, program: Program, target: Target) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        from millifit.targets.build import compile_program, runnable
        from millifit.targets.device import runtime_device

        self._device = runtime_device(target)
        made = compile_program(program, target)
        self._outputs = len(program.outputs)
        self._main = VirtualMachine(runnable(made.executable, target), self._device)["main"]
        self._weights = [tvm.runtime.tensor(w, device=self._device) for w in made.weights]

    def run(self, x: Array) -> list[Array]:
        """All outputs for one input ``(1, *sample)``."""
        import tvm

        given = tvm.runtime.tensor(np.ascontiguousarray(x), device=self._device)
        made: Any = self._main(given, *self._weights)
        outputs = [made] if self._outputs == 1 else [made[i] for i in range(self._outputs)]
        return [output.numpy() for output in outputs]

    def run_each(self, x: Array) -> Array:
        """The first output for every sample ``[N, *sample]``: ``[N, ...]``."""
        return np.concatenate([self.run(sample[None])[0] for sample in x])


def quantized(tensor: str, name: str) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear of `tensor`; the result is called `name`."""
    scales = [f"{name}.scale", f"{name}.zero"]
    return [
        helper.make_node("QuantizeLinear", [tensor, *scales], [f"{name}.q"], f"{name}.q"),
        helper.make_node("DequantizeLinear", [f"{name}.q", *scales], [name], f"{name}.dq"),
    ]


def stored(name: str, *, axis: int = 0) -> onnx.NodeProto:
    """The DequantizeLinear of a weight."""
    names = [f"{name}.{part}" for part in ("q", "scale", "zero")]
    return helper.make_node("DequantizeLinear", names, [name], f"{name}.dq", axis=axis)


def scale(name: str, value: float, zero_point: int, *, dtype: str = "uint8") -> Constants:
    """Constants that `quantized` reads."""
    return {f"{name}.scale": np.array(value, "f4"), f"{name}.zero": np.array(zero_point, dtype)}


def weight(
    name: str, shape: Sequence[int], *, axis: int = 0, largest: int = 127, seed: int = 0
) -> Constants:
    """Constants that `stored` reads: random integers, a scale per channel along `axis`."""
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    return {
        f"{name}.q": rng.integers(-largest, largest + 1, tuple(shape)).astype(np.int8),
        f"{name}.scale": rng.uniform(0.001, 0.01, channels).astype(np.float32),
        f"{name}.zero": np.zeros(channels, np.int8),
    }
