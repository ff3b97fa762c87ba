"""CUDA kernels on this machine's processor: the generated CUDA C++ compiled with g++ and run.

Proves what kernels compute; says nothing about their speed, nor about what a GPU's threads might do
in another order between two barriers.
"""

from __future__ import annotations

import atexit
import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi

from millifit.targets.build import tvm_target
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Program
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Gpu, Target

_HEADERS = Path(__file__).parent / "emulation"
_FEATURES = {
    "sm_75": (40, 49_152), "sm_80": (108, 163_840), "sm_90": (132, 232_448),
}  # fmt: skip
_DYNAMIC = re.compile(r"extern __shared__ __align__\(\d+\) (\w[\w ]*) (\w+)\[\];")
SIGNATURE = re.compile(r'extern "C" __global__ void[^{;]*?\b(\w+)\(([^)]*)\) \{')


def cuda(arch: str = "sm_80", **changes: Any) -> Target:
    """A target with a GPU of that architecture."""
    units, shared = _FEATURES[arch]
    facts: dict[str, Any] = {
        "api": "cuda", "name": "test", "arch": arch, "compute_units": units, "subgroup": 32,
        "max_threads": 1024, "shared_bytes": shared,
        "features": ("fp16", "dp4a", "tensor_cores_fp16", "tensor_cores_int8"), **changes,
    }  # fmt: skip
    return Target(
        name=arch, triple="x86_64-linux-gnu", mcpu="x86-64-v3", vector_bits=256,
        vector_registers=16, dot_product="avx2_pmaddwd", cores=2, l1_bytes=32 << 10,
        l2_bytes=1 << 20, l3_bytes=32 << 20, cpu="test", reach="none", gpu=Gpu(**facts),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch of a generated kernel: its parameters in CUDA C++, blocks and threads."""

    name: str
    parameters: tuple[str, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The CUDA C++ of some kernels, and the launches that each of them makes, in order."""

    source: str
    launches: Mapping[str, tuple[Launch, ...]]


def generate(codes: Mapping[str, KernelCode], target: Target) -> Generated:
    """What TVM generates for kernels, by name."""
    functions = {
        name: code.function.with_attr("global_symbol", name) for name, code in codes.items()
    }
    build = tvm_ffi.get_global_func("target.build.cuda")
    lowered: list[Any] = []

    def watched(module: Any, for_target: Any) -> Any:
        lowered.append(module)
        return build(module, for_target)

    tvm_ffi.register_global_func("target.build.cuda", watched, override=True)
    try:
        # Else the host computes what launches have in common, and there is no host here.
        with tvm.transform.PassContext(config={"tirx.disable_cse_tir": True}):
            made = tvm.compile(tvm.IRModule(functions), target=tvm_target(target))
    finally:
        tvm_ffi.register_global_func("target.build.cuda", build, override=True)
    (device,) = made.mod.imports
    source = device.inspect_source("cuda")
    return Generated(source=source, launches=_launches(lowered[0], source, codes))


def _launches(module: Any, source: str, names: Iterable[str]) -> dict[str, tuple[Launch, ...]]:
    """The launches of every kernel: the first is called NAME_kernel, the next NAME_kernel_1."""
    parameters = dict(SIGNATURE.findall(source))
    made = {}
    for _, function in module.functions_items():
        symbol = str(function.attrs["global_symbol"])
        extents = _extents(function)
        grid, block = (
            tuple(extents.get(f"{kind}Idx.{axis}", 1) for axis in "xyz")
            for kind in ("block", "thread")
        )
        own = tuple(each.strip() for each in parameters[symbol].split(","))
        made[symbol] = Launch(name=symbol, parameters=own, grid=grid, block=block)
    found = {}
    for name in names:
        numbered = [f"{name}_kernel", *(f"{name}_kernel_{i}" for i in range(1, len(made)))]
        found[name] = tuple(made[symbol] for symbol in numbered if symbol in made)
    return found


def _extents(function: Any) -> dict[str, int]:
    """Blocks and threads of a device function along each axis."""
    found: dict[str, int] = {}

    def visit(node: Any) -> None:
        if isinstance(node, tvm.tirx.stmt.AttrStmt) and node.attr_key == "thread_extent":
            found[str(node.node.thread_tag)] = int(node.value)

    tvm_ffi.structural_walk(function.body, visit)
    return found


def _workspaces(function: Any) -> dict[str, int]:
    """Bytes of the global memory that a kernel takes for itself."""
    found: dict[str, int] = {}

    def visit(node: Any) -> None:
        if isinstance(node, tvm.tirx.stmt.AllocBuffer) and node.buffer.scope() == "global":
            size = int(np.prod([int(extent) for extent in node.buffer.shape]))
            found[node.buffer.name] = size * np.dtype(node.buffer.dtype).itemsize

    tvm_ffi.structural_walk(function.body, visit)
    return found


def emulated_source(code: str) -> str:
    """CUDA C++ in the words of the emulation."""
    shared = r"\1* \2 = reinterpret_cast<\1*>(emulation::shared);"
    code = _DYNAMIC.sub(shared, code).replace("__shared__ alignas(64)", "alignas(64) __shared__")
    return f'#include "scheduler.inc"\n{code}'


class EmulatedGpu:
    """Kernels compiled for this machine's processor, by name."""

    def __init__(self, codes: Mapping[str, KernelCode], target: Target) -> None:
        generated = generate(codes, target)
        drivers = [_driver(name, code, generated.launches[name]) for name, code in codes.items()]
        text = "\n".join([emulated_source(generated.source), *drivers])
        self._library = ctypes.CDLL(str(compiled(text)))

    def run(self, name: str, inputs: Sequence[Array], output: TensorType) -> Array:
        """The output of a kernel for these activations and operands."""
        # Poisoned, so that an element nobody writes is noticed.
        made = np.full(output.shape, 77, output.dtype)
        arrays = [*(np.array(each, order="C") for each in inputs), made]
        pointers = (ctypes.c_void_p * len(arrays))(*(each.ctypes.data for each in arrays))
        sizes = (ctypes.c_size_t * len(arrays))(*(each.nbytes for each in arrays))
        getattr(self._library, f"run_{name}")(pointers, sizes)
        return made


def run(
    kernel: Kernel, target: Target, activations: Sequence[Array], constants: Mapping[str, Array]
) -> Array:
    """Compile a kernel for the emulation and run it once."""
    code = schedule(kernel, target)
    operands = code.pack(constants)
    assert [(o.shape, str(o.dtype)) for o in operands] == [
        (t.shape, t.dtype) for t in code.operands
    ]
    gpu = EmulatedGpu({"main": code}, target)
    return gpu.run("main", (*activations, *operands), kernel.output)


class EmulatedProgram:
    """A lowered network, kernel by kernel; activations stay where NumPy has them."""

    def __init__(self, program: Program, target: Target) -> None:
        kernels = [kernel for kernel in program.kernels if kernel.op != "reshape"]
        self._program = program
        self._names = {kernel: f"k{i}" for i, kernel in enumerate(kernels)}
        self._codes = {kernel: schedule(kernel, target) for kernel in kernels}
        named = {self._names[kernel]: code for kernel, code in self._codes.items()}
        self._gpu = EmulatedGpu(named, target)

    def run(self, x: Array) -> list[Array]:
        """All outputs for one input."""
        (name,) = self._program.inputs
        values = {name: x}
        for call in self._program.calls:
            kernel = call.kernel
            given = [
                values[n].reshape(t.shape) for n, t in zip(call.inputs, kernel.inputs, strict=True)
            ]
            if kernel.op == "reshape":
                values[call.output] = given[0].reshape(kernel.output.shape)
                continue
            operands = self._codes[kernel].pack(call.constants)
            made = self._gpu.run(self._names[kernel], (*given, *operands), kernel.output)
            values[call.output] = made
        return [values[output] for output in self._program.outputs]


def _driver(name: str, code: KernelCode, launches: Sequence[Launch]) -> str:
    """C++ that runs a kernel's launches on copies of the caller's tensors."""
    places = {str(p.name): i for i, p in enumerate(code.function.params)}
    workspaces = _workspaces(code.function)
    lines = [f"static emulation::Tensor* {name}_tensors[{len(places) + len(workspaces)}];"]
    places |= {each: len(places) + i for i, each in enumerate(workspaces)}
    for launch in launches:
        arguments = [_argument(name, parameter, places) for parameter in launch.parameters]
        lines.append(
            f"static void thread_of_{launch.name}() {{ {launch.name}({', '.join(arguments)}); }}"
        )
    lines.append(f'extern "C" void run_{name}(void** given, size_t* bytes) {{')
    given = len(places) - len(workspaces)
    lines.append(f"auto tensors = {name}_tensors;")
    lines.append(f"for (int i = 0; i < {given}; ++i) "
                 "tensors[i] = new emulation::Tensor(given[i], bytes[i]);")  # fmt: skip
    for each, size in workspaces.items():
        lines.append(f"tensors[{places[each]}] = new emulation::Tensor(nullptr, {size});")
    for launch in launches:
        grid, block = ("{" + ", ".join(map(str, e)) + "}" for e in (launch.grid, launch.block))
        lines.append(f"emulation::launch({grid}, {block}, thread_of_{launch.name});")
    lines.append(f"for (int i = 0; i < {len(places)}; ++i) delete tensors[i];")
    return "\n".join([*lines, "}"])


def _argument(name: str, parameter: str, places: Mapping[str, int]) -> str:
    """What a launch passes: a tensor that starts some elements after the pointer, and how many."""
    kind, _, own = parameter.rpartition(" ")
    if own.endswith("_offset"):
        return "emulation::OFFSET"
    element = kind.replace("__restrict__", "").replace("*", "").strip()
    owner = own.removesuffix("_ptr").removesuffix("_flat")
    tensor = f"{name}_tensors[{places[owner]}]"
    offset = "" if own.endswith("_flat_ptr") else " + emulation::OFFSET"
    return f"{tensor}->before<{element}>(){offset}"


def compiled(text: str) -> Path:
    """The library of some C++, kept while this process lives."""
    folder = Path(tempfile.mkdtemp(prefix="millifit-emulated-gpu-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "kernels.cpp").write_text(text)
    command = [
        "g++", "-std=c++17", "-O2", "-w", "-march=native", "-shared", "-fPIC", "-U_FORTIFY_SOURCE",
        "-fno-strict-aliasing",
        "-ffp-contract=fast",  # as compilers for GPUs do
        f"-I{_HEADERS}", "kernels.cpp", "-o", "kernels.so",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"the generated code does not compile: {done.stderr[:4000]}")
    return folder / "kernels.so"
