"""A program: the kernels a network becomes on a target, in order, with their constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from millifit.targets.kernel import Choice, Kernel
from millifit.targets.network import Array, TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One kernel at work in a network.

    `inputs` and `output` name tensors of the program; `nodes` are the network's nodes it
    implements, the one that gave the kernel its operator first. `constants` are the operands by
    role, still in the network's layout (``weight`` ``[O, I, KH, KW]``); the schedule packs them.
    """

    kernel: Kernel
    inputs: tuple[str, ...]
    output: str
    constants: Mapping[str, Array]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A lowered network. `types` has every tensor that a call reads or writes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: tuple[Call, ...]
    types: Mapping[str, TensorType]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The distinct kernels, in order of first use."""
        return tuple(dict.fromkeys(call.kernel for call in self.calls))

    @property
    def without_rule(self) -> tuple[Call, ...]:
        """Calls of operators that have no schedule rule: they run, but slowly."""
        return tuple(call for call in self.calls if call.kernel.op == "onnx")

    @property
    def tuned(self) -> tuple[dict[str, Any], ...]:
        """The kernels that are not scheduled by the rules alone, as plain JSON types.

        ``kernel`` is the key of the kernel without its choice.
        """
        return tuple(
            {"kernel": kernel.with_choice(()).key, "op": kernel.op, "choice": dict(kernel.choice)}
            for kernel in self.kernels
            if kernel.choice
        )

    def with_choices(self, choices: Mapping[Kernel, Choice]) -> Program:
        """The same program, its kernels scheduled by what tuning chose for them."""
        return replace(
            self, calls=tuple(replace(c, kernel=chosen(c.kernel, choices)) for c in self.calls)
        )


def without_rule(program: Program) -> list[dict[str, str]]:
    """The nodes that run without a schedule rule, as plain JSON types."""
    return [
        {"node": call.nodes[0], "op": str(call.kernel.attribute("operator"))}
        for call in program.without_rule
    ]


def chosen(kernel: Kernel, choices: Mapping[Kernel, Choice]) -> Kernel:
    """A kernel with what tuning chose for it, if anything."""
    return kernel.with_choice(choices[kernel]) if kernel in choices else kernel
