"""Transcendental functions as arithmetic that LLVM can keep in vectors.

LLVM turns ``exp`` or ``tanh`` of a vector into one call of the C library per lane. Here they are
range reductions and polynomials in float32, right to a few units in the last place for every lane
count. Limits are those of the functions: overflow gives infinity, underflow zero, NaN stays NaN.
Other float types are computed in float32.

Every function takes an expression of `lanes` lanes and gives one of the same type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from tvm import tirx

from millifit.targets.schedules import tir

_LOG2_E = math.log2(math.e)
# TVM's generators for GPUs write constants with seven digits, so those that must be exact have no
# more. ln 2 in two parts: the first has few enough bits that whole multiples of it are exact.
_LN2_HIGH, _LN2_LOW = 0.6953125, -2.165319440e-3
# Adding this to a float32 below 2^22 leaves the nearest integer in the low bits of its mantissa.
_ROUNDER = 12582900.0
_ROUNDER_BITS = 0x4B3FFFF4
_MANTISSA_BITS, _EXPONENT_BIAS = 23, 127

# (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
_EXP = (0.5, 0.16666515171527863, 0.04166845604777336, 0.008369418792426586, 0.0013813144760206342)
# (atanh(s) / s - 1) / s^2 in s^2 <= 1/9
_ATANH = (0.33333337306976318, 0.19999437034130096, 0.14308518171310425, 0.10712926089763641,
          0.12154160439968109)  # fmt: skip
# tanh(x) / x - 1 in x^2 for |x| < 0.625 (Cephes)
_TANH_NEAR, _TANH = (
    0.625,
    (0.0, -0.333332819422, 0.133314422036, -0.0537397155531, 0.0206390887954, -0.00570498872745),
)
# the same of erf for |x| < 0.927734375, and -log(1 - erf(x)) / x - 1 beyond
_ERF_NEAR, _ERF_LIMIT = 0.927734375, 4.0
_ERF = (0.128379166, -0.376125336, 0.112819925, -0.0267681349, 0.00499119423, -0.000596761703)
_ERF_FAR = (0.128717512, 0.634846687, 0.106777877, -0.0242546219, 0.00388396438, -0.000383197126,
            1.72853470e-05)  # fmt: skip
# -log(1 - erf(x)) / x for 0 < x < 9.4, right to 2e-7 / (x (1 - erf(x)))
_ERFC_LIMIT = 9.4
_ERFC = (1.1284325122833252, 0.6361076831817627, 0.10458644479513168, -0.022338125854730606,
         0.00297934259288013, -0.00015047717897687107, -1.508955847384641e-05,
         2.4403809675277444e-06, -9.399305866963914e-08)  # fmt: skip

Function = Callable[[tir.Expr, int], tir.Expr]


def _in_float32(function: Function) -> Function:
    """Compute narrower floats in float32."""

    @functools.wraps(function)
    def converted(value: tir.Expr, lanes: int) -> tir.Expr:
        own = str(value.ty)
        if own.startswith("float32"):
            return function(value, lanes)
        return function(tir.cast(value, "float32", lanes), lanes).astype(own)

    return converted


def let(value: tir.Expr, body: Callable[[tir.Expr], tir.Expr]) -> tir.Expr:
    """``body(value)`` with `value` computed once.

    Nothing that contains one may stand twice in an expression: the simplifier binds its name twice.
    """
    variable = tirx.Var("f", str(value.ty))
    return tirx.Let(variable, value, body(variable))


def at_least(low: tir.Expr, value: tir.Expr) -> tir.Expr:
    """The greater of both; NaN where `value` is."""
    return tirx.max(low, value)  # in this order: where the comparison fails, the second is taken


def at_most(high: tir.Expr, value: tir.Expr) -> tir.Expr:
    """The smaller of both; NaN where `value` is."""
    return tirx.min(high, value)


def _number(value: float, lanes: int) -> tir.Expr:
    return tir.const(value, "float32", lanes)


def _polynomial(x: tir.Expr, coefficients: Sequence[float], lanes: int) -> tir.Expr:
    """``c[0] + c[1] x + c[2] x^2 + ...``"""
    total = _number(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + _number(coefficient, lanes)
    return total


def _bits(value: tir.Expr, lanes: int) -> tir.Expr:
    return tir.reinterpret(value, "int32", lanes)


def _power_of_two(exponent: tir.Expr, lanes: int) -> tir.Expr:
    """2^exponent for -127 < exponent < 128, and 0 for -127."""
    biased = exponent + tir.const(_EXPONENT_BIAS, "int32", lanes)
    shift = tir.const(_MANTISSA_BITS, "int32", lanes)
    return tir.reinterpret(tirx.shift_left(biased, shift), "float32", lanes)


def _reduced(
    value: tir.Expr, lanes: int, body: Callable[[tir.Expr, tir.Expr], tir.Expr]
) -> tir.Expr:
    """``body(n, r)`` with ``value = n ln 2 + r``, n an int32 and r within half of ln 2."""

    def with_rounded(rounded: tir.Expr) -> tir.Expr:
        n = rounded - _number(_ROUNDER, lanes)
        rest = value - n * _number(_LN2_HIGH, lanes) - n * _number(_LN2_LOW, lanes)
        exponent = _bits(rounded, lanes) - tir.const(_ROUNDER_BITS, "int32", lanes)
        return let(rest, lambda r: body(exponent, r))

    return let(value * _number(_LOG2_E, lanes) + _number(_ROUNDER, lanes), with_rounded)


@_in_float32
def exp(value: tir.Expr, lanes: int) -> tir.Expr:
    """e^value; results under 2^-125 are 0."""

    def scaled(n: tir.Expr, r: tir.Expr) -> tir.Expr:
        # Twice 2^(n-1), because 2^128 is no float32 although the product may be one.
        power = _power_of_two(n - tir.const(1, "int32", lanes), lanes)
        quadratic = [2 * c for c in (1.0, 1.0, *_EXP)]
        return _polynomial(r, quadratic, lanes) * power

    limited = at_most(_number(89.0, lanes), at_least(_number(-87.3, lanes), value))
    return let(limited, lambda x: _reduced(x, lanes, scaled))


def _expm1_of_negative(value: tir.Expr, lanes: int) -> tir.Expr:
    """e^value - 1 for value <= 0, right for small values, too."""

    def scaled(n: tir.Expr, r: tir.Expr) -> tir.Expr:
        def of(power: tir.Expr) -> tir.Expr:
            near = r * _polynomial(r, (1.0, *_EXP), lanes)
            return power * near + (power - _number(1.0, lanes))

        return let(_power_of_two(n, lanes), of)

    limited = at_most(_number(0.0, lanes), at_least(_number(-87.0, lanes), value))
    return let(limited, lambda x: _reduced(x, lanes, scaled))


def _atanh(s: tir.Expr, lanes: int) -> tir.Expr:
    """atanh(s) for |s| <= 1/3."""

    def of(square: tir.Expr) -> tir.Expr:
        return s + s * square * _polynomial(square, _ATANH, lanes)

    return let(s * s, of)


@_in_float32
def log(value: tir.Expr, lanes: int) -> tir.Expr:
    """The natural logarithm: -inf at 0, NaN below."""
    tiny = value < _number(2.0**-126, lanes)
    normal = tirx.Select(tiny, value * _number(2.0**24, lanes), value)

    def of(x: tir.Expr) -> tir.Expr:
        root_half = tir.const(0x3F3504F3, "int32", lanes)  # mantissas from sqrt(1/2) to sqrt(2)
        shift = tir.const(_MANTISSA_BITS, "int32", lanes)
        exponent = tirx.shift_right(_bits(x, lanes) - root_half, shift)
        return let(exponent, lambda e: _log_of_parts(x, e, tiny, lanes))

    def with_limits(result: tir.Expr) -> tir.Expr:
        zero, infinity = _number(0.0, lanes), _number(math.inf, lanes)
        below = tirx.Select(value < zero, _number(math.nan, lanes), result)
        at_zero = tirx.Select(tirx.EQ(value, zero), _number(-math.inf, lanes), below)
        return tirx.Select(value < infinity, at_zero, value)

    return let(let(normal, of), with_limits)


def _log_of_parts(x: tir.Expr, exponent: tir.Expr, tiny: tir.Expr, lanes: int) -> tir.Expr:
    shift = tir.const(_MANTISSA_BITS, "int32", lanes)
    mantissa = tir.reinterpret(_bits(x, lanes) - tirx.shift_left(exponent, shift), "float32", lanes)
    one, two = _number(1.0, lanes), _number(2.0, lanes)
    scale = tir.cast(exponent, "float32", lanes) - tirx.Select(
        tiny, _number(24.0, lanes), _number(0.0, lanes)
    )

    def of(f: tir.Expr) -> tir.Expr:
        half = let(f / (f + two), lambda s: _atanh(s, lanes))
        return let(
            scale,
            lambda n: n * _number(_LN2_HIGH, lanes) + (n * _number(_LN2_LOW, lanes) + two * half),
        )

    return let(mantissa - one, of)


def _log1p_of_fraction(t: tir.Expr, lanes: int) -> tir.Expr:
    """log(1 + t) for 0 <= t <= 1."""
    two = _number(2.0, lanes)
    return two * let(t / (t + two), lambda s: _atanh(s, lanes))


def _near(x: tir.Expr, coefficients: Sequence[float], lanes: int) -> tir.Expr:
    """``x + x P(x^2)``."""
    return let(x * x, lambda square: x + x * _polynomial(square, coefficients, lanes))


@_in_float32
def tanh(value: tir.Expr, lanes: int) -> tir.Expr:
    """The hyperbolic tangent."""
    one, two, near = _number(1.0, lanes), _number(2.0, lanes), _number(_TANH_NEAR, lanes)

    def of(x: tir.Expr) -> tir.Expr:
        far = one - two / (exp(x + x, lanes) + one)
        inside = _near(x, _TANH, lanes)
        return tirx.Select(tirx.abs(x) < near, inside, far)

    return let(value, of)


@_in_float32
def erf(value: tir.Expr, lanes: int) -> tir.Expr:
    """The error function."""
    zero, one, near = (_number(v, lanes) for v in (0.0, 1.0, _ERF_NEAR))

    def of(x: tir.Expr) -> tir.Expr:
        def beyond(t: tir.Expr) -> tir.Expr:
            size = one - exp(zero - (t + t * _polynomial(t, _ERF_FAR, lanes)), lanes)
            far = let(size, lambda size: tirx.Select(x < zero, zero - size, size))
            return tirx.Select(t < near, _near(x, _ERF, lanes), far)

        return let(at_most(_number(_ERF_LIMIT, lanes), tirx.abs(x)), beyond)

    return let(value, of)


@_in_float32
def sigmoid(value: tir.Expr, lanes: int) -> tir.Expr:
    """1 / (1 + e^-value)."""
    one = _number(1.0, lanes)
    return one / (one + exp(_number(0.0, lanes) - value, lanes))


@_in_float32
def silu(value: tir.Expr, lanes: int) -> tir.Expr:
    """value * sigmoid(value)."""
    one, zero = _number(1.0, lanes), _number(0.0, lanes)
    return let(value, lambda x: x / (one + exp(zero - x, lanes)))


@_in_float32
def gelu(value: tir.Expr, lanes: int) -> tir.Expr:
    """value * (1 + erf(value / sqrt 2)) / 2, as max(value, 0) less what is missing to it."""
    zero, root = _number(0.0, lanes), _number(math.sqrt(0.5), lanes)

    def of(x: tir.Expr) -> tir.Expr:
        def missing(t: tir.Expr) -> tir.Expr:
            erfc = exp(zero - t * _polynomial(t, _ERFC, lanes), lanes)
            return t * root * erfc

        t = at_most(_number(_ERFC_LIMIT, lanes), tirx.abs(x) * root)
        return at_least(zero, x) - let(t, missing)

    return let(value, of)


@_in_float32
def gelu_tanh(value: tir.Expr, lanes: int) -> tir.Expr:
    """value * (1 + tanh(u)) / 2 with ``u = sqrt(2 / pi) (value + 0.044715 value^3)``.

    ``(1 + tanh(u)) / 2`` is the sigmoid of 2 u.
    """
    root = -2 * math.sqrt(2 / math.pi)

    def of(x: tir.Expr) -> tir.Expr:
        minus_two_u = x * _polynomial(x * x, (root, root * 0.044715), lanes)
        return x / (_number(1.0, lanes) + exp(minus_two_u, lanes))

    return let(value, of)


@_in_float32
def softplus(value: tir.Expr, lanes: int) -> tir.Expr:
    """log(1 + e^value)."""
    zero = _number(0.0, lanes)

    def of(x: tir.Expr) -> tir.Expr:
        fraction = exp(tirx.Select(x > zero, zero - x, x), lanes)
        return at_least(zero, x) + let(fraction, lambda t: _log1p_of_fraction(t, lanes))

    return let(value, of)


@_in_float32
def mish(value: tir.Expr, lanes: int) -> tir.Expr:
    """value * tanh(softplus(value)), which is ``value n / (n + 2)`` with ``n = e (e + 2)``."""
    two = _number(2.0, lanes)

    def of(x: tir.Expr) -> tir.Expr:
        e = exp(at_most(_number(20.0, lanes), x), lanes)
        n = let(e, lambda e: e * (e + two))
        return let(n, lambda n: x * (n / (n + two)))

    return let(value, of)


def elu(value: tir.Expr, alpha: tir.Expr, lanes: int) -> tir.Expr:
    """value where it is positive, else ``alpha (e^value - 1)``; float32 only."""
    zero = _number(0.0, lanes)
    return let(
        value,
        lambda x: tirx.Select(x < zero, alpha * _expm1_of_negative(x, lanes), x),
    )
