"""Kernels of the precisions besides fp32 and int8, against references in float64 and integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import TARGETS, convolve, run, tensor, x86
from test_schedules import IN_SCALE, OUT_SCALE, OUT_ZERO, SLOW, convolutions, layer, requantized

from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import runs_here


def only(target):
    """The mark of a test on one processor; elsewhere it is an expected failure that says so.

    An empty list of targets would skip the test without a word.
    """
    absent = runs_here(target)
    marks = [] if absent is None else [pytest.mark.xfail(run=False, reason=absent)]
    return pytest.mark.parametrize("target", [pytest.param(target, marks=marks, id=target.name)])


BF16 = only(x86("avx512_vnni", features=("+avx512vnni", "+avx512bf16")))
# An AVX-512 processor without VNNI multiplies and adds pairs, as AVX2 does, in wider vectors.
SKYLAKE = only(x86("avx512_vnni", features=(), dot_product="avx2_pmaddwd"))
TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def rounded(values, dtype):
    """Values of 16 bits, and the same as float64."""
    half = values.astype(np.dtype(dtype))
    return half, half.astype(np.float64)


@SKYLAKE
@SLOW
@given(case=convolutions(depthwise=False), precision=st.sampled_from(["w7a8", "int8"]))
def test_integers_in_wide_pairs_are_bit_exact(target, case, precision):
    """The 512-bit forms of pmaddwd and pmaddubsw give every bit of the reference."""
    kernel, given_, constants, exact = layer(case, precision=precision, output="uint8")
    scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
    np.testing.assert_array_equal(
        run(kernel, target, given_, constants)[0], requantized(exact, scale, OUT_ZERO)
    )


@BF16
@SLOW
@given(case=convolutions(depthwise=False), half=st.booleans())
def test_bf16_convolution(target, case, half):
    """Products of rounded operands are summed in float32; only the output is rounded again.

    The dot product rounds differently from a chain of FMAs: 1e-5 of the largest sum all the same.
    An output of 16 bits is off by half a unit of its 8 significant bits at most.
    """
    height, width, channels, outputs, size, geometry, groups, seed = case
    rng = np.random.default_rng(seed)
    shape = (1, height, width, channels)
    x, exact_x = rounded(rng.standard_normal(shape), "bfloat16")
    weight, exact_weight = rounded(
        rng.standard_normal((outputs, channels // groups, *size)), "bfloat16"
    )
    bias = rng.standard_normal(outputs).astype(np.float32)
    sums = convolve(exact_x[0], exact_weight, groups=groups, **geometry) + bias
    residual, exact_residual = rounded(rng.standard_normal((1, *sums.shape)), "bfloat16")
    output = tensor((1, *sums.shape), "bfloat16" if half else "float32")
    kernel = Kernel(
        op="conv2d", inputs=(tensor(shape, "bfloat16"), tensor(residual.shape, "bfloat16")),
        output=output, precision="bf16", epilogue=("add", "relu"),
        attributes=tuple(sorted({**geometry, "kernel": size, "groups": groups}.items())),
    )  # fmt: skip
    constants = {"weight": weight.astype(np.float32), "bias": bias}
    made = run(kernel, target, [x, residual], constants)[0].astype(np.float64)
    wanted = np.maximum(sums + exact_residual[0], 0)
    error = 1e-5 * max(1.0, np.abs(sums).max())
    if half:
        error += np.abs(wanted) * 2.0**-8
    assert np.all(np.abs(made - wanted) <= error)


@BF16
@pytest.mark.parametrize(("rows", "depth", "channels"), [(1, 1, 1), (1, 1280, 10), (5, 33, 47)])
def test_bf16_dense(target, rows, depth, channels):
    """A dense layer of any size, odd depths included."""
    rng = np.random.default_rng(0)
    x, exact_x = rounded(rng.standard_normal((rows, depth)), "bfloat16")
    weight, exact_weight = rounded(rng.standard_normal((channels, depth)), "bfloat16")
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape, "bfloat16"),), output=tensor((rows, channels)),
        precision="bf16",
    )  # fmt: skip
    constants = {"weight": weight.astype(np.float32), "bias": np.zeros(channels, np.float32)}
    made = run(kernel, target, [x], constants)
    wanted = exact_x @ exact_weight.T
    assert np.abs(made - wanted).max() <= 1e-5 * np.abs(wanted).max()


@TARGET
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_16_bits(target, dtype):
    """Casts round to the nearest, halves to even, as NumPy does; the way back is exact."""
    rng = np.random.default_rng(0)
    x = np.concatenate([
        rng.standard_normal(997) * 100,
        [0.0, -0.0, np.inf, -np.inf, 65504.0, 1e-30, 1.00390625, 1.01171875, 2049.0, 2051.0],
    ]).astype(np.float32)[None]  # fmt: skip
    half = tensor(x.shape, dtype)
    there = Kernel(op="cast", inputs=(tensor(x.shape),), output=half, precision="fp32")
    back = Kernel(op="cast", inputs=(half,), output=tensor(x.shape), precision="fp32")
    made = run(there, target, [x], {})
    np.testing.assert_array_equal(made, x.astype(np.dtype(dtype)))
    np.testing.assert_array_equal(run(back, target, [made], {}), made.astype(np.float32))


@TARGET
@SLOW
@given(data=st.data(), precision=st.sampled_from(["w8", "w4"]))
def test_weight_only_dense(target, data, precision):
    """Integer weights, with a scale per channel or per block, are right to 1e-5 of float64."""
    rows = data.draw(st.integers(1, 4))
    depth, channels = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    block = data.draw(st.sampled_from([0, 16, 32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    low, high = (-8, 8) if precision == "w4" else (-128, 128)
    integers = rng.integers(low, high, (channels, depth)).astype(np.int8)
    weight = integers.astype(np.dtype("int4")) if precision == "w4" else integers
    blocks = -(-depth // block) if block else 1
    scale = rng.uniform(0.01, 0.1, (channels, blocks)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape),), output=tensor((rows, channels)),
        precision=precision, attributes=(("block", block),) if block else (), epilogue=("relu",),
    )  # fmt: skip
    made = run(kernel, target, [x], {"weight": weight, "weight_scale": scale, "bias": bias})
    spread = np.repeat(scale.astype(np.float64), block or depth, axis=1)[:, :depth]
    sums = x.astype(np.float64) @ (integers * spread).T + bias
    assert np.abs(made - np.maximum(sums, 0)).max() <= 1e-5 * np.abs(sums).max()


@BF16
@pytest.mark.parametrize("channels", [16, 48, 64, 21])
def test_bf16_layer_is_quantized_with_its_residual(target, channels):
    """A residual of 16 bits is added as the number it is where the sum becomes bytes."""
    rng = np.random.default_rng(channels)
    rows, depth, scale, zero_point = 9, 32, np.float32(0.1), 120
    x, exact_x = rounded(rng.standard_normal((rows, depth)), "bfloat16")
    weight, exact_weight = rounded(rng.standard_normal((channels, depth)), "bfloat16")
    residual, exact_residual = rounded(rng.standard_normal((rows, channels)), "bfloat16")
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape, "bfloat16"), tensor(residual.shape, "bfloat16")),
        output=tensor(residual.shape, "uint8"), precision="bf16", epilogue=("add",),
    )  # fmt: skip
    constants = {
        "weight": weight.astype(np.float32), "bias": np.zeros(channels, np.float32),
        "output_scale": scale, "output_zero_point": np.float32(zero_point),
    }  # fmt: skip
    made = run(kernel, target, [x, residual], constants)
    steps = (exact_x @ exact_weight.T + exact_residual) / scale
    ties = np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 1e-3
    wanted = np.clip(np.rint(steps) + zero_point, 0, 255)
    np.testing.assert_array_equal(made[~ties], wanted[~ties])
