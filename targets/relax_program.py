"""A program in Relax, as TVM's virtual machine runs it: kernels, views, and one arena of memory.

Memory is planned here rather than by TVM, whose plan shares whole buffers of about the same size:
ResNet-50 worked in 11.4 MB instead of 8.0. The network's outputs have memory of their own, because
they outlive the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.memory_plan import Arena, Life, arrange
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Call, Program
from millifit.targets.target import Target

if TYPE_CHECKING:  # loads TVM
    from millifit.targets.schedules.code import KernelCode


def relax_module(program: Program, target: Target, tvm_target: Any) -> tuple[Any, list[Array]]:
    """The program as a module with a function ``main`` of inputs and weights, and the weights.

    Equal kernels share one function.
    """
    return _Writer(program, _codes(program, target), tvm_target).module()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where the outputs of a program's calls lie: in the arena, or `alone` in memory of their own.

    `base` has the tensor whose memory a tensor is, where that is another one (a view).
    """

    arena: Arena
    place: Mapping[str, int]
    alone: frozenset[str]
    base: Mapping[str, str] = field(default_factory=dict)


def plan_memory(program: Program) -> Memory:
    """Place every tensor that a kernel writes; one that a fallback operator makes is its own.

    What leaves the network lies alone, because it outlives the run; so does what a fallback
    operator reads, because TVM's own code takes no tensor from the middle of memory.
    """
    base: dict[str, str] = {}
    lives: dict[str, list[int]] = {}
    outside = set(program.outputs)
    for index, call in enumerate(program.calls):
        for name in call.inputs:
            owner = base.get(name, name)
            if owner in lives:
                lives[owner][1] = index
        if call.kernel.op == "reshape":
            base[call.output] = base.get(call.inputs[0], call.inputs[0])
        elif call.kernel.op == "onnx":
            outside |= set(call.inputs)
        else:
            lives[call.output] = [index, index]
    kept = frozenset(base.get(name, name) for name in outside) & set(lives)
    names = [name for name in lives if name not in kept]
    made = {call.output: call.kernel.output for call in program.calls}
    arena = arrange([Life(bytes=made[n].bytes, first=lives[n][0], last=lives[n][1]) for n in names])
    return Memory(
        arena=arena, place=dict(zip(names, arena.offsets, strict=True)), alone=kept, base=base
    )


class _Writer:
    """Writes one module."""

    def __init__(
        self, program: Program, codes: Mapping[Kernel, KernelCode], tvm_target: Any
    ) -> None:
        from tvm import relax

        self.relax = relax
        self.program = program
        self.codes = codes
        self.tvm_target = tvm_target
        self.builder = relax.BlockBuilder()
        self.memory = plan_memory(program)
        self.functions: dict[Kernel, Any] = {}
        self.values: dict[str, Any] = {}
        self.storage: Any = None

    def module(self) -> tuple[Any, list[Array]]:
        """The module, and the weights in the order of its parameters."""
        relax, program = self.relax, self.program
        inputs = [relax.Var(name, _type(program.types[name])) for name in program.inputs]
        self.values = dict(zip(program.inputs, inputs, strict=True))
        weights: list[Array] = []
        parameters: list[Any] = []
        operands_of: list[list[Any]] = []
        for call in program.calls:
            packed = (
                self.codes[call.kernel].pack(call.constants) if call.kernel in self.codes else ()
            )
            made = []
            for array in packed:
                kind = TensorType(shape=array.shape, dtype=str(array.dtype))
                made.append(relax.Var(f"w{len(weights)}", _type(kind)))
                weights.append(np.ascontiguousarray(array))
            parameters += made
            operands_of.append(made)
        with self.builder.function("main", [*inputs, *parameters], pure=False):
            if self.memory.arena.bytes:
                self.storage = self._allocate(self.memory.arena.bytes)
            for call, operands in zip(program.calls, operands_of, strict=True):
                self.values[call.output] = self._call(call, operands)
            outputs = [self.values[name] for name in program.outputs]
            result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
            self.builder.emit_func_output(self.builder.emit(result))
        module = self.builder.get()
        main = module.get_global_var("main")
        # Parameters behind the inputs are the same in every run: what graphs of CUDA are made for.
        module.update_func(main, module[main].with_attr("num_input", len(program.inputs)))
        return module, weights

    def _allocate(self, size: int) -> Any:
        relax = self.relax
        return self.builder.emit(
            relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")
        )

    def _tensor(self, name: str, kind: TensorType) -> Any:
        """The tensor of that name, in its memory."""
        relax = self.relax
        storage, offset = self.storage, self.memory.place.get(name, 0)
        if name in self.memory.alone:
            storage = self._allocate(kind.bytes)
        return self.builder.emit(
            relax.op.memory.alloc_tensor(storage, offset, relax.ShapeExpr(kind.shape), kind.dtype)
        )

    def _call(self, call: Call, operands: Sequence[Any]) -> Any:
        """Emit one call; the value it makes."""
        kernel = call.kernel
        inputs = [self._seen_as(n, t) for n, t in zip(call.inputs, kernel.inputs, strict=True)]
        if kernel.op == "reshape":
            return self._view(inputs[0], kernel.output)
        if kernel.op == "onnx":
            return self.builder.emit(self.relax.Call(self._function(kernel), inputs))
        output = self._tensor(call.output, kernel.output)
        self.builder.emit(self.relax.Call(self._function(kernel), [*inputs, *operands, output]))
        return output

    def _function(self, kernel: Kernel) -> Any:
        """The kernel's function, written once."""
        if kernel not in self.functions:
            name = f"k{len(self.functions)}_{kernel.op}"
            if kernel.op == "onnx":
                from millifit.targets.schedules.onnx_operator import add_operator

                made = add_operator(self.builder, kernel, name, self.tvm_target)
            else:
                # Without the mark TVM would schedule for a GPU what is scheduled already.
                code = self.codes[kernel].function.with_attr("tirx.is_scheduled", True)
                made = self.builder.add_func(code, name)
            self.functions[kernel] = made
        return self.functions[kernel]

    def _seen_as(self, name: str, kind: TensorType) -> Any:
        value = self.values[name]
        held = tuple(int(extent) for extent in value.ty.shape)
        return value if held == kind.shape else self._view(value, kind)

    def _view(self, value: Any, kind: TensorType) -> Any:
        """The same memory in another shape."""
        relax = self.relax
        return self.builder.emit(
            relax.call_pure_packed(
                "vm.builtin.reshape", value, relax.ShapeExpr(kind.shape), ty_args=[_type(kind)]
            )
        )


def _type(kind: TensorType) -> Any:
    from tvm import relax

    return relax.TensorType(kind.shape, kind.dtype)
