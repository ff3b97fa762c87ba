"""Code generation: one kernel to be timed, or a whole program to be deployed.

Both go through `schedules.rules.schedule`, so what is timed is what ships.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millifit.errors import CompileError, MillifitError
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Call, Program
from millifit.targets.target import Target

if TYPE_CHECKING:  # loads TVM
    from millifit.targets.schedules.code import KernelCode

# Tensors by copy, place among the operands (-1: the output) and type.
MadeTensors = dict[tuple[int, int, TensorType], Any]

_LARGEST_LIBRARY_BYTES = 16 * 2**20  # weights are not in it


def tvm_target(target: Target) -> Any:
    """The target as TVM names it."""
    import tvm

    facts: dict[str, Any] = {
        "kind": "llvm",
        "mtriple": target.triple,
        "mcpu": target.mcpu,
        "num-cores": target.threads,
    }
    if target.features:
        facts["mattr"] = list(target.features)
    return tvm.target.Target(facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """A kernel compiled in this process. `function` takes activations, operands and the output."""

    kernel: Kernel
    function: Callable[..., Any]
    operand_types: tuple[TensorType, ...]

    def operands(
        self, rng: np.random.Generator, working_set_bytes: int, made: MadeTensors | None = None
    ) -> list[tuple[Any, ...]]:
        """Argument tuples to call `function` with in turn.

        There are as many as it takes to hold `working_set_bytes` (at least 2, at most 64): real
        activations, weights and outputs change between calls as they do in a network. Tensors found
        in `made` are used again, and new ones added to it: where memory lies decides part of a
        kernel's time, so variants of one operator are timed on the same.
        """
        types = (*self.kernel.inputs, *self.operand_types)
        size = sum(t.bytes for t in types) + self.kernel.output.bytes
        copies = min(64, max(2, math.ceil(working_set_bytes / size)))
        made = {} if made is None else made
        return [self._arguments(rng, types, copy, made) for copy in range(copies)]

    def _arguments(
        self, rng: np.random.Generator, types: Sequence[TensorType], copy: int, made: MadeTensors
    ) -> tuple[Any, ...]:
        import tvm

        places = [*enumerate(types), (-1, self.kernel.output)]
        for place, kind in places:
            if (copy, place, kind) not in made:
                value = _random(rng, kind) if place >= 0 else np.zeros(kind.shape, kind.dtype)
                made[copy, place, kind] = tvm.runtime.tensor(value)
        return tuple(made[copy, place, kind] for place, kind in places)


def _random(rng: np.random.Generator, kind: TensorType) -> Array:
    """Plausible values: no denormals, and scales and limits that are numbers."""
    if "float" in kind.dtype:
        return rng.uniform(0.5, 1.5, kind.shape).astype(kind.dtype)
    limits = np.iinfo(kind.dtype)
    low, high = max(limits.min, -64), min(limits.max, 63)
    return rng.integers(low, high, kind.shape, dtype=kind.dtype, endpoint=True)


def build_kernel(kernel: Kernel, target: Target) -> BuiltKernel:
    """Compile one kernel for this machine.

    Raises CompileError with TVM's reason.
    """
    import tvm
    from tvm import relax

    from millifit.targets.schedules.rules import schedule

    with _compile_errors(f"kernel '{kernel.op}' ({kernel.key})"):
        if kernel.op == "onnx":
            from millifit.targets.schedules.onnx_operator import import_operator

            code_for = tvm_target(target)
            executable = relax.build(import_operator(kernel, code_for), target=code_for)
            machine = relax.VirtualMachine(executable, tvm.cpu())
            run = machine["main"]
            return BuiltKernel(
                kernel=kernel, function=lambda *given: run(*given[:-1]), operand_types=()
            )
        code = schedule(kernel, target)
        module = tvm.IRModule({"main": code.function.with_attr("global_symbol", "main")})
        built = tvm.compile(module, target=tvm_target(target)).jit()
        return BuiltKernel(kernel=kernel, function=built["main"], operand_types=code.operands)


class _compile_errors:  # noqa: N801 - used as a verb
    """Turns what TVM raises into a CompileError that names the subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # What cannot be written is no fault of the code: whoever names the place explains it.
        if isinstance(error, MillifitError | OSError) or not isinstance(error, Exception):
            return
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise CompileError(
            f"{self.subject} did not compile: {lines[-1] if lines else type(error).__name__}"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled program: its library's executable, and the operands of its function ``main``.

    ``main`` takes the network's input and then `weights`, in order.
    """

    executable: Any
    weights: tuple[Array, ...]


def compile_program(program: Program, target: Target) -> Compiled:
    """Compile a whole program into one library with statically planned buffers."""
    from tvm import relax

    with _compile_errors(f"network '{program.name}'"):
        module, weights = _relax_module(program, target)
        executable = relax.build(module, target=tvm_target(target))
    return Compiled(executable=executable, weights=tuple(weights))


def _codes(program: Program, target: Target) -> dict[Kernel, KernelCode]:
    """The code of every kernel that a schedule writes; CompileError names the node at fault."""
    from millifit.targets.schedules.rules import schedule

    codes: dict[Kernel, KernelCode] = {}
    for call in program.calls:
        if call.kernel in codes or call.kernel.op in ("onnx", "reshape"):
            continue
        try:
            codes[call.kernel] = schedule(call.kernel, target)
        except CompileError as error:
            raise CompileError(f"node '{call.nodes[0]}': {error}") from error
    return codes


def _relax_module(program: Program, target: Target) -> tuple[Any, list[Array]]:
    """The program in Relax: one call_tir a kernel, equal kernels sharing one function."""
    from tvm import relax

    def tensor_type(kind: TensorType) -> Any:
        return relax.TensorType(kind.shape, kind.dtype)

    builder = relax.BlockBuilder()
    inputs = [relax.Var(name, tensor_type(program.types[name])) for name in program.inputs]
    values: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
    codes = _codes(program, target)
    weights: list[Array] = []
    parameters: list[Any] = []
    operands_of: list[list[Any]] = []
    for call in program.calls:
        operands: list[Any] = []
        if call.kernel in codes:
            for array in codes[call.kernel].pack(call.constants):
                kind = TensorType(shape=array.shape, dtype=str(array.dtype))
                parameters.append(relax.Var(f"w{len(weights)}", tensor_type(kind)))
                weights.append(np.ascontiguousarray(array))
                operands.append(parameters[-1])
        operands_of.append(operands)
    functions: dict[Kernel, Any] = {}
    with builder.function("main", [*inputs, *parameters]):
        with builder.dataflow():
            for call, operands in zip(program.calls, operands_of, strict=True):
                values[call.output] = builder.emit(
                    _call(builder, call, operands, values, functions, codes, target)
                )
            outputs = [values[name] for name in program.outputs]
            result = builder.emit_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        builder.emit_func_output(result)
    return builder.get(), weights


def _call(  # type: ignore[no-untyped-def]
    builder, call: Call, operands, values, functions, codes, target: Target
):
    """One call as a Relax expression."""
    from tvm import relax

    kernel = call.kernel

    def seen_as(name: str, kind: TensorType) -> Any:
        value = values[name]
        held = tuple(int(extent) for extent in value.ty.shape)
        if held == kind.shape:
            return value
        return builder.emit(relax.op.reshape(value, kind.shape))

    inputs = [seen_as(n, t) for n, t in zip(call.inputs, kernel.inputs, strict=True)]
    if kernel.op == "reshape":
        return relax.op.reshape(inputs[0], kernel.output.shape)
    if kernel not in functions:
        name = f"k{len(functions)}_{kernel.op}"
        if kernel.op == "onnx":
            from millifit.targets.schedules.onnx_operator import add_operator

            functions[kernel] = add_operator(builder, kernel, name, tvm_target(target))
        else:
            functions[kernel] = builder.add_func(codes[kernel].function, name)
    if kernel.op == "onnx":
        return relax.Call(functions[kernel], inputs)
    return relax.call_tir(
        functions[kernel],
        [*inputs, *operands],
        relax.TensorType(kernel.output.shape, kernel.output.dtype),
    )


def export_library(compiled: Compiled, path: Path, target: Target) -> None:
    """Link the program's library, for this machine or another.

    Raises CompileError when no linker for the target is installed.
    """
    from tvm.support import cc

    machine = target.triple.split("-")[0]
    fcompile = None
    if machine != platform.machine():
        compiler = f"{machine}-linux-gnu-g++"
        if shutil.which(compiler) is None:
            raise CompileError(
                f"linking for '{target.name}' needs {compiler}: "
                f"apt-get install g++-{machine.replace('_', '-')}-linux-gnu"
            )
        fcompile = cc.cross_compiler(compiler)
    elif shutil.which("g++") is None and shutil.which("c++") is None:
        raise CompileError("linking needs a C++ compiler: apt-get install g++")
    with _compile_errors(f"library '{path.name}'"), tempfile.TemporaryDirectory() as work:
        # LLVM ends the process where it cannot write; this raises OSError before.
        with (Path(work) / "room").open("wb") as room:
            os.posix_fallocate(room.fileno(), 0, _LARGEST_LIBRARY_BYTES)
        (Path(work) / "room").unlink()
        linked = Path(work) / "library.so"
        compiled.executable.export_library(str(linked), fcompile=fcompile)
        shutil.copyfile(linked, path)
