"""Elementwise operators and conversions: one pass over memory, vectorised.

Arithmetic with a second tensor or a constant of any shape that numpy would broadcast; activation
and other functions; quantize, dequantize and requantize. Neighbouring axes that all operands step
through alike are one loop, so equal shapes are a single one and a value per channel is two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, functions, half, tir
from millifit.targets.schedules.activation import ACTIVATIONS
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.target import Target

BINARY = ("add", "mul", "sub", "div", "pow", "min", "max")
_FUNCTIONS: Mapping[str, functions.Function] = {
    "abs": lambda x, _: tirx.abs(x),
    "ceil": lambda x, _: tirx.ceil(x),
    "erf": functions.erf,
    "exp": functions.exp,
    "floor": lambda x, _: tirx.floor(x),
    "log": functions.log,
    "neg": lambda x, lanes: tir.const(-0.0, "float32", lanes) - x,
    "reciprocal": lambda x, lanes: tir.const(1.0, "float32", lanes) / x,
    "round": lambda x, _: tir.round_half_even(x),
    "sqrt": lambda x, _: tirx.sqrt(x),
    "square": lambda x, _: functions.let(x, lambda x: x * x),
}
UNARY = (*ACTIVATIONS, *_FUNCTIONS, "selu")
CONVERSIONS = ("quantize", "dequantize", "requantize", "cast")

# Below this a second thread takes longer to start than it saves; a function is some additions.
_PARALLEL_ELEMENTS = 1 << 18
_FUNCTION_COST = 4
_CHEAP = (*BINARY, *CONVERSIONS, "relu", "clip", "leaky_relu", "hard_sigmoid", "hard_swish", "abs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A loop: how far it goes, and how far each operand steps; 0 where one is broadcast."""

    extent: int
    steps: tuple[int, ...]


