"""Elementwise operators, conversions and activation functions on an OpenCL device."""

from __future__ import annotations

import math

import numpy as np
from gpu_kernels import Case, check_all, kernel_of

from millifit.targets.target import Target

erf = np.vectorize(math.erf)
PARAMETERS = {
    "alpha": np.float32(0.3), "beta": np.float32(0.4), "clip_low": np.float32(-0.5),
    "clip_high": np.float32(0.7), "gate_scale": np.float32(1 / 255),
    "gate_zero_point": np.float32(0),
}  # fmt: skip
FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0), "clip": lambda x: np.clip(x, -0.5, 0.7),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)), "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x / (1 + np.exp(-2 * (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "softplus": lambda x: np.logaddexp(0, x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "elu": lambda x: np.where(x < 0, np.float32(0.3) * np.expm1(x), x),
    "leaky_relu": lambda x: np.where(x < 0, np.float32(0.3) * x, x),
    "hard_sigmoid": lambda x: np.clip(np.float32(0.3) * x + np.float32(0.4), 0, 1),
    "hard_swish": lambda x: x * np.clip(np.float32(0.3) * x + np.float32(0.4), 0, 1),
    "abs": np.abs, "ceil": np.ceil, "floor": np.floor, "round": np.rint, "neg": np.negative,
    "erf": erf, "exp": np.exp, "square": np.square,
    "selu": lambda x: np.float32(0.4) * np.where(x < 0, np.float32(0.3) * np.expm1(x), x),
}  # fmt: skip
OF_POSITIVE = {"log": np.log, "sqrt": np.sqrt, "reciprocal": np.reciprocal}


def test_functions(opencl: Target):
    """Every function, on whole vectors and on a size that none divides."""
    cases = []
    for number, (op, reference) in enumerate({**FUNCTIONS, **OF_POSITIVE}.items()):
        shape = (1, 3, 5, 7) if number % 2 else (1, 4, 3, 8)
        x = np.random.default_rng(number).standard_normal(shape).astype(np.float32) * 3
        x = np.abs(x) + np.float32(0.01) if op in OF_POSITIVE else x
        wanted = reference(x.astype(np.float64))
        kernel = kernel_of(op, [x], x)
        error = 2e-6 * max(1.0, np.abs(wanted).max())
        cases.append(
            Case(kernel=kernel, activations=[x], constants=PARAMETERS, wanted=wanted, error=error)
        )
    check_all(cases, opencl)


def test_functions_in_a_row(opencl: Target):
    """What is fused behind an elementwise operator is computed in order."""
    x, y = np.random.default_rng(0).standard_normal((2, 1, 4, 3, 8)).astype(np.float32)
    kernel = kernel_of("add", [x, y], x, epilogue=("hard_sigmoid_gate", "tanh", "elu"))
    total = x.astype(np.float64) + y
    gate = np.rint(np.clip(np.float32(0.3) * total + np.float32(0.4), 0, 1) * 255) / 255
    value = np.tanh(total * gate)
    wanted = np.where(value < 0, np.float32(0.3) * np.expm1(value), value)
    case = Case(
        kernel=kernel, activations=[x, y], constants=PARAMETERS, wanted=wanted, error=0.003
    )  # a gate may be rounded the other way
    check_all([case], opencl)


BINARY = {"add": np.add, "mul": np.multiply, "sub": np.subtract, "div": np.divide,
          "min": np.minimum, "max": np.maximum, "pow": np.power}  # fmt: skip


def test_arithmetic(opencl: Target):
    """Equal shapes, a value per channel or row, and a constant, in either order."""
    rng = np.random.default_rng(2)
    x = rng.uniform(0.5, 2, (1, 4, 3, 12)).astype(np.float32)
    cases = []
    for number, (op, compute) in enumerate(BINARY.items()):
        shape = [(1, 4, 3, 12), (1, 1, 1, 12), (1, 4, 3, 1), (1, 4, 1, 12)][number % 4]
        other = rng.uniform(0.5, 2, shape).astype(np.float32)
        wanted = compute(x.astype(np.float64), other)
        cases.append(
            Case(kernel=kernel_of(op, [x, other], x), activations=[x, other], wanted=wanted,
                 error=1e-5)
        )  # fmt: skip
        operand = other.reshape(shape)[0, 0, 0]
        reverse = op in ("sub", "div", "pow")
        pair = (operand, x.astype(np.float64)) if reverse else (x.astype(np.float64), operand)
        attributes = {"operand": operand.shape} if operand.shape != (12,) else {}
        kernel = kernel_of(op, [x], x, **attributes, **({"reversed": 1} if reverse else {}))
        cases.append(
            Case(kernel=kernel, activations=[x], constants={"operand": operand},
                 wanted=compute(*pair), error=1e-5)
        )  # fmt: skip
    check_all(cases, opencl)


def test_conversions(opencl: Target):
    """16 bits round to the nearest as NumPy does; quantization is ONNX's."""
    rng, shape = np.random.default_rng(3), (1, 4, 3, 8)
    x = (rng.standard_normal(shape) * 30).astype(np.float32)
    a, b = (rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2))
    constants = {
        "input_scale": np.float32(0.02), "input_zero_point": np.float32(3),
        "residual_scale": np.float32(0.013), "residual_zero_point": np.float32(9),
        "output_scale": np.float32(0.05), "output_zero_point": np.float32(7),
    }  # fmt: skip
    cases = []
    for dtype in ("float16", "bfloat16"):
        odd = x[:, :3, :, :5] if dtype == "float16" else x
        half = odd.astype(np.dtype(dtype))
        cases.append(Case(kernel=kernel_of("cast", [odd], half), activations=[odd], wanted=half))
        back = half.astype(np.float32)
        cases.append(Case(kernel=kernel_of("cast", [half], back), activations=[half], wanted=back))

    def case(op, given, wanted, *, precision="fp32", step=True):
        kernel = kernel_of(op, given, wanted, precision=precision)
        cases.append(
            Case(kernel=kernel, activations=given, constants=constants, wanted=wanted, step=step)
        )

    def quantized(values):
        return np.clip(np.rint(values / np.float32(0.05)) + 7, 0, 255).astype(np.uint8)

    meant = (a.astype(np.float32) - 3) * np.float32(0.02)
    other = (b.astype(np.float32) - 9) * np.float32(0.013)
    case("quantize", [x], quantized(x))
    case("dequantize", [a], meant, step=False)
    case("requantize", [a], quantized(meant), precision="int8")
    case("add", [a, b], quantized(meant + other), precision="int8")
    case("mul", [a, b], quantized(meant * other), precision="int8")
    check_all(cases, opencl)
