"""Every schedule against a float64 or integer reference, on every instruction set here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import TARGETS, run, tensor, x86
from layers import (
    IN_SCALE,
    IN_ZERO,
    OUT_SCALE,
    OUT_ZERO,
    assert_residual_is_added,
    convolutions,
    layer,
    requantized,
)

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.rules import schedule

TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
SLOW = settings(
    max_examples=15, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@TARGET
@SLOW
@given(case=convolutions(depthwise=False))
def test_fp32_convolution(target, case):
    """A convolution of any geometry is right to 1e-5, with ReLU and a residual fused."""
    kernel, given_, constants, exact = layer(
        case, precision="fp32", output="float32", epilogue=("add", "relu")
    )
    wanted = np.maximum(exact + given_[1][0], 0)
    made = run(kernel, target, given_, constants)[0]
    assert np.abs(made - wanted).max() <= 1e-5 * max(1.0, np.abs(exact).max())


@TARGET
@SLOW
@given(case=convolutions(depthwise=True))
def test_fp32_depthwise(target, case):
    """A depthwise convolution of any geometry is right to 1e-5, with Clip fused."""
    kernel, given_, constants, exact = layer(
        case, precision="fp32", output="float32", epilogue=("clip",)
    )
    made = run(kernel, target, given_, constants)[0]
    assert np.abs(made - np.clip(exact, 0, 6)).max() <= 1e-5 * max(1.0, np.abs(exact).max())


@TARGET
@SLOW
@given(case=convolutions(depthwise=False), precision=st.sampled_from(["w7a8", "int8"]))
def test_int8_convolution_is_bit_exact(target, case, precision):
    """Integer convolution and its requantization give every bit of the reference."""
    kernel, given_, constants, exact = layer(case, precision=precision, output="uint8")
    scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
    np.testing.assert_array_equal(
        run(kernel, target, given_, constants)[0], requantized(exact, scale, OUT_ZERO)
    )


@TARGET
@SLOW
@given(case=convolutions(depthwise=True))
def test_int8_depthwise_is_bit_exact(target, case):
    """A depthwise convolution on the float units loses no bit of the integers."""
    kernel, given_, constants, exact = layer(case, precision="int8", output="uint8")
    scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
    np.testing.assert_array_equal(
        run(kernel, target, given_, constants)[0], requantized(exact, scale, OUT_ZERO)
    )


@TARGET
@SLOW
@given(case=convolutions(depthwise=False))
def test_int8_convolution_with_residual(target, case):
    """A fused addition rounds twice, as Q/DQ says, and agrees but for ties of the second."""
    assert_residual_is_added(target, case)


@TARGET
def test_int8_layer_to_real_values(target):
    """An int8 layer that feeds an fp32 one dequantizes, adds and activates in its epilogue."""
    case = (6, 5, 12, 10, (3, 3), {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)},
            1, 3)  # fmt: skip
    kernel, given_, constants, exact = layer(
        case, precision="int8", output="float32", epilogue=("add", "relu")
    )
    wanted = np.maximum(exact * (IN_SCALE * constants["weight_scale"]) + given_[1][0], 0)
    np.testing.assert_allclose(run(kernel, target, given_, constants)[0], wanted, rtol=1e-5)


@TARGET
def test_fp32_layer_quantizes_in_its_epilogue(target):
    """An fp32 layer that feeds an int8 one writes uint8, limits of the activation included."""
    case = (6, 5, 12, 10, (1, 1), {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)},
            1, 4)  # fmt: skip
    kernel, given_, constants, exact = layer(case, precision="fp32", output="uint8")
    constants |= {"act_low": np.float32(0), "act_high": np.float32(3)}
    wanted = np.clip(np.rint(np.clip(exact, 0, 3) / OUT_SCALE) + OUT_ZERO, 0, 255)
    made = run(kernel, target, given_, constants)[0]
    assert np.mean(made != wanted) < 0.01  # float32 and float64 may round a tie differently
    assert made.min() == OUT_ZERO
    assert made.max() == OUT_ZERO + 6


@TARGET
@pytest.mark.parametrize(("rows", "depth", "channels"), [(1, 1, 1), (1, 1280, 10), (5, 33, 47)])
def test_dense(target, rows, depth, channels):
    """A dense layer of any size is right in fp32 and exact in int8."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    weight = rng.standard_normal((channels, depth)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape),), output=tensor((rows, channels)), precision="fp32"
    )
    made = run(kernel, target, [x], {"weight": weight, "bias": bias})
    wanted = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert np.abs(made - wanted).max() <= 1e-5 * np.abs(wanted).max()
    q = rng.integers(0, 256, x.shape).astype(np.uint8)
    integers = rng.integers(-127, 128, weight.shape).astype(np.int8)
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape, "uint8"),), output=tensor((rows, channels)),
        precision="int8",
    )  # fmt: skip
    scale = np.full(channels, 1e-3, np.float32)
    made = run(
        kernel, target, [q],
        {"weight": integers, "bias": np.zeros(channels, np.int32), "weight_scale": scale,
         "input_scale": np.asarray(IN_SCALE), "input_zero_point": np.float32(IN_ZERO)},
    )  # fmt: skip
    exact = (q.astype(np.int64) - IN_ZERO) @ integers.T.astype(np.int64)
    np.testing.assert_array_equal(made, exact.astype(np.float32) * (IN_SCALE * scale))


