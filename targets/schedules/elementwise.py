"""Elementwise operators and conversions: one pass over memory, vectorised.

Arithmetic with a second map of the same shape, with a value per channel or with one scalar;
activation functions; quantize, dequantize and requantize.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import tirx

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.target import Target

BINARY = ("add", "mul", "sub", "div")
UNARY = ("relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "tanh", "leaky_relu")
CONVERSIONS = ("quantize", "dequantize", "requantize")

_PARALLEL_ELEMENTS = 1 << 18


def elementwise(kernel: Kernel, target: Target) -> KernelCode:
    """Code of a BINARY, UNARY or CONVERSIONS kernel.

    A BINARY kernel's second operand is ``inputs[1]`` (the same shape, or one value per channel),
    or, with one input only, the constant ``operand``: one value per channel or a scalar.
    """
    operands = {"scalars": epilogue.SCALARS_TYPE}
    constant = kernel.op in BINARY and len(kernel.inputs) == 1
    channels = kernel.output.shape[-1]
    if constant:
        operands = {"operand": TensorType(shape=(channels,), dtype="float32"), **operands}
    parameters = signature(kernel, operands)
    views = parameters.views
    per_channel = constant or (
        len(kernel.inputs) == 2 and kernel.inputs[1].elements < kernel.output.elements
    )
    parallel = target.threads > 1 and kernel.output.elements >= _PARALLEL_ELEMENTS
    lanes = target.fp32_lanes

    def write(at: tir.Expr, second_at: tir.Expr, width: int) -> list[tir.Statement]:
        value = _value(kernel, views, at, second_at, width)
        return [tir.store(views["output"], at, value, width)]

    total = kernel.output.elements
    if per_channel:
        body = tir.loop(
            total // channels,
            lambda row: tir.vectors(
                channels, lambda c, w: write(row * channels + c, c, w), widest=lanes
            ),
            name="row",
            parallel=parallel,
        )
    else:
        whole = total // lanes
        body = tir.loop(
            whole, lambda v: write(v * lanes, v * lanes, lanes), name="v", parallel=parallel
        )
        rest = whole * lanes
        body += tir.vectors(total - rest, lambda at, w: write(at + rest, at + rest, w))

    def pack(constants: Constants) -> tuple[Array, ...]:
        scalars = epilogue.pack_scalars(constants)
        if not constant:
            return (scalars,)
        given = np.broadcast_to(constants["operand"].astype(np.float32).ravel(), (channels,))
        return (np.ascontiguousarray(given), scalars)

    return KernelCode(
        function=parameters.function(body), operands=tuple(operands.values()), pack=pack
    )


def _value(
    kernel: Kernel,
    views: Mapping[str, tir.Buffer],
    at: tir.Expr,
    second_at: tir.Expr,
    lanes: int,
) -> tir.Expr:
    scalars = views["scalars"]
    value = tir.load(views["input"], at, lanes)
    if kernel.op == "add" and kernel.precision == "int8":
        real = tir.cast(tir.cast(value, "int32", lanes), "float32", lanes)
        residual = tir.load(views["residual"], at, lanes)
        return epilogue.add_quantized(real, residual, "input", scalars, lanes)
    if kernel.inputs[0].dtype == "uint8":
        value = epilogue.dequantize(value, "input", scalars, lanes)
    if kernel.op in BINARY:
        second = views["operand"] if "operand" in views else views["residual"]
        second = tir.load(second, second_at, lanes)
        value = _binary(kernel.op, value, second)
    elif kernel.op in UNARY:
        value = _unary(kernel, value, scalars, lanes)
    for step in kernel.epilogue:
        value = epilogue.activate(value, step, scalars, lanes)
    if kernel.output.dtype == "uint8":
        return epilogue.quantize(value, scalars, lanes)
    return value


def _binary(op: str, left: tir.Expr, right: tir.Expr) -> tir.Expr:
    match op:
        case "add":
            return left + right
        case "mul":
            return left * right
        case "sub":
            return left - right
    return left / right


def _unary(kernel: Kernel, value: tir.Expr, scalars: tir.Buffer, lanes: int) -> tir.Expr:

    def value_of(constant: float) -> tir.Expr:
        return tir.const(constant, "float32", lanes)

    match kernel.op:
        case "relu" | "clip":
            return epilogue.activate(value, kernel.op, scalars, lanes)
        case "sigmoid":
            return value_of(1.0) / (value_of(1.0) + tirx.exp(value_of(0.0) - value))
        case "tanh":
            return tirx.tanh(value)
        case "leaky_relu":
            slope = value_of(number(kernel, "alpha", 0.0))
            return tirx.Select(value < value_of(0.0), value * slope, value)
        case "hard_sigmoid":
            slope, offset = (
                value_of(number(kernel, "alpha", 0.0)),
                value_of(number(kernel, "beta", 0.0)),
            )
            return tir.clamp(value * slope + offset, value_of(0.0), value_of(1.0))
    gate = tir.clamp(value / value_of(6.0) + value_of(0.5), value_of(0.0), value_of(1.0))
    return value * gate  # hard_swish
