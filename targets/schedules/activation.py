"""Activation functions by name, as steps of an epilogue and as kernels of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import tirx

from millifit.targets.schedules import functions, tir

_PLAIN: Mapping[str, functions.Function] = {
    "gelu": functions.gelu,
    "gelu_tanh": functions.gelu_tanh,
    "mish": functions.mish,
    "sigmoid": functions.sigmoid,
    "silu": functions.silu,
    "softplus": functions.softplus,
    "tanh": functions.tanh,
}
# Those that read operands: ``alpha``, ``beta`` and, for a gate, the quantization of its sigmoid.
_PARAMETRIC = (
    *("clip", "elu", "hard_sigmoid", "hard_sigmoid_gate", "hard_swish", "leaky_relu", "relu"),
    "sigmoid_gate",
)
ACTIVATIONS = (*_PLAIN, *_PARAMETRIC)


def activate(
    value: tir.Expr, step: str, parameter: Callable[[str], tir.Expr], lanes: int
) -> tir.Expr:
    """One of ACTIVATIONS on float32 values; NaN stays NaN.

    `parameter` gives the scalar operand of a name in all lanes. ``hard_sigmoid`` is
    ``alpha x + beta`` limited to [0, 1], ``hard_swish`` that times x. The gates multiply x with its
    sigmoid or hard sigmoid after that was rounded to uint8.
    """
    if step in _PLAIN:
        return _PLAIN[step](value, lanes)
    return functions.let(value, lambda x: _parametric(x, step, parameter, lanes))


def _parametric(
    x: tir.Expr, step: str, parameter: Callable[[str], tir.Expr], lanes: int
) -> tir.Expr:
    zero, one = (tir.const(number, "float32", lanes) for number in (0.0, 1.0))

    def hard_sigmoid() -> tir.Expr:
        line = x * parameter("alpha") + parameter("beta")
        return functions.at_most(one, functions.at_least(zero, line))

    match step:
        case "relu":
            return functions.at_least(zero, x)
        case "clip":
            low, high = parameter("clip_low"), parameter("clip_high")
            return functions.at_most(high, functions.at_least(low, x))
        case "leaky_relu":
            return tirx.Select(x < zero, x * parameter("alpha"), x)
        case "elu":
            return functions.elu(x, parameter("alpha"), lanes)
        case "hard_sigmoid":
            return hard_sigmoid()
        case "hard_swish":
            return x * hard_sigmoid()
        case "hard_sigmoid_gate":
            return x * _rounded_gate(hard_sigmoid(), parameter, lanes)
        case "sigmoid_gate":
            return x * _rounded_gate(functions.sigmoid(x, lanes), parameter, lanes)
    raise ValueError(f"unknown activation function {step!r}")


def _rounded_gate(gate: tir.Expr, parameter: Callable[[str], tir.Expr], lanes: int) -> tir.Expr:
    """A gate as it is after QuantizeLinear and DequantizeLinear."""
    scale, zero_point = parameter("gate_scale"), parameter("gate_zero_point")
    level = tir.round_half_even(gate / scale) + zero_point
    low, high = (tir.const(limit, "float32", lanes) for limit in (0.0, 255.0))
    return (tir.clamp(level, low, high) - zero_point) * scale
