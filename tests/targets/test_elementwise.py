"""Elementwise kernels and their lowering: any broadcasting, every function, 8-bit operands."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, TARGETS, run, tensor
from numpy.typing import NDArray
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import Compiled, lowered, quantized, scale
from scipy import special

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array
from millifit.targets.schedules.activation import ACTIVATIONS
from millifit.targets.schedules.elementwise import UNARY
from millifit.targets.target import Target

Doubles = NDArray[np.float64]
TARGET = pytest.mark.parametrize("target", EVERYWHERE, ids=lambda t: t.name)
SLOW = settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
node = helper.make_node
COMPUTE: dict[str, Callable[[Doubles, Doubles], Doubles]] = {
    "add": np.add, "mul": np.multiply, "sub": np.subtract, "div": np.divide, "min": np.minimum,
    "max": np.maximum, "pow": np.power,
}  # fmt: skip


@st.composite
def broadcasts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Two shapes that numpy broadcasts, one of them of ranks 1 to 6, and a seed."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5, 17]), min_size=1, max_size=6))
    if math.prod(shape) > 20000:
        shape = shape[-3:]
    first, second = ([n if draw(st.booleans()) else 1 for n in shape] for _ in range(2))
    second = second[draw(st.integers(0, len(shape))) :]
    if second and draw(st.booleans()):
        first, second = second, first
    return tuple(first), tuple(second), draw(st.integers(0, 2**16))


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(0.5, 2, shape), np.float32)


@SLOW
@given(case=broadcasts(), op=st.sampled_from(sorted(COMPUTE)), target=st.sampled_from(TARGETS))
def test_any_broadcast_of_two_activations(
    case: tuple[tuple[int, ...], tuple[int, ...], int], op: str, target: Target
) -> None:
    """Two tensors whose shapes numpy broadcasts give what numpy gives."""
    first, second, seed = case
    rng = np.random.default_rng(seed)
    a, b = positive(rng, first), positive(rng, second)
    wanted = COMPUTE[op](a.astype(np.float64), b.astype(np.float64))
    kernel = Kernel(
        op=op, inputs=(tensor(first), tensor(second)), output=tensor(wanted.shape),
        precision="fp32",
    )  # fmt: skip
    np.testing.assert_allclose(run(kernel, target, [a, b], {}), wanted, rtol=1e-6)


@SLOW
@given(
    case=broadcasts(), op=st.sampled_from(sorted(COMPUTE)), target=st.sampled_from(TARGETS),
    turned=st.booleans(),
)  # fmt: skip
def test_any_broadcast_of_a_constant(
    case: tuple[tuple[int, ...], tuple[int, ...], int], op: str, target: Target, turned: bool
) -> None:
    """A constant of any shape, as the second operand or the first."""
    first, second, seed = case
    rng = np.random.default_rng(seed)
    a, b = positive(rng, first), positive(rng, second)
    operands = [a.astype(np.float64), b.astype(np.float64)]
    wanted = COMPUTE[op](*(operands[::-1] if turned else operands))
    kernel = Kernel(
        op=op, inputs=(tensor(first),), output=tensor(wanted.shape), precision="fp32",
        attributes=(("operand", second), ("reversed", int(turned))),
    )  # fmt: skip
    np.testing.assert_allclose(run(kernel, target, [a], {"operand": b}), wanted, rtol=1e-6)


def _elu(x: Doubles, alpha: float) -> Doubles:
    return np.where(x < 0, alpha * np.expm1(x), x)


ALPHA, BETA = 0.25, 0.5
FUNCTIONS: dict[str, Callable[[Doubles], Doubles]] = {
    "abs": np.abs, "ceil": np.ceil, "erf": special.erf, "exp": np.exp, "floor": np.floor,
    "log": np.log, "neg": np.negative, "reciprocal": np.reciprocal, "round": np.round,
    "sqrt": np.sqrt, "square": np.square, "tanh": np.tanh, "sigmoid": special.expit,
    "relu": lambda x: np.maximum(x, 0), "clip": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x: np.where(x < 0, ALPHA * x, x),
    "hard_sigmoid": lambda x: np.clip(ALPHA * x + BETA, 0, 1),
    "hard_swish": lambda x: x * np.clip(ALPHA * x + BETA, 0, 1),
    "elu": lambda x: _elu(x, ALPHA), "selu": lambda x: BETA * _elu(x, ALPHA),
    "silu": lambda x: x * special.expit(x), "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "softplus": lambda x: np.logaddexp(0, x), "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
}  # fmt: skip
PARAMETERS = {
    "alpha": np.float32(ALPHA), "beta": np.float32(BETA), "clip_low": np.float32(-1),
    "clip_high": np.float32(1),
}  # fmt: skip


def test_every_function_has_a_reference() -> None:
    """No function goes untested; the gates are tested where they are fused."""
    gates = {"sigmoid_gate", "hard_sigmoid_gate"}
    assert set(FUNCTIONS) == set(UNARY) - gates
    assert gates <= set(ACTIVATIONS)


@TARGET
@pytest.mark.parametrize("op", sorted(FUNCTIONS))
def test_function(target: Target, op: str) -> None:
    """Every function of its own, with a ragged end; NaN in is NaN out, and disturbs nobody."""
    x = (np.random.default_rng(1).standard_normal((3, 5, 37)) * 3).astype(np.float32)
    x = np.abs(x) if op in ("log", "sqrt") else x
    x[0, 0, 0] = np.nan
    kernel = Kernel(op=op, inputs=(tensor(x.shape),), output=tensor(x.shape), precision="fp32")
    made = run(kernel, target, [x], PARAMETERS)
    wanted = FUNCTIONS[op](x.astype(np.float64))
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)
    assert np.isnan(made[0, 0, 0])


def test_limits_that_cross() -> None:
    """Clip with its lower limit above the upper one gives the upper one, as ONNX says."""
    x = np.array([[-5, 0, 5, np.inf, -np.inf]], np.float32)
    kernel = Kernel(op="clip", inputs=(tensor(x.shape),), output=tensor(x.shape), precision="fp32")
    limits = {"clip_low": np.float32(2), "clip_high": np.float32(-1)}
    np.testing.assert_array_equal(run(kernel, TARGETS[0], [x], limits), np.full((1, 5), -1))


def test_not_a_number_becomes_some_number_of_eight_bits() -> None:
    """What cannot be quantized is, without touching its neighbours; infinities saturate."""
    x = np.array([[np.nan, np.inf, -np.inf, 1, 2, 3, 4, 5]], np.float32)
    kernel = Kernel(
        op="quantize", inputs=(tensor(x.shape),), output=tensor(x.shape, "uint8"),
        precision="fp32",
    )  # fmt: skip
    given_ = {"output_scale": np.float32(0.5), "output_zero_point": np.float32(10)}
    made = run(kernel, TARGETS[0], [x], given_)
    np.testing.assert_array_equal(made[0, 1:], [255, 0, 12, 14, 16, 18, 20])


@TARGET
@pytest.mark.parametrize("threads", [1, 2])
def test_product_of_quantized_map_and_channels(target: Target, threads: int) -> None:
    """A uint8 map times a uint8 value per channel is one rounding of the exact product."""
    rng = np.random.default_rng(4)
    shape, gate = (1, 40, 40, 200), (1, 1, 1, 200)
    a, b = (rng.integers(0, 256, s).astype(np.uint8) for s in (shape, gate))
    kernel = Kernel(
        op="mul", inputs=(tensor(shape, "uint8"), tensor(gate, "uint8")),
        output=tensor(shape, "uint8"), precision="int8",
    )  # fmt: skip
    constants = {
        "input_scale": np.float32(0.02), "input_zero_point": np.float32(3),
        "residual_scale": np.float32(0.004), "residual_zero_point": np.float32(9),
        "output_scale": np.float32(0.013), "output_zero_point": np.float32(7),
    }  # fmt: skip
    ratio = np.float32(0.02) * np.float32(0.004) / np.float32(0.013)
    product = ((a.astype(np.int64) - 3) * (b.astype(np.int64) - 9)).astype(np.float32) * ratio
    wanted = np.clip(np.rint(product) + 7, 0, 255)
    made = run(kernel, target.with_threads(threads), [a, b], constants)
    np.testing.assert_array_equal(made, wanted)


def agrees(model: onnx.ModelProto, *, step: float = 0.0) -> list[str]:
    """Whether a model computes what ONNX Runtime does; the operators of its kernels."""
    x = random(3, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim))
    program = lowered(model, TARGETS[0])
    made, wanted = Compiled(program, TARGETS[0]).run(x)[0], answer(model, x)[0]
    assert made.shape == wanted.shape
    limit = 1.001 * step if step else 2e-5 * max(1.0, float(np.abs(wanted).max()))
    assert np.abs(made - wanted).max() <= limit
    if step:
        assert np.mean(np.abs(made - wanted) > 0.001 * step) <= 0.01
    return [call.kernel.op for call in program.calls]


@pytest.mark.parametrize("op", ["Add", "Sub", "Div", "Max", "Min"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (6,), (5, 1), (1, 6), (4, 1, 1), (1, 4, 1, 1), (2, 1, 4, 5, 6)]
)
def test_constants_of_a_network_on_both_sides(op: str, shape: tuple[int, ...]) -> None:
    """A constant of every shape before and behind a map that is channels-last."""
    value = np.asarray(np.random.default_rng(0).uniform(1, 2, shape), np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4), node("Abs", ["c"], ["p"], "p"),
        node("Add", ["p", "one"], ["q"], "q"), node(op, ["q", "k"], ["l"], "l"),
        node(op, ["k", "l"], ["y"], "y"),
    ]  # fmt: skip
    model = onnx_model(
        nodes, {"w": random(0, 4, 4, 3, 3), "k": value, "one": np.float32([1])}, shape=(1, 4, 5, 6)
    )
    assert "onnx" not in agrees(model)


@pytest.mark.parametrize("power", [-1.0, 0.5, 2.0, 3.0])
def test_powers(power: float) -> None:
    """Powers with a constant exponent, the cheap ones as functions of their own."""
    nodes = [node("Abs", ["x"], ["a"], "a"), node("Pow", ["a", "p"], ["y"], "y")]
    used = agrees(onnx_model(nodes, {"p": np.asarray(power, np.float32)}))
    assert ("pow" in used) == (power == 3.0)


def test_function_of_any_rank() -> None:
    """A tensor of rank 3 or 5 is as good as a map."""
    for shape in ((2, 3, 5), (1, 2, 3, 4, 5)):
        nodes = [node("Exp", ["x"], ["e"], "e"), node("Softplus", ["e"], ["s"], "s"),
                 node("Selu", ["s"], ["y"], "y")]  # fmt: skip
        assert agrees(onnx_model(nodes, shape=shape, opset=22)) == ["exp", "selu"]


def test_quantized_function_reads_and_writes_eight_bits() -> None:
    """A sigmoid between Q/DQ pairs is one kernel from uint8 to uint8."""
    nodes = [*quantized("x", "a"), node("Sigmoid", ["a"], ["s"], "s"), *quantized("s", "y")]
    model = onnx_model(nodes, scale("a", 0.03, 120) | scale("y", 1 / 256, 0))
    assert agrees(model, step=1 / 256).count("sigmoid") == 1
