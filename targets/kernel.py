"""A kernel: one fused operator as it will run on the device. The unit of measurement."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millifit.targets.network import TensorType
from millifit.targets.target import INTEGER, Precision

Scalar = int | float | str
KernelAttribute = Scalar | tuple[int, ...]
Choice = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One fused operator: what it computes, on which shapes, in which precision.

    Activations are channels-last: a feature map is ``(N, H, W, C)``. `inputs` are the activations
    (a residual operand comes second); weights follow from the operator and are no inputs.
    `attributes` are sorted pairs, e.g. ``(("kernel", (3, 3)), ("strides", (2, 2)))``. `epilogue`
    names what is fused behind the operator, in order, e.g. ``("relu6",)`` or ``("add",)``;
    the cast to the output's element type is implied by `output.dtype`.

    Quantization scales and zero points are operands, not part of the identity: two int8 layers of
    one shape are the same kernel, are measured once and share one compiled function.

    `choice` is what tuning decided in place of the schedule rules, as sorted pairs, e.g.
    ``(("rows", 6), ("vectors", 2))``; empty, as lowering leaves it, the rules decide everything.
    The same operator with another choice is another kernel: other code, other time.
    """

    op: str
    inputs: tuple[TensorType, ...]
    output: TensorType
    precision: Precision
    attributes: tuple[tuple[str, KernelAttribute], ...] = ()
    epilogue: tuple[str, ...] = ()
    choice: Choice = ()

    @property
    def integer(self) -> bool:
        """Whether it computes with integers, on quantized activations."""
        return self.precision in INTEGER

    def attribute(self, name: str) -> KernelAttribute:
        """One attribute's value; KeyError where the operator has none of that name."""
        return dict(self.attributes)[name]

    def with_choice(self, choice: Choice) -> Kernel:
        """The same operator, scheduled by `choice`; by the rules where it is empty."""
        return dataclasses.replace(self, choice=choice)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types, without an empty choice; `from_dict` is the inverse."""
        # dataclasses.asdict would copy every value of a deep structure: seven times as slow.
        plain: dict[str, object] = {
            "op": self.op,
            "inputs": tuple(_plain(tensor) for tensor in self.inputs),
            "output": _plain(self.output),
            "precision": self.precision,
            "attributes": self.attributes,
            "epilogue": self.epilogue,
        }
        if self.choice:
            plain["choice"] = self.choice
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> Kernel:
        """The kernel that `to_dict` described."""
        fields: dict[str, Any] = dict(plain)
        fields["inputs"] = tuple(_tensor(t) for t in fields["inputs"])
        fields["output"] = _tensor(fields["output"])
        fields["attributes"] = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in fields["attributes"]
        )
        fields["epilogue"] = tuple(fields["epilogue"])
        fields["choice"] = tuple((name, value) for name, value in fields.get("choice", ()))
        return cls(**fields)

    @property
    def key(self) -> str:
        """Hash of the whole description: the key of a measurement, stable across processes."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def _plain(tensor: TensorType) -> dict[str, object]:
    return {"shape": tensor.shape, "dtype": tensor.dtype}


def _tensor(plain: Mapping[str, Any]) -> TensorType:
    return TensorType(shape=tuple(plain["shape"]), dtype=plain["dtype"])
