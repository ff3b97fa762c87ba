"""What a schedule returns: a kernel's code and the operands it expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import tir
from millifit.targets.schedules.half import storage

Constants = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCode:
    """A kernel's code.

    `function` takes the kernel's activations, then `operands` (packed constants), then the output.
    `pack` turns the constants of a call, in the network's layout, into arrays of those types.
    """

    function: tir.PrimFunc
    operands: tuple[TensorType, ...]
    pack: Callable[[Constants], tuple[Array, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A kernel's parameters, and a flat view of each by name.

    The names are ``input``, ``residual`` (a second activation), ``input2`` and so on, those of the
    operands, ``output``.
    """

    parameters: tuple[tir.Buffer, ...]
    declarations: tuple[tir.Statement, ...]
    views: Mapping[str, tir.Buffer]

    def function(self, body: list[tir.Statement], *, definitions: str = "") -> tir.PrimFunc:
        """The kernel with this body; `definitions` as in `tir.function`."""
        statements = [*self.declarations, *body]
        return tir.function(self.parameters, statements, definitions=definitions)


def signature(kernel: Kernel, operands: Mapping[str, TensorType]) -> Signature:
    """The parameters of a kernel with these operands, in order."""
    names = ("input", "residual", *(f"input{i}" for i in range(2, len(kernel.inputs))))
    types = dict(zip(names, kernel.inputs, strict=False))
    types |= {**operands, "output": kernel.output}
    parameters = [tir.parameter(name, kind.shape, kind.dtype) for name, kind in types.items()]
    flattened = [tir.flat(buffer, dtype=storage(buffer.dtype)) for buffer in parameters]
    return Signature(
        parameters=tuple(parameters),
        declarations=tuple(declaration for declaration, _ in flattened),
        views={buffer.name: view for buffer, (_, view) in zip(parameters, flattened, strict=True)},
    )


def pair(kernel: Kernel, name: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """An attribute of two integers, such as ``strides``."""
    value = dict(kernel.attributes).get(name, default)
    if not (isinstance(value, tuple) and len(value) == 2):
        raise ValueError(f"kernel '{kernel.op}': attribute '{name}' must be a pair, is {value!r}")
    return value[0], value[1]


def pads_of(kernel: Kernel) -> tuple[int, int, int, int]:
    """Padding: top, left, bottom, right; none where the kernel does not say."""
    value = dict(kernel.attributes).get("pads", (0, 0, 0, 0))
    if not (isinstance(value, tuple) and len(value) == 4):
        raise ValueError(f"kernel '{kernel.op}': attribute 'pads' must be four, is {value!r}")
    return value[0], value[1], value[2], value[3]


def number(kernel: Kernel, name: str, default: float) -> float:
    """A numeric attribute."""
    value = dict(kernel.attributes).get(name, default)
    if not isinstance(value, int | float):
        raise TypeError(f"kernel '{kernel.op}': attribute '{name}' must be a number, is {value!r}")
    return value
