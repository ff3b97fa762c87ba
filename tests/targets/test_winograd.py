"""Winograd's convolution: exact transforms, right kernels, and a choice that follows the costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import TARGETS, convolve, run, tensor, x86

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.convolution import conv2d, conv2d_candidates
from millifit.targets.schedules.winograd_transform import Transform
from millifit.targets.target import Target

TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
ALGORITHMS = ("winograd2", "winograd4")


def convolution(height, width, inputs, outputs, *, pads=(1, 1, 1, 1), epilogue=(), strides=(1, 1)):
    """A 3x3 convolution kernel."""
    out_height = (height + pads[0] + pads[2] - 3) // strides[0] + 1
    out_width = (width + pads[1] + pads[3] - 3) // strides[1] + 1
    output = tensor((1, out_height, out_width, outputs))
    residual = (output,) if "add" in epilogue else ()
    return Kernel(
        op="conv2d", inputs=(tensor((1, height, width, inputs)), *residual), output=output,
        precision="fp32", epilogue=epilogue,
        attributes=(
            ("dilations", (1, 1)), ("groups", 1), ("kernel", (3, 3)), ("pads", pads),
            ("strides", strides),
        ),
    )  # fmt: skip


def chosen(kernel: Kernel, target: Target) -> bool:
    """Whether the rule itself takes Winograd: its weights are then larger than 9 per pair."""
    code: KernelCode = conv2d(kernel, target)
    direct = conv2d(kernel.with_choice((("algorithm", "direct"),)), target)
    return code.operands[0] != direct.operands[0]


@pytest.mark.parametrize("outputs", [2, 4])
def test_transforms_are_a_filter(outputs):
    """With rational points A, B and G compute a 3-tap filter: any input gives its exact sums."""
    from tvm import tirx

    transform = Transform(outputs=outputs)
    rng = np.random.default_rng(0)
    signal, taps = rng.standard_normal(outputs + 2), rng.standard_normal(3)

    def evaluate(bindings, results, given_):
        known = dict(given_)

        def value(expression):
            if isinstance(expression, tirx.Var):
                return known[expression.name]
            if isinstance(expression, tirx.FloatImm):
                return expression.value
            left, right = value(expression.a), value(expression.b)
            return {"Add": left + right, "Sub": left - right, "Mul": left * right}[
                type(expression).__name__
            ]

        for binding in bindings:
            known[binding.var.name] = value(binding.value)
        return np.array([value(result) for result in results])

    names = [f"x{i}" for i in range(outputs + 2)]
    variables = [tirx.Var(name, "float32") for name in names]
    inputs = evaluate(*transform.of_inputs(variables, 1, "t"), zip(names, signal, strict=True))
    products = inputs * (transform.weights @ taps)
    made = evaluate(*transform.of_products(variables, 1, "t"), zip(names, products, strict=True))
    wanted = [signal[i : i + 3] @ taps for i in range(outputs)]
    assert made == pytest.approx(wanted, rel=1e-12)


@TARGET
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(3, 19), st.integers(3, 27)),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 50)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 2**16),
)
def test_any_shape(target, algorithm, size, channels, pads, seed):
    """Ragged tiles, odd channels and lopsided padding give the convolution to 1e-5."""
    rng = np.random.default_rng(seed)
    kernel = convolution(*size, *channels, pads=pads, epilogue=("add", "relu"))
    kernel = kernel.with_choice((("algorithm", algorithm),))
    x = rng.standard_normal(kernel.inputs[0].shape).astype(np.float32)
    residual = rng.standard_normal(kernel.output.shape).astype(np.float32)
    weight = rng.standard_normal((channels[1], channels[0], 3, 3)).astype(np.float32)
    bias = rng.standard_normal(channels[1]).astype(np.float32)
    made = run(kernel, target, [x, residual], {"weight": weight, "bias": bias})[0]
    exact = convolve(
        x[0].astype(np.float64), weight, strides=(1, 1), dilations=(1, 1), pads=pads, groups=1
    )
    exact += bias
    wanted = np.maximum(exact + residual[0], 0)
    assert np.abs(made - wanted).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_many_channels_stay_exact(algorithm, offset):
    """256 input channels, also with a mean far from 0, stay within 1e-5 of the float64 sum."""
    rng = np.random.default_rng(3)
    kernel = convolution(9, 9, 256, 16).with_choice((("algorithm", algorithm),))
    x = (rng.standard_normal(kernel.inputs[0].shape) + offset).astype(np.float32)
    weight = rng.standard_normal((16, 256, 3, 3)).astype(np.float32)
    made = run(kernel, TARGETS[0], [x], {"weight": weight, "bias": np.zeros(16, np.float32)})[0]
    exact = convolve(
        x[0].astype(np.float64), weight, strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1),
        groups=1,
    )  # fmt: skip
    assert np.abs(made - exact).max() <= 1e-5 * np.abs(exact).max()


def test_two_threads_give_the_same_result():
    """Blocks of tiles on two threads write what one thread writes, bit by bit."""
    rng = np.random.default_rng(4)
    kernel = convolution(30, 30, 48, 64)
    x = rng.standard_normal(kernel.inputs[0].shape).astype(np.float32)
    constants = {
        "weight": rng.standard_normal((64, 48, 3, 3)).astype(np.float32),
        "bias": rng.standard_normal(64).astype(np.float32),
    }
    results = [run(kernel, TARGETS[0].with_threads(threads), [x], constants) for threads in (1, 2)]
    assert np.array_equal(*results)


def test_the_rule_weighs_products_against_transforms_and_weights():
    """Large maps take Winograd; strided, other and tiny ones do not; the estimate decides."""
    target = x86("avx512_vnni")
    assert chosen(convolution(56, 56, 64, 64), target)
    assert chosen(convolution(32, 32, 16, 16), target)
    assert not chosen(convolution(56, 56, 64, 64, strides=(2, 2)), target)
    assert not chosen(convolution(3, 3, 8, 8, pads=(0, 0, 0, 0)), target)
    assert not chosen(convolution(224, 224, 3, 16), target)


def test_tuning_may_take_any_algorithm_that_is_possible():
    """Every algorithm is a candidate, and one that is not possible is an error."""
    target = x86("avx512_vnni")
    kernel = convolution(56, 56, 64, 64)
    assert {("algorithm", "direct"), ("algorithm", "winograd2")} <= {
        choice for candidate in conv2d_candidates(kernel, target) for choice in candidate
    }
    strided = convolution(56, 56, 64, 64, strides=(2, 2))
    with pytest.raises(CompileError, match="algorithm='winograd2' is not possible"):
        conv2d(strided.with_choice((("algorithm", "winograd2"),)), target)
