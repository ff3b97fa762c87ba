"""A kernel as a shared library for another device, with an empty twin that shows what a call costs.

Through the same schedules as `build.build_kernel`; the board times it as it is timed here (see
`remote.device_worker`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millifit.targets.build import (
    Compiled,
    compile_errors,
    export_library,
    prepare_compiler,
    tvm_target,
)
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLibrary:
    """The bytes of a library with functions ``main`` and ``empty``.

    ``main`` takes activations, operands of `operand_types` and the output; ``empty`` as many
    tensors, and does nothing. With an `executable`, ``main`` is one of TVM's virtual machine, and
    makes its output itself.
    """

    content: bytes
    operand_types: tuple[TensorType, ...]
    executable: bool = False


def kernel_library(kernel: Kernel, target: Target) -> KernelLibrary:
    """Compile and link a kernel for its target, which need not be this machine.

    Raises CompileError with TVM's reason, or for want of a linker.
    """
    prepare_compiler(target)
    with compile_errors(f"kernel '{kernel.op}' ({kernel.key})"):
        if kernel.op == "onnx":
            return _operator_library(kernel, target)
        return _scheduled_library(kernel, target)


def _scheduled_library(kernel: Kernel, target: Target) -> KernelLibrary:
    import tvm

    from millifit.targets.schedules.rules import schedule

    code = schedule(kernel, target)
    main = code.function.with_attr("global_symbol", "main")
    empty = _empty(len(kernel.inputs) + len(code.operands) + 1, target)
    module = tvm.IRModule({"main": main, "empty": empty})
    built = tvm.compile(module, target=tvm_target(target))
    return KernelLibrary(content=_linked(built, target), operand_types=code.operands)


def _operator_library(kernel: Kernel, target: Target) -> KernelLibrary:
    """An operator that no schedule is written for, as TVM lowers it."""
    from tvm import relax

    from millifit.targets.schedules.onnx_operator import import_operator

    code_for = tvm_target(target)
    module = import_operator(kernel, code_for)
    module["empty"] = _empty(len(kernel.inputs) + 1, target)
    built = relax.build(module, target=code_for)
    return KernelLibrary(content=_linked(built, target), operand_types=(), executable=True)


def _empty(operands: int, target: Target) -> Any:
    """A function of so many tensors that does nothing, on the processor."""
    from tvm import tirx

    names = [tirx.Var(f"operand{i}", "handle") for i in range(operands)]
    empty = tirx.PrimFunc(names, tirx.Evaluate(0)).with_attr("global_symbol", "empty")
    host = tvm_target(target).host
    return empty if host is None else empty.with_attr("target", host)


def _linked(built: Any, target: Target) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        export_library(Compiled(executable=built, weights=()), path, target)
        return path.read_bytes()
