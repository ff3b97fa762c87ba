"""Lower small ONNX models and run the programs that come out, on any target of this machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.network import Array
from millifit.targets.program import Program
from millifit.targets.target import Target


def lowered(model: onnx.ModelProto, target: Target) -> Program:
    """The program of a model, read and simplified as the pipeline does it."""
    return lower(simplify(from_onnx(model, name="small")), target)


class Compiled:
    """A program compiled in this process."""

    def __init__(self, program: Program, target: Target) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        from millifit.targets.build import compile_program

        made = compile_program(program, target)
        self._outputs = len(program.outputs)
        self._main = VirtualMachine(made.executable.jit(), tvm.cpu())["main"]
        self._weights = [tvm.runtime.tensor(weight) for weight in made.weights]

    def run(self, x: Array) -> list[Array]:
        """All outputs for one input ``(1, *sample)``."""
        import tvm

        made: Any = self._main(tvm.runtime.tensor(np.ascontiguousarray(x)), *self._weights)
        outputs = [made] if self._outputs == 1 else [made[i] for i in range(self._outputs)]
        return [output.numpy() for output in outputs]
