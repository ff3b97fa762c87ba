"""Code generation: one kernel to be timed, or a whole program to be deployed.

Both go through `schedules.rules.schedule`, so what is timed is what ships.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import CompileError, MillifitError
from millifit.targets.cuda_compiler import pack_cubins, use_compiler
from millifit.targets.device import runtime_device
from millifit.targets.kernel import Kernel
from millifit.targets.linking import linker_for
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Program
from millifit.targets.target import Target

# Tensors by copy, place among the operands (-1: the output) and type.
MadeTensors = dict[tuple[int, int, TensorType], Any]

_LARGEST_LIBRARY_BYTES = 16 * 2**20  # weights are not in it


def tvm_target(target: Target) -> Any:
    """The target as TVM names it; where it has a GPU, its processor is the host."""
    import tvm

    facts: dict[str, Any] = {
        "kind": "llvm",
        "mtriple": target.triple,
        "mcpu": target.mcpu,
        "num-cores": target.threads,
    }
    if target.features:
        facts["mattr"] = list(target.features)
    if target.gpu is None:
        return tvm.target.Target(facts)
    gpu: dict[str, Any] = {
        "kind": target.gpu.api,
        "max_num_threads": target.gpu.max_threads,
        "max_threads_per_block": target.gpu.max_threads,
        "max_shared_memory_per_block": target.gpu.shared_bytes,
        "thread_warp_size": target.gpu.subgroup,
    }
    if target.gpu.arch:
        gpu["arch"] = target.gpu.arch
    if target.gpu.api == "opencl":
        del gpu["max_threads_per_block"]
    return tvm.target.Target(gpu, host=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """A kernel compiled in this process.

    `function` takes activations, operands and the output: tensors of `device` (None: the
    processor). On a GPU it works on after it has returned.
    """

    kernel: Kernel
    function: Callable[..., Any]
    operand_types: tuple[TensorType, ...]
    device: Any = None

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
                made[copy, place, kind] = tvm.runtime.tensor(value, device=self.device)
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

    Raises CompileError with TVM's reason, TargetError where the target's GPU is not here.
    """
    import tvm

    from millifit.targets.schedules.rules import schedule

    device = runtime_device(target)
    prepare_compiler(target)
    with compile_errors(f"kernel '{kernel.op}' ({kernel.key})"):
        if kernel.op == "onnx":
            return _build_operator(kernel, target, device)
        code = schedule(kernel, target)
        module = tvm.IRModule({"main": code.function.with_attr("global_symbol", "main")})
        built = tvm.compile(module, target=tvm_target(target))
        return BuiltKernel(
            kernel=kernel, function=runnable(built, target)["main"],
            operand_types=code.operands, device=device,
        )  # fmt: skip


def _build_operator(kernel: Kernel, target: Target, device: Any) -> BuiltKernel:
    """An operator that no schedule is written for, as TVM lowers it."""
    from tvm import relax

    from millifit.targets.schedules.onnx_operator import import_operator

    code_for = tvm_target(target)
    executable = relax.build(import_operator(kernel, code_for), target=code_for)
    run = relax.VirtualMachine(runnable(executable, target), device)["main"]
    return BuiltKernel(
        kernel=kernel, function=lambda *given: run(*given[:-1]), operand_types=(), device=device
    )


def prepare_compiler(target: Target) -> None:
    """What TVM has to know before it compiles for a target."""
    if target.gpu is not None and target.gpu.api == "cuda":
        use_compiler(target.gpu.arch)


def runnable(executable: Any, target: Target) -> Any:
    """What was compiled, as a module that runs in this process."""
    import tvm

    if target.gpu is not None and target.gpu.api == "opencl":
        tvm.get_global_func("millifit.opencl.make_runnable")(executable.mod)
    return executable.jit()


class compile_errors:  # noqa: N801 - used as a verb
    """Turns what TVM raises into a CompileError that names the subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def __enter__(self) -> None:
        """Nothing to do before."""

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
    """Compile a whole program into one library with statically planned buffers.

    On CUDA, kernels that read neither an input nor write an output become one graph, captured at
    the first run and launched as a whole after that: at batch 1, launches would take longer than
    most kernels.
    """
    from millifit.targets.relax_program import relax_module

    prepare_compiler(target)
    with compile_errors(f"network '{program.name}'"):
        module, weights = relax_module(program, target, tvm_target(target))
        executable = _executable(module, target)
    return Compiled(executable=executable, weights=tuple(weights))


def _executable(module: Any, target: Target) -> Any:
    from tvm import relax

    code_for = tvm_target(target)
    if target.gpu is None or target.gpu.api != "cuda":
        return relax.build(module, target=code_for)
    lowered = _with_graphs(module, code_for)
    return relax.build(lowered, target=code_for, relax_pipeline=None)


def _with_graphs(module: Any, code_for: Any) -> Any:
    """The module as TVM's pipeline makes it for CUDA; without graphs where one would fail.

    A graph of one kernel gives nothing back, which TVM's virtual machine cannot return.
    """
    import tvm
    from tvm import relax

    def lowered(graphs: bool) -> Any:
        config = {"relax.backend.use_cuda_graph": graphs}
        with tvm.transform.PassContext(config=config), code_for:
            return relax.get_default_pipeline(code_for)(module)

    made = lowered(graphs=True)
    captured = [f for v, f in made.functions_items() if v.name_hint.endswith("cuda_graph_capture")]
    return lowered(graphs=False) if any(_gives_nothing(each) for each in captured) else made


def _gives_nothing(function: Any) -> bool:
    returned = function.ret_ty
    return hasattr(returned, "fields") and not len(returned.fields)


def export_library(compiled: Compiled, path: Path, target: Target) -> str:
    """Link the program's library, for this machine or another; the command that linked it.

    Raises CompileError when no linker for the target is installed.
    """
    linker = linker_for(target)
    with compile_errors(f"library '{path.name}'"), tempfile.TemporaryDirectory() as work:
        # LLVM ends the process where it cannot write; this raises OSError before.
        with (Path(work) / "room").open("wb") as room:
            os.posix_fallocate(room.fileno(), 0, _LARGEST_LIBRARY_BYTES)
        (Path(work) / "room").unlink()
        linked = Path(work) / "library.so"
        packing = {}
        if target.gpu is not None and target.gpu.api == "cuda":
            packing["fpack_imports"] = pack_cubins(target.gpu.arch)
        compiled.executable.export_library(str(linked), fcompile=linker, **packing)
        shutil.copyfile(linked, path)
    return linker.name