@TARGET
@pytest.mark.parametrize(
    ("op", "reference"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("hard_swish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
        ("hard_sigmoid", lambda x: np.clip(0.25 * x + 0.5, 0, 1)),
        ("leaky_relu", lambda x: np.where(x < 0, 0.1 * x, x)),
        ("clip", lambda x: np.clip(x, -1, 1)),
    ],
)
def test_activation_functions(target, op, reference):
    """Each activation function of its own is right, ragged ends included."""
    x = np.random.default_rng(1).standard_normal((1, 3, 5, 7)).astype(np.float32) * 3
    kernel = Kernel(op=op, inputs=(tensor(x.shape),), output=tensor(x.shape), precision="fp32")
    slope = {"hard_sigmoid": 0.25, "hard_swish": 1 / 6}.get(op, 0.1)
    constants = {
        "clip_low": np.float32(-1), "clip_high": np.float32(1), "alpha": np.float32(slope),
        "beta": np.float32(0.5),
    }  # fmt: skip
    made = run(kernel, target, [x], constants)
    np.testing.assert_allclose(made, reference(x.astype(np.float64)), rtol=1e-5, atol=1e-6)


@TARGET
@pytest.mark.parametrize("op", ["add", "mul", "sub", "div"])
def test_arithmetic(target, op):
    """Two maps, a map and a value per channel, and a map and a constant."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 4, 3, 21)).astype(np.float32)
    same = rng.uniform(0.5, 2, x.shape).astype(np.float32)
    channel = rng.uniform(0.5, 2, (1, 1, 1, 21)).astype(np.float32)
    compute = {"add": np.add, "mul": np.multiply, "sub": np.subtract, "div": np.divide}[op]
    for other in (same, channel):
        kernel = Kernel(
            op=op, inputs=(tensor(x.shape), tensor(other.shape)), output=tensor(x.shape),
            precision="fp32",
        )  # fmt: skip
        np.testing.assert_allclose(run(kernel, target, [x, other], {}), compute(x, other), 1e-6)
    kernel = Kernel(op=op, inputs=(tensor(x.shape),), output=tensor(x.shape), precision="fp32")
    for other in (channel, np.float32(3)):
        made = run(kernel, target, [x], {"operand": np.asarray(other)})
        np.testing.assert_allclose(made, compute(x, other), 1e-6)


@TARGET
def test_quantize_dequantize_requantize_and_add(target):
    """Conversions are ONNX's; an addition of quantized maps is one rounding off the exact sum."""
    rng = np.random.default_rng(3)
    shape = (1, 4, 3, 21)
    real = (rng.standard_normal(shape) * 30).astype(np.float32)
    a, b = (rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2))
    constants = {
        "input_scale": np.float32(0.02), "input_zero_point": np.float32(3),
        "residual_scale": np.float32(0.013), "residual_zero_point": np.float32(9),
        "output_scale": np.float32(0.05), "output_zero_point": np.float32(7),
    }  # fmt: skip

    def kernel(op, *dtypes, precision="fp32"):
        return Kernel(
            op=op, inputs=tuple(tensor(shape, d) for d in dtypes[:-1]),
            output=tensor(shape, dtypes[-1]), precision=precision,
        )  # fmt: skip

    def quantized(values):
        return np.clip(np.rint(values / np.float32(0.05)) + 7, 0, 255)

    meant = (a.astype(np.float32) - 3) * np.float32(0.02)
    made = run(kernel("quantize", "float32", "uint8"), target, [real], constants)
    np.testing.assert_array_equal(made, quantized(real))
    made = run(kernel("dequantize", "uint8", "float32"), target, [a], constants)
    np.testing.assert_array_equal(made, meant)
    made = run(kernel("requantize", "uint8", "uint8", precision="int8"), target, [a], constants)
    assert np.abs(made - quantized(meant)).max() <= 1
    made = run(
        kernel("add", "uint8", "uint8", "uint8", precision="int8"), target, [a, b], constants
    )
    total = ((a - 3.0) * 0.02 + (b - 9.0) * 0.013) / 0.05
    ties = np.abs(np.abs(total - np.floor(total)) - 0.5) < 1e-4
    wanted = np.clip(np.rint(total) + 7, 0, 255)
    np.testing.assert_array_equal(made[~ties], wanted[~ties])
    assert np.abs(made - wanted).max() <= 1


