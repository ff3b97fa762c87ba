"""Vector functions against numpy and scipy in float64, over everything a float32 can be."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from kernels import TARGETS
from numpy.typing import NDArray
from scipy import special

from millifit.targets.build import tvm_target
from millifit.targets.network import Array
from millifit.targets.schedules import functions, tir
from millifit.targets.target import Target

Reference = Callable[[NDArray[np.float64]], NDArray[np.float64]]
TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
INF, NAN = math.inf, math.nan


def elu(value: tir.Expr, lanes: int) -> tir.Expr:
    """ELU with a slope that no power of two hides."""
    return functions.elu(value, tir.const(0.7, "float32", lanes), lanes)


def silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = x * special.expit(x)
    return result


def gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


CASES: dict[str, tuple[functions.Function, Reference]] = {
    "exp": (functions.exp, np.exp),
    "log": (functions.log, np.log),
    "tanh": (functions.tanh, np.tanh),
    "erf": (functions.erf, special.erf),
    "sigmoid": (functions.sigmoid, special.expit),
    "silu": (functions.silu, silu),
    "gelu": (functions.gelu, lambda x: x * special.ndtr(x)),
    "gelu_tanh": (functions.gelu_tanh, gelu_tanh),
    "softplus": (functions.softplus, lambda x: np.logaddexp(0, x)),
    "mish": (functions.mish, lambda x: x * np.tanh(np.logaddexp(0, x))),
    "elu": (elu, lambda x: np.where(x < 0, 0.7 * np.expm1(x), x)),
}
# Where these are tiny they are products of tiny numbers: only their absolute error is small.
ABSOLUTE = ("gelu", "gelu_tanh")


def compute(function: functions.Function, x: Array, target: Target, lanes: int) -> Array:
    """`function` of every element, `lanes` at a time."""
    import tvm

    dtype = str(x.dtype)
    source, made = (tir.parameter(name, x.shape, dtype) for name in ("x", "y"))
    body = tir.loop(
        x.size // lanes,
        lambda i: [
            tir.store(made, i * lanes, function(tir.load(source, i * lanes, lanes), lanes), lanes)
        ],
        name="i",
    )
    main = tir.function([source, made], body).with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": main}), target=tvm_target(target)).jit()["main"]
    out = tvm.runtime.tensor(np.zeros_like(x))
    built(tvm.runtime.tensor(x), out)
    result: Array = out.numpy()
    return result


def samples() -> NDArray[np.float32]:
    """Floats of every magnitude, more where functions bend, and the edges of the type."""
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 2**32, 1 << 14, dtype=np.uint64).astype(np.uint32)
    edges = (0.0, -0.0, INF, -INF, NAN, 1e-40, 88.7, 88.8, -87.3, -87.4, 100, -100, 3e38, -3e38, 1,
             0.927734375)  # fmt: skip
    parts = (any_bits.view(np.float32), rng.uniform(-100, 100, 1 << 13),
             rng.uniform(-10, 10, 1 << 13), rng.uniform(-1, 1, 1 << 12), edges)  # fmt: skip
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


@TARGET
@pytest.mark.parametrize("name", CASES)
def test_within_two_units_of_the_last_place(target: Target, name: str) -> None:
    """Every finite value is right to 2.5e-7 of itself; what float32 flushes may be zero."""
    function, reference = CASES[name]
    x = samples()
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
        finite = np.isfinite(exact.astype(np.float32)) & np.isfinite(x)
    made = compute(function, x, target, target.fp32_lanes).astype(np.float64)
    error = np.abs(made - exact)[finite]
    scale = np.abs(exact)[finite]
    floor = 1.0 if name in ABSOLUTE else 2.0**-125
    # What exp flushes is multiplied with at most 100 in silu and mish.
    flushed = 100 * 2.0**-125 if name in ("silu", "mish") else 2.0**-125
    assert np.all(error <= np.maximum(2.5e-7 * np.maximum(scale, floor), flushed))


LIMITS = {
    "exp": (INF, 0.0), "log": (INF, NAN), "tanh": (1.0, -1.0), "erf": (1.0, -1.0),
    "sigmoid": (1.0, 0.0), "gelu": (INF, 0.0), "softplus": (INF, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_limits_and_nan(name: str) -> None:
    """NaN stays NaN, infinities become the function's limits, the largest float overflows to inf.

    silu, mish and the tanh form of gelu are products: 0 times minus infinity is NaN, as it is in
    ONNX's definitions of them.
    """
    x = np.array([NAN, INF, -INF, 3e38, -3e38] + [0] * 11, np.float32)
    made = compute(CASES[name][0], x, TARGETS[0], 16)
    assert np.isnan(made[0])
    if name in LIMITS:
        np.testing.assert_array_equal(made[1:3], np.array(LIMITS[name], np.float32))
    with np.errstate(all="ignore"):
        wanted = CASES[name][1](x[3:5].astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(made[3:5], wanted, rtol=3e-7)


def test_logarithm_of_zero_and_below() -> None:
    """log is -inf at both zeros, NaN below, and right for the smallest positive floats."""
    x = np.array([0.0, -0.0, -1e-40, 1e-45], np.float32)
    made = compute(functions.log, x, TARGETS[0], 4)
    np.testing.assert_array_equal(made[:3], np.array([-INF, -INF, NAN], np.float32))
    assert made[3] == pytest.approx(math.log(float(x[3])), rel=2e-7)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 32])
def test_any_number_of_lanes(lanes: int) -> None:
    """Scalars, and vectors narrower or wider than a register, give the same values."""
    x = np.random.default_rng(1).uniform(-9, 9, 64).astype(np.float32)
    for name, (function, _) in CASES.items():
        narrow = compute(function, np.abs(x), TARGETS[0], lanes)
        wide = compute(function, np.abs(x), TARGETS[0], 16)
        np.testing.assert_allclose(narrow, wide, rtol=3e-7, err_msg=name)


def test_half_precision_is_computed_in_float32() -> None:
    """float16 in, float16 out, one rounding between."""
    x = np.linspace(-8, 8, 64).astype(np.float16)
    made = compute(functions.sigmoid, x, TARGETS[0], 16)
    assert made.dtype == np.float16
    exact = special.expit(x.astype(np.float64))
    np.testing.assert_allclose(made, exact.astype(np.float16), rtol=1e-3)
    assert np.mean(made != exact.astype(np.float16)) < 0.05
