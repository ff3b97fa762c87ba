"""How the tensors of a kernel are read and written: always as float32 or integers.

16-bit floats are converted on the way. A device that computes in half precision, and every one of
CUDA, has such loads; OpenCL without ``cl_khr_fp16`` has them as functions, ``vload_half``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx import stmt
from tvm.tirx.expr import BufferLoad

from millifit.targets.kernel import Kernel
from millifit.targets.memory_plan import ALIGNMENT
from millifit.targets.network import TensorType
from millifit.targets.schedules import half, tir
from millifit.targets.target import Gpu

_REFUSAL = "#error"
_HALVES = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A kernel's tensors on a GPU, by the names that `code.signature` gives them."""

    gpu: Gpu
    parameters: tuple[tir.Buffer, ...]
    declarations: tuple[tir.Statement, ...]
    views: Mapping[str, tir.Buffer]
    types: Mapping[str, str]

    def read(self, name: str, at: tir.Expr, lanes: int = 1) -> tir.Expr:
        """`lanes` neighbours: floats of any width as float32, integers as they are."""
        view, dtype = self.views[name], self.types[name]
        if dtype == "float16" and self._by_function:
            call = "vload_half" if lanes == 1 else f"vload_half{lanes}"
            address = tirx.address_of(view[at])
            return tir.external(call, "float32", lanes, tir.const(0), address)
        value = tir.load(view, at, lanes)
        return half.widen(value, dtype, lanes) if dtype in _HALVES else value

    def gather(self, name: str, at: tir.Expr) -> tir.Expr:
        """float32 elements at the places that a vector of indices names."""
        return BufferLoad(self.views[name], [at])

    def read_half(self, name: str, at: tir.Expr, lanes: int = 1) -> tir.Expr:
        """`lanes` neighbours as the float16 they are; only where `computes_half`."""
        return tir.load(self.views[name], at, lanes)

    def write(self, name: str, at: tir.Expr, value: tir.Expr, lanes: int = 1) -> tir.Statement:
        """Write what `read` would give."""
        view, dtype = self.views[name], self.types[name]
        if dtype == "float16" and self._by_function:
            call = "vstore_half" if lanes == 1 else f"vstore_half{lanes}"
            address = tirx.address_of(view[at])
            return stmt.Evaluate(tirx.call_extern("int32", call, value, tir.const(0), address))
        if dtype in _HALVES:
            value = half.narrow(value, dtype, lanes)
        return tir.store(view, at, value, lanes)

    @property
    def computes_half(self) -> bool:
        """Whether products are faster in half precision: on OpenCL devices that have it.

        CUDA's devices have tensor cores for that; their other units are used in float32.
        """
        return self.gpu.api == "opencl" and "fp16" in self.gpu.features

    @property
    def _by_function(self) -> bool:
        return self.gpu.api == "opencl" and "fp16" not in self.gpu.features

    def function(self, body: Sequence[tir.Statement]) -> tir.PrimFunc:
        """The kernel with this body, which TVM does not schedule any further."""
        made = tir.function(self.parameters, [*self.declarations, *body])
        return made.with_attr("tirx.is_scheduled", True)


def memory(kernel: Kernel, gpu: Gpu, operands: Mapping[str, TensorType]) -> Memory:
    """The parameters of a kernel: activations, operands and output, in the order of a call.

    They lie in the middle of larger memory, `ALIGNMENT` bytes apart. The views say so in a form
    that TVM's generators understand, else they read vectors element by element.
    """
    if gpu.api == "opencl":
        _accept_halves()
    names = ("input", "residual", *(f"input{i}" for i in range(2, len(kernel.inputs))))
    types = dict(zip(names, kernel.inputs, strict=False))
    types |= {**operands, "output": kernel.output}
    parameters, declarations, views = [], [], {}
    for name, kind in types.items():
        buffer, declaration, view = _parameter(name, kind)
        parameters.append(buffer)
        declarations.append(declaration)
        views[name] = view
    return Memory(
        gpu=gpu, parameters=tuple(parameters), declarations=tuple(declarations), views=views,
        types={name: kind.dtype for name, kind in types.items()},
    )  # fmt: skip


def _parameter(name: str, kind: TensorType) -> tuple[tir.Buffer, tir.Statement, tir.Buffer]:
    """A parameter, and the declaration of its flat view."""
    factor = ALIGNMENT // np.dtype(kind.dtype).itemsize
    offset = tirx.Var(f"{name}_offset", "int32")
    buffer = tirx.decl_buffer(
        tuple(kind.shape), kind.dtype, name=name, elem_offset=offset, offset_factor=factor
    )
    view = tirx.decl_buffer(
        (kind.elements,), half.storage(kind.dtype), name=f"{name}_flat", data=buffer.data,
        elem_offset=tirx.floordiv(offset, factor) * factor,
    )  # fmt: skip
    return buffer, stmt.DeclBuffer(view, data=buffer.data), view


def _accept_halves() -> None:
    """Let OpenCL code hold halves in memory where the device cannot compute with them.

    TVM's generator refuses them altogether on a device without ``cl_khr_fp16``, although OpenCL C
    has pointers to them, ``vload_half`` and ``vstore_half`` everywhere.
    """
    name = "tvm_callback_opencl_postproc"
    if tvm.get_global_func(name, allow_missing=True) is None:
        tvm.register_global_func(name, _without_refusal)


def _without_refusal(code: str, _target: object) -> str:
    return "\n".join(line for line in code.splitlines() if not line.startswith(_REFUSAL)) + "\n"


def in_float32(kernel: Kernel) -> Kernel:
    """A kernel as its arithmetic sees it: `Memory` converts what has 16 bits on the way."""

    def seen(kind: TensorType) -> TensorType:
        return replace(kind, dtype="float32") if kind.dtype in _HALVES else kind

    return replace(
        kernel, inputs=tuple(seen(kind) for kind in kernel.inputs), output=seen(kernel.output)
    )
