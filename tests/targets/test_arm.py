"""Code for Arm: its results under an emulator, and the instructions it is made of."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import tvm
from assembly import innermost_loops
from emulator import emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import arm, run, tensor
from layers import (
    IN_SCALE,
    OUT_SCALE,
    OUT_ZERO,
    assert_residual_is_added,
    convolutions,
    layer,
    requantized,
)
from onnx import helper
from onnx_models import onnx_model, random
from programs import lowered

from millifit.targets.build import compile_program, export_library, tvm_target
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.schedules import tir
from millifit.targets.schedules.rules import schedule

TARGETS = [arm(name) for name in ("neon", "sdot", "i8mm")]
ARM = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
FEW = settings(max_examples=10, deadline=None, derandomize=True)
PLAIN = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}


@ARM
@FEW
@given(case=convolutions(depthwise=False), precision=st.sampled_from(["w7a8", "int8"]))
def test_int8_convolution_is_bit_exact(target, case, precision):
    """Every dot product gives every bit of the reference, on any geometry."""
    kernel, given_, constants, exact = layer(case, precision=precision, output="uint8")
    scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
    made = run(kernel, target, given_, constants)[0]
    np.testing.assert_array_equal(made, requantized(exact, scale, OUT_ZERO))


@ARM
def test_extreme_integers_are_exact(target):
    """Activations of 0 and 255 times weights of -128 and 127, the largest products there are."""
    case = (5, 6, 24, 9, (3, 3), PLAIN, 1, 5)
    kernel, (x,), constants, _ = layer(case, precision="int8", output="float32")
    rng = np.random.default_rng(1)
    constants["weight"] = rng.choice([-128, 127], constants["weight"].shape).astype(np.int8)
    constants["weight"][:4] = -128
    constants["bias"] = np.zeros(9, np.int32)
    constants |= {"input_zero_point": np.float32(0), "weight_scale": np.ones(9, np.float32)}
    constants["input_scale"] = np.float32(1)
    for value in (0, 255):
        filled = np.full_like(x, value)
        made = run(kernel, target, [filled], constants)[0]
        one = np.full((5, 6, 24), value, np.int64)
        padded = np.pad(one, ((1, 1), (1, 1), (0, 0)))
        weight = constants["weight"].astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        exact = np.einsum("yxikl,oikl->yxo", windows, weight)
        np.testing.assert_array_equal(made, exact.astype(np.float32))


@ARM
@FEW
@given(case=convolutions(depthwise=True))
def test_int8_depthwise_is_bit_exact(target, case):
    """Four taps at once, or one by one in float32: no bit is lost."""
    kernel, given_, constants, exact = layer(case, precision="int8", output="uint8")
    scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
    made = run(kernel, target, given_, constants)[0]
    np.testing.assert_array_equal(made, requantized(exact, scale, OUT_ZERO))


@ARM
@FEW
@given(case=convolutions(depthwise=False))
def test_int8_convolution_with_residual(target, case):
    """A fused addition agrees with two roundings but for ties of the second."""
    assert_residual_is_added(target, case)


@pytest.mark.parametrize("depthwise", [False, True])
@FEW
@given(data=st.data())
def test_fp32_convolution(depthwise, data):
    """Activations as lanes of a register give the sums that scalars gave, to 1e-5."""
    case = data.draw(convolutions(depthwise=depthwise))
    kernel, given_, constants, exact = layer(
        case, precision="fp32", output="float32", epilogue=("add", "relu")
    )
    made = run(kernel, arm("neon"), given_, constants)[0]
    wanted = np.maximum(exact + given_[1][0], 0)
    assert np.abs(made - wanted).max() <= 1e-5 * max(1.0, np.abs(exact).max())


def test_winograd():
    """A 3x3 layer of the shape that goes through Winograd's transforms is right to 1e-5."""
    kernel, given_, constants, exact = layer(
        (14, 14, 64, 96, (3, 3), PLAIN, 1, 2), precision="fp32", output="float32"
    )
    made = run(kernel, arm("neon"), given_, constants)[0]
    assert np.abs(made - exact).max() <= 1e-5 * np.abs(exact).max()


def close_to(made, wanted, products):
    """Within 1 % of the size of a sum of so many products of normal values.

    A partial sum takes up to 256 additions, each off by up to 2^-11 of it: by chance 0.2 % of its
    size together, and the worst of many outputs a few times that. The output is rounded to 2^-11.
    """
    size = max(math.sqrt(products), np.abs(wanted).max())
    return np.abs(made.astype(np.float64) - wanted).max() <= 1e-2 * size


