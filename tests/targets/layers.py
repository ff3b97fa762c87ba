"""Convolutions of any geometry, their random operands, and what they must give."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from kernels import convolve, run, tensor

from millifit.targets.kernel import Kernel

IN_SCALE, OUT_SCALE, OUT_ZERO = np.float32(0.02), np.float32(0.5), 100
INNER_SCALE, INNER_ZERO = np.float32(0.4), 120
RESIDUAL_SCALE, RESIDUAL_ZERO = np.float32(0.3), 90
IN_ZERO = 7


@st.composite
def convolutions(draw, *, depthwise: bool):
    """Geometries with odd sizes, single channels, ragged tiles, strides, dilations and padding."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height = draw(st.integers(max(1, reach[0] - pads[0] - pads[2]), 17))
    width = draw(st.integers(max(1, reach[1] - pads[1] - pads[3]), 35))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = draw(st.integers(1, 20 if not depthwise else 40)) * (1 if depthwise else groups)
    outputs = channels if depthwise else draw(st.integers(1, 40)) * groups
    geometry = {"strides": strides, "dilations": dilations, "pads": pads}
    seed = draw(st.integers(0, 2**16))
    return (height, width, channels, outputs, kernel, geometry, channels if depthwise else groups,
            seed)  # fmt: skip


def layer(case, *, precision: str, output: str, epilogue=()):
    """A convolution kernel of a case and its random operands."""
    height, width, channels, outputs, size, geometry, groups, seed = case
    rng = np.random.default_rng(seed)
    depthwise = groups == channels == outputs and groups > 1
    integer = precision in ("int8", "w7a8")
    if integer:
        x = rng.integers(0, 256, (1, height, width, channels)).astype(np.uint8)
        most = 64 if precision == "w7a8" else 127
        weight = rng.integers(-most, most + 1, (outputs, channels // groups, *size)).astype(np.int8)
        bias = rng.integers(-1000, 1000, outputs).astype(np.int32)
        exact = convolve(
            x[0].astype(np.int64) - IN_ZERO, weight.astype(np.int64), groups=groups, **geometry
        )
        exact += bias
    else:
        kind = "float16" if precision == "fp16" else "float32"
        x = rng.standard_normal((1, height, width, channels)).astype(kind)
        weight = rng.standard_normal((outputs, channels // groups, *size)).astype(kind)
        bias = rng.standard_normal(outputs).astype(np.float32)
        exact = convolve(
            x[0].astype(np.float64), weight.astype(np.float64), groups=groups, **geometry
        )
        exact += bias
    attributes = {**geometry, "kernel": size}
    if not depthwise:
        attributes["groups"] = groups
    shape = (1, *exact.shape)
    inputs = [tensor(x.shape, str(x.dtype))]
    activations = [x]
    if "add" in epilogue:
        kind = output if integer else str(x.dtype)
        residual = (
            rng.integers(0, 256, shape).astype(np.uint8)
            if kind == "uint8"
            else rng.standard_normal(shape).astype(kind)
        )
        inputs.append(tensor(shape, kind))
        activations.append(residual)
    kernel = Kernel(
        op="depthwise_conv2d" if depthwise else "conv2d", inputs=tuple(inputs),
        output=tensor(shape, output), precision=precision,
        attributes=tuple(sorted(attributes.items())), epilogue=tuple(epilogue),
    )  # fmt: skip
    weight_scale = (rng.random(outputs) * 1e-3 + 1e-4).astype(np.float32)
    constants = {
        "weight": weight, "bias": bias, "weight_scale": weight_scale,
        "input_scale": np.asarray(IN_SCALE), "input_zero_point": np.float32(IN_ZERO),
        "output_scale": np.asarray(OUT_SCALE), "output_zero_point": np.float32(OUT_ZERO),
        "clip_low": np.float32(0), "clip_high": np.float32(6),
    }  # fmt: skip
    if "add" in epilogue and output == "uint8":
        constants |= {
            "inner_scale": np.asarray(INNER_SCALE), "inner_zero_point": np.float32(INNER_ZERO),
            "residual_scale": np.asarray(RESIDUAL_SCALE),
            "residual_zero_point": np.float32(RESIDUAL_ZERO),
        }  # fmt: skip
    return kernel, activations, constants, exact


def requantized(exact, scale, zero_point):
    """An int8 layer's sums as its uint8 output."""
    return np.clip(np.rint(exact.astype(np.float32) * scale) + zero_point, 0, 255)


def assert_residual_is_added(target, case):
    """An int8 convolution with a fused addition rounds twice, but for ties of the second."""
    kernel, given, constants, exact = layer(
        case, precision="int8", output="uint8", epilogue=("add",)
    )
    scale = IN_SCALE * constants["weight_scale"] / INNER_SCALE
    inner = requantized(exact, scale, INNER_ZERO).astype(np.float64) - INNER_ZERO
    residual = given[1][0].astype(np.float64) - RESIDUAL_ZERO
    total = (inner * INNER_SCALE + residual * RESIDUAL_SCALE) / OUT_SCALE
    wanted = np.clip(np.rint(total) + OUT_ZERO, 0, 255)
    made = run(kernel, target, given, constants)[0]
    ties = np.abs(np.abs(total - np.floor(total)) - 0.5) < 1e-4
    np.testing.assert_array_equal(made[~ties], wanted[~ties])
    assert np.abs(made - wanted).max() <= 1