@TARGET
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("include", [0, 1])
def test_windows(target, op, include):
    """Pooling agrees with torch, padding counted or not; maxima of uint8 are exact."""
    import torch

    x = np.random.default_rng(4).standard_normal((1, 7, 6, 19)).astype(np.float32)
    attributes = [("kernel", (3, 3)), ("pads", (1, 1, 1, 1)), ("strides", (2, 2))]
    first = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    if op == "max_pool":
        wanted = torch.nn.functional.max_pool2d(first, 3, 2, 1)
    else:
        attributes.append(("count_include_pad", include))
        wanted = torch.nn.functional.avg_pool2d(first, 3, 2, 1, count_include_pad=bool(include))
    true = wanted.numpy().transpose(0, 2, 3, 1)
    kernel = Kernel(
        op=op, inputs=(tensor(x.shape),), output=tensor(true.shape), precision="fp32",
        attributes=tuple(sorted(attributes)),
    )  # fmt: skip
    np.testing.assert_allclose(run(kernel, target, [x], {}), true, rtol=1e-5, atol=1e-6)


@TARGET
def test_global_average(target):
    """The mean over a map, in fp32 and from uint8 to uint8 with one rounding."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 5, 6, 21)).astype(np.float32)
    kernel = Kernel(
        op="global_avg_pool", inputs=(tensor(x.shape),), output=tensor((1, 1, 1, 21)),
        precision="fp32",
    )  # fmt: skip
    wanted = x.mean((1, 2), keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(run(kernel, target, [x], {}), wanted, rtol=1e-5, atol=1e-6)
    q = rng.integers(0, 256, x.shape).astype(np.uint8)
    kernel = Kernel(
        op="global_avg_pool", inputs=(tensor(x.shape, "uint8"),),
        output=tensor((1, 1, 1, 21), "uint8"), precision="int8",
    )  # fmt: skip
    constants = {
        "input_scale": np.float32(0.02), "input_zero_point": np.float32(3),
        "output_scale": np.float32(0.01), "output_zero_point": np.float32(7),
    }  # fmt: skip
    mean = (q.astype(np.int64) - 3).mean((1, 2), keepdims=True) * 0.02
    made = run(kernel, target, [q], constants)
    assert np.abs(made - np.clip(np.rint(mean / 0.01) + 7, 0, 255)).max() <= 1


@TARGET
def test_layouts_are_inverse(target):
    """Channels first to last and back gives the same map."""
    x = np.random.default_rng(6).standard_normal((1, 5, 4, 7)).astype(np.float32)
    last = (1, 4, 7, 5)
    there = Kernel(
        op="to_channels_last", inputs=(tensor(x.shape),), output=tensor(last), precision="fp32"
    )
    back = Kernel(
        op="to_channels_first", inputs=(tensor(last),), output=tensor(x.shape), precision="fp32"
    )
    middle = run(there, target, [x], {})
    np.testing.assert_array_equal(middle, x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(run(back, target, [middle], {}), x)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("groups", [1, 96])
def test_two_threads_give_the_same_result(precision, groups):
    """A layer large enough to be split between threads is as right as on one."""
    geometry = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
    kernel, given_, constants, _ = layer(
        (57, 56, 96, 96, (3, 3), geometry, groups, 7),
        precision=precision, output="float32" if precision == "fp32" else "uint8",
    )  # fmt: skip
    one = run(kernel, TARGETS[0], given_, constants)
    two = run(kernel, TARGETS[0].with_threads(2), given_, constants)
    np.testing.assert_array_equal(one, two)


def test_staging_by_rows_when_the_map_exceeds_the_cache():
    """A padded map that does not fit the second-level cache is staged row by row, and right."""
    case = (21, 19, 16, 24, (3, 3), {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 2, 1, 2)},
            1, 8)  # fmt: skip
    kernel, given_, constants, exact = layer(case, precision="int8", output="uint8")
    scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
    small = x86(TARGETS[0].name, l2_bytes=4096)
    np.testing.assert_array_equal(
        run(kernel, small, given_, constants)[0], requantized(exact, scale, OUT_ZERO)
    )


def test_empty_tensor_is_an_error():
    """A tensor without elements is refused by name instead of compiled."""
    kernel = Kernel(
        op="relu", inputs=(tensor((1, 0, 4, 8)),), output=tensor((1, 0, 4, 8)), precision="fp32"
    )
    with pytest.raises(CompileError, match="'relu' has an empty tensor"):
        schedule(kernel, TARGETS[0])


def test_too_many_taps_for_exact_int8_depthwise():
    """An int8 depthwise window whose sum could leave exact float32 arithmetic is refused."""
    kernel = Kernel(
        op="depthwise_conv2d", inputs=(tensor((1, 40, 40, 8), "uint8"),),
        output=tensor((1, 1, 1, 8), "uint8"), precision="int8",
        attributes=(("dilations", (1, 1)), ("kernel", (40, 40)), ("pads", (0, 0, 0, 0)),
                    ("strides", (1, 1))),
    )  # fmt: skip
    with pytest.raises(CompileError, match="40x40 taps"):
        schedule(kernel, TARGETS[0])