def elementwise(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a BINARY, UNARY or CONVERSIONS kernel.

    A BINARY kernel's second operand is ``inputs[1]`` or, with one input only, the constant
    ``operand``, whose shape the attribute of that name gives: one value per channel where it is
    absent. The attribute ``reversed`` says that the second operand stands first: ``operand - x``.
    """
    plan = planned(kernel)
    parameters = signature(kernel, plan.operands)
    writer = _Writer(kernel, target, plan.read, parameters.views)
    return KernelCode(
        function=parameters.function(writer.code(plan.axes)),
        operands=tuple(plan.operands.values()), pack=plan.pack,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an elementwise kernel reads, in which order, and the loops over it."""

    read: tuple[str, ...]
    axes: tuple[Axis, ...]
    operands: Mapping[str, TensorType]
    pack: Callable[[Constants], tuple[Array, ...]]


def planned(kernel: Kernel) -> Plan:
    """Operands and loops of an elementwise kernel."""
    read = {"input": kernel.inputs[0].shape}
    operands = {"scalars": epilogue.SCALARS_TYPE}
    constant = kernel.op in BINARY and len(kernel.inputs) == 1
    if constant:
        given = dict(kernel.attributes).get("operand", kernel.output.shape[-1:])
        assert isinstance(given, tuple)
        read["operand"] = given
        operands = {"operand": TensorType(shape=(math.prod(given),), dtype="float32"), **operands}
    elif len(kernel.inputs) > 1:
        read["residual"] = kernel.inputs[1].shape

    def pack(constants: Constants) -> tuple[Array, ...]:
        scalars = epilogue.pack_scalars(constants)
        if not constant:
            return (scalars,)
        value = constants["operand"].astype(np.float32)
        value = np.broadcast_to(value.ravel(), (math.prod(read["operand"]),))
        return (np.ascontiguousarray(value), scalars)

    return Plan(
        read=tuple(read), axes=tuple(_axes(kernel.output.shape, tuple(read.values()))),
        operands=operands, pack=pack,
    )  # fmt: skip


def _axes(shape: Sequence[int], read: Sequence[Sequence[int]]) -> list[Axis]:
    """The loops over a tensor of `shape` whose operands have the shapes `read`, outermost first."""
    aligned = [(*(1,) * (len(shape) - len(r)), *r) for r in read]
    axes: list[Axis] = []
    for place, extent in enumerate(shape):
        if extent == 1:
            continue
        steps = tuple(math.prod(r[place + 1 :]) if r[place] > 1 else 0 for r in aligned)
        if axes and axes[-1].steps == tuple(extent * step for step in steps):
            axes[-1] = Axis(extent=axes[-1].extent * extent, steps=steps)
        else:
            axes.append(Axis(extent=extent, steps=steps))
    return axes or [Axis(extent=1, steps=(1,) * len(read))]


class _Writer:
    """Writes the loops of one kernel."""

    def __init__(
        self, kernel: Kernel, target: Target, read: tuple[str, ...], views: Mapping[str, tir.Buffer]
    ) -> None:
        self.kernel, self.views, self.read = kernel, views, read
        cheap = kernel.op in _CHEAP and all(step in _CHEAP for step in kernel.epilogue)
        work = kernel.output.elements * (1 if cheap else _FUNCTION_COST)
        self.parallel = target.threads > 1 and work >= _PARALLEL_ELEMENTS
        # Several vectors at once hide how long one takes; a function needs the registers itself.
        self.widest = target.fp32_lanes * (4 if cheap else 2)

    def code(self, axes: Sequence[Axis]) -> list[tir.Statement]:
        """All loops."""
        zero = tir.const(0)
        return self._nest(axes, [zero] * len(self.read), zero, parallel=self.parallel)

    def _nest(
        self, axes: Sequence[Axis], starts: Sequence[tir.Expr], to: tir.Expr, *, parallel: bool
    ) -> list[tir.Statement]:
        axis, *rest = axes
        step = math.prod(inner.extent for inner in rest)

        def at(i: tir.Expr) -> tuple[list[tir.Expr], tir.Expr]:
            moved = [s + i * n if n else s for s, n in zip(starts, axis.steps, strict=True)]
            return moved, to + i * step

        if rest:
            return tir.loop(
                axis.extent,
                lambda i: self._nest(rest, *at(i), parallel=False),
                name="axis",
                parallel=parallel,
            )

        def vector(i: tir.Expr, lanes: int) -> list[tir.Statement]:
            moved, place = at(i)
            spread = [step == 0 for step in axis.steps]
            return [
                tir.store(self.views["output"], place, self._value(moved, spread, lanes), lanes)
            ]

        whole = axis.extent // self.widest
        written = tir.loop(
            whole, lambda i: vector(i * self.widest, self.widest), name="v", parallel=parallel
        )
        done = whole * self.widest
        return written + tir.vectors(axis.extent - done, lambda i, lanes: vector(done + i, lanes))

    def _value(self, at: Sequence[tir.Expr], spread: Sequence[bool], lanes: int) -> tir.Expr:
        loaded = []
        for name, index, same in zip(self.read, at, spread, strict=True):
            value = tir.load(self.views[name], index, 1 if same else lanes)
            loaded.append(tir.splat(value, lanes) if same else value)
        return computed(self.kernel, self.read, loaded, self.views["scalars"], lanes)


def computed(
    kernel: Kernel,
    read: Sequence[str],
    loaded: Sequence[tir.Expr],
    scalars: tir.Buffer,
    lanes: int,
) -> tir.Expr:
    """What an elementwise kernel writes, from what memory holds of the operands it has `read`."""
    if kernel.op == "cast":
        real = half.widen(loaded[0], kernel.inputs[0].dtype, lanes)
        return half.narrow(real, kernel.output.dtype, lanes)
    if kernel.integer and kernel.op in BINARY:
        return _integer(kernel.op, loaded, scalars, lanes)

    def real_value(place: int) -> tir.Expr:
        name, value = read[place], loaded[place]
        if name == "operand":
            return value
        dtype = kernel.inputs[place].dtype
        if dtype == "uint8":
            return epilogue.dequantize(value, name, scalars, lanes)
        return half.widen(value, dtype, lanes)

    value = real_value(0)
    if kernel.op in BINARY:
        operands = [value, real_value(1)]
        if number(kernel, "reversed", 0):
            operands.reverse()
        value = _binary(kernel.op, *operands)
    elif kernel.op in UNARY:
        value = _unary(kernel.op, value, scalars, lanes)
    for step in kernel.epilogue:
        value = epilogue.activate(value, step, scalars, lanes)
    if kernel.output.dtype == "uint8":
        return epilogue.quantize(value, scalars, lanes)
    return half.narrow(value, kernel.output.dtype, lanes)


def _integer(op: str, loaded: Sequence[tir.Expr], scalars: tir.Buffer, lanes: int) -> tir.Expr:
    """The sum or product of two quantized values, rounded once, as ONNX Runtime computes it."""
    first, second = loaded
    real = tir.cast(tir.cast(first, "int32", lanes), "float32", lanes)
    if op == "add":
        return epilogue.add_quantized(real, second, "input", scalars, lanes)
    return epilogue.multiply_quantized(real, second, scalars, lanes)


def _binary(op: str, left: tir.Expr, right: tir.Expr) -> tir.Expr:
    def chosen(compare: Callable[[tir.Expr, tir.Expr], tir.Expr]) -> tir.Expr:
        # NaN in either operand is the result.
        number = functions.let(right, lambda r: tirx.Select(compare(left, r), left, r))
        return functions.let(number, lambda n: tirx.Select(tirx.NE(left, left), left, n))

    match op:
        case "add":
            return left + right
        case "mul":
            return left * right
        case "sub":
            return left - right
        case "min":
            return chosen(lambda a, b: a < b)
        case "max":
            return chosen(lambda a, b: a > b)
        case "pow":
            return tirx.power(left, right)
    return left / right


def _unary(op: str, value: tir.Expr, scalars: tir.Buffer, lanes: int) -> tir.Expr:
    if op in ACTIVATIONS:
        return epilogue.activate(value, op, scalars, lanes)
    if op == "selu":
        alpha, gamma = (epilogue.splat_scalar(scalars, name, lanes) for name in ("alpha", "beta"))
        return gamma * functions.elu(value, alpha, lanes)
    return _FUNCTIONS[op](value, lanes)
