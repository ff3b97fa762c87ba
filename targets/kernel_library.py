"""A kernel as a shared library for another device, with an empty twin that shows what a call costs.

The board times with it what `runner.kernel_timing` times here.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millifit.errors import CompileError
from millifit.targets.build import tvm_target
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLibrary:
    """The bytes of a library with functions ``main`` and ``empty``.

    ``main`` takes activations, operands of `operand_types` and the output; ``empty`` as many
    tensors, and does nothing.
    """

    content: bytes
    operand_types: tuple[TensorType, ...]


def kernel_library(kernel: Kernel, target: Target) -> KernelLibrary:
    """Compile and link a kernel for its target. Raises CompileError."""
    import tvm
    from tvm import tirx

    from millifit.targets.schedules.rules import schedule

    code = schedule(kernel, target)
    operands = len(kernel.inputs) + len(code.operands) + 1
    names = [tirx.Var(f"operand{i}", "handle") for i in range(operands)]
    empty = tirx.PrimFunc(names, tirx.Evaluate(0)).with_attr("global_symbol", "empty")
    module = tvm.IRModule(
        {"main": code.function.with_attr("global_symbol", "main"), "empty": empty}
    )
    built = tvm.compile(module, target=tvm_target(target))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        built.export_library(str(path), fcompile=_linker(target))
        return KernelLibrary(content=path.read_bytes(), operand_types=code.operands)


def _linker(target: Target) -> Any:
    import platform
    import shutil

    from tvm.support import cc

    if target.machine == platform.machine():
        return None
    compiler = f"{target.machine}-linux-gnu-g++"
    if shutil.which(compiler) is None:
        raise CompileError(f"needs {compiler}")
    return cc.cross_compiler(compiler)