@pytest.mark.parametrize("depthwise", [False, True])
@FEW
@given(data=st.data(), output=st.sampled_from(["float16", "float32"]))
def test_fp16_convolution(depthwise, data, output):
    """Sums of 16 bits stay within 1 %, with a residual and ReLU fused, on any geometry."""
    case = data.draw(convolutions(depthwise=depthwise))
    kernel, given_, constants, exact = layer(
        case, precision="fp16", output=output, epilogue=("add", "relu")
    )
    made = run(kernel, arm("sdot"), given_, constants)[0]
    products = math.prod(constants["weight"].shape[1:])
    assert close_to(made, np.maximum(exact + given_[1][0], 0), products)


@pytest.mark.parametrize("depth", [1, 255, 256, 257, 4000])
def test_fp16_error_does_not_grow_with_depth(depth):
    """Long sums are added up in float32: 4000 products are no less exact than 256."""
    rng = np.random.default_rng(depth)
    x = rng.standard_normal((3, depth)).astype(np.float16)
    weight = rng.standard_normal((20, depth)).astype(np.float16)
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape, "float16"),), output=tensor((3, 20)), precision="fp16"
    )
    constants = {"weight": weight, "bias": np.zeros(20, np.float32)}
    made = run(kernel, arm("sdot"), [x], constants)
    wanted = x.astype(np.float64) @ weight.T.astype(np.float64)
    assert close_to(made, wanted, depth)


def inner_loop(kernel, target):
    """The innermost loop with the most vector instructions."""
    code = schedule(kernel, target)
    module = tvm.IRModule({"main": code.function.with_attr("global_symbol", "main")})
    loops = innermost_loops(tvm.compile(module, target=tvm_target(target)))
    return max(loops, key=lambda loop: sum(" v" in text for text in loop))


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(
    ("name", "precision", "output", "multiply", "share"),
    [
        ("neon", "fp32", "float32", r"fmla v\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]", 0.75),
        ("neon", "int8", "uint8", r"(smull|sadalp) v\d+\.", 0.6),
        ("sdot", "int8", "uint8", r"sdot v\d+\.4s, v\d+\.16b, v\d+\.4b\[\d\]", 0.75),
        ("i8mm", "int8", "uint8", r"usmmla v\d+\.4s, v\d+\.16b, v\d+\.16b", 0.55),
        ("sdot", "fp16", "float16", r"fmla v\d+\.8h, v\d+\.8h, v\d+\.h\[\d\]", 0.8),
    ],
)
def test_inner_loops_are_multiply_adds(name, precision, output, multiply, share, size):
    """Multiply-adds are the intended instructions and most of the loop, which spills nothing."""
    geometry = {**PLAIN, "pads": (size // 2,) * 4}
    case = (14, 14, 64, 96, (size, size), geometry, 1, 0)
    kernel, *_ = layer(case, precision=precision, output=output)
    loop = inner_loop(kernel, arm(name))
    assert sum(bool(re.match(multiply, text)) for text in loop) >= share * len(loop)
    assert not [text for text in loop if "[sp" in text]


@pytest.mark.parametrize(("name", "dot"), [("sdot", "sdot v"), ("i8mm", "usdot v")])
def test_int8_depthwise_takes_four_taps_at_once(name, dot):
    """3x3 filters take three dot products an output: one per row."""
    kernel, *_ = layer((14, 14, 32, 32, (3, 3), PLAIN, 32, 0), precision="int8", output="uint8")
    loop = inner_loop(kernel, arm(name))
    outputs = sum(text.startswith("scvtf") for text in loop)
    assert sum(text.startswith(dot) for text in loop) == 3 * outputs > 0


def test_the_emulator_notices_a_read_past_the_end():
    """A kernel that reads one element too far fails its test; the next kernel runs."""
    source = tir.parameter("input", (16,), "float32")
    made = tir.parameter("output", (16,), "float32")

    x = np.arange(16, dtype=np.float32)

    def copied(first):
        body = tir.loop(16, lambda i: [tir.store(made, i, tir.load(source, i + first))], name="i")
        function = tir.function([source, made], body).with_attr("global_symbol", "main")
        executable = tvm.compile(tvm.IRModule({"main": function}), target=tvm_target(arm("neon")))
        return emulator().run(executable, [x, x])

    with pytest.raises(pytest.fail.Exception, match="ended the emulated process"):
        copied(1)
    np.testing.assert_array_equal(copied(0), x)


@pytest.mark.parametrize("name", ["rpi4", "rpi5", "graviton3"])
def test_networks_link_for_the_catalog(name, tmp_path):
    """A network compiles for every Arm target that ships, into a library for aarch64."""
    emulator()  # installs the cross compiler, or skips
    target = find_target(name, threads=2)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"], "r"),
    ]
    model = onnx_model(nodes, {"w": random(0, 8, 4, 3, 3)})
    export_library(compile_program(lowered(model, target), target), tmp_path / "l.so", target)
    header = (tmp_path / "l.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
