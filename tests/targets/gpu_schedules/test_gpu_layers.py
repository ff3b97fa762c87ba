"""Layers on an OpenCL device, in every precision: against float64 and integers."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_kernels import Case, check_all, kernel_of
from layers import IN_SCALE, IN_ZERO, OUT_SCALE, OUT_ZERO, layer, requantized

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.choice import choice_of
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Target


def geometry(strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0)):
    return {"strides": strides, "dilations": dilations, "pads": pads}


# Height, width, inputs, outputs, window, geometry, groups, seed.
CONVOLUTIONS = [
    (9, 11, 3, 16, (3, 3), geometry((2, 2), pads=(1, 1, 1, 1)), 1, 0),
    (7, 5, 8, 12, (3, 3), geometry(pads=(1, 0, 2, 1)), 1, 1),
    (8, 13, 12, 7, (5, 2), geometry((1, 3), (1, 2), (2, 1, 0, 2)), 1, 2),
    (6, 5, 10, 21, (1, 1), geometry(), 1, 3),
    (5, 4, 64, 24, (1, 1), geometry(), 1, 4),
    (7, 9, 16, 16, (1, 1), geometry((2, 2)), 1, 5),
    (6, 7, 12, 24, (3, 3), geometry(pads=(1, 1, 1, 1)), 3, 6),
    (6, 5, 6, 9, (2, 3), geometry(), 3, 7),
    (1, 1, 5, 3, (1, 1), geometry(), 1, 8),
    (16, 32, 8, 32, (1, 1), geometry(), 1, 9),
    (3, 3, 96, 8, (3, 3), geometry(pads=(1, 1, 1, 1)), 1, 10),
]
DEPTHWISE = [
    (9, 11, 16, 16, (3, 3), geometry(pads=(1, 1, 1, 1)), 16, 0),
    (9, 10, 12, 12, (3, 3), geometry((2, 2), pads=(0, 0, 1, 1)), 12, 1),
    (7, 6, 21, 21, (5, 3), geometry((1, 2), (1, 2), (2, 2, 2, 2)), 21, 2),
    (4, 3, 8, 8, (2, 2), geometry(dilations=(2, 1)), 8, 3),
    (33, 40, 8, 8, (3, 3), geometry(pads=(1, 1, 1, 1)), 8, 4),
]
EPILOGUES = [(), ("add", "relu"), ("clip",), ("relu", "add"), ("hard_swish",), ("silu", "add")]


def finished(sums, epilogue, activations):
    """What an epilogue makes of the sums, in float64."""
    value = sums
    for step in epilogue:
        match step:
            case "add":
                value = value + activations[1][0].astype(np.float64)
            case "relu":
                value = np.maximum(value, 0)
            case "clip":
                value = np.clip(value, 0, 6)
            case "hard_swish":
                value = value * np.clip(value / 6 + 0.5, 0, 1)
            case "silu":
                value = value / (1 + np.exp(-value))
    return value


def float_case(case, number, *, precision, tolerance, choice=()):
    """A layer with one of the epilogues."""
    epilogue = EPILOGUES[number % len(EPILOGUES)]
    dtype = "float16" if precision == "fp16" else "float32"
    kernel, activations, constants, sums = layer(
        case, precision=precision, output=dtype, epilogue=epilogue
    )
    constants |= {"alpha": np.float32(1 / 6), "beta": np.float32(0.5)}
    wanted = finished(sums, epilogue, activations)[None]
    return Case(
        kernel=kernel.with_choice(choice), activations=activations, constants=constants,
        wanted=wanted, error=tolerance * max(1.0, np.abs(sums).max()),
    )  # fmt: skip


@pytest.mark.parametrize("cases", [CONVOLUTIONS, DEPTHWISE], ids=["conv2d", "depthwise"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3)])
def test_layers_of_floats(opencl: Target, cases, precision, tolerance):
    """Any geometry, ragged channels, groups and epilogues, far within 1e-4 and 2e-2."""
    made = [
        float_case(case, number, precision=precision, tolerance=tolerance)
        for number, case in enumerate(cases)
    ]
    check_all(made, opencl)


def test_every_tile_computes_the_same(opencl: Target):
    """Whatever tuning chooses of tiles and slices, the layer is right."""
    wide = (6, 9, 16, 32, (3, 3), geometry(pads=(1, 1, 1, 1)), 1, 0)
    narrow = (5, 9, 12, 12, (3, 3), geometry(pads=(1, 1, 1, 1)), 12, 1)
    tiles = [(1, 1, 4), (2, 4, 1), (4, 2, 16)]
    cases = [
        float_case(
            wide, number, precision="fp32", tolerance=1e-5,
            choice=choice_of(positions=p, vectors=v, slices=s),
        )
        for number, (p, v, s) in enumerate(tiles)
    ]  # fmt: skip
    cases += [
        float_case(narrow, n, precision="fp32", tolerance=1e-5, choice=choice_of(columns=n))
        for n in (2, 8)
    ]
    check_all(cases, opencl)


def test_impossible_tiles_are_refused(opencl: Target):
    """A choice that the rule cannot carry out is an error that names it."""
    kernel, *_ = layer(CONVOLUTIONS[3], precision="fp32", output="float32")
    with pytest.raises(CompileError, match="vectors=4 is not possible"):
        schedule(kernel.with_choice(choice_of(vectors=4)), opencl)
    with pytest.raises(CompileError, match="nothing called 'rows'"):
        schedule(kernel.with_choice(choice_of(rows=4)), opencl)


def test_layers_of_integers(opencl: Target):
    """Integer layers give every bit of the reference, padding included."""
    cases = []
    for case in (*CONVOLUTIONS[:4], CONVOLUTIONS[6], *DEPTHWISE[:3]):
        kernel, activations, constants, sums = layer(case, precision="int8", output="uint8")
        scale = IN_SCALE * constants["weight_scale"] / OUT_SCALE
        wanted = requantized(sums, scale, OUT_ZERO)[None]
        cases.append(
            Case(kernel=kernel, activations=activations, constants=constants, wanted=wanted)
        )
    kernel, activations, constants, sums = layer(
        CONVOLUTIONS[1], precision="int8", output="float32", epilogue=("add", "relu")
    )
    wanted = finished(sums * (IN_SCALE * constants["weight_scale"]), ("add", "relu"), activations)
    cases.append(
        Case(
            kernel=kernel, activations=activations, constants=constants, wanted=wanted[None],
            error=1e-4,
        )
    )  # fmt: skip
    check_all(cases, opencl)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_dense(opencl: Target, precision):
    """Dense layers of any size, whose sums are split between threads where outputs are few."""
    cases = []
    for rows, depth, channels in [(1, 1, 1), (1, 1280, 10), (5, 33, 47), (2, 256, 64)]:
        rng = np.random.default_rng(depth)
        bias = rng.standard_normal(channels).astype(np.float32)
        constants = {"bias": bias, "input_zero_point": np.float32(IN_ZERO)}
        if precision == "int8":
            x = rng.integers(0, 256, (rows, depth)).astype(np.uint8)
            weight = rng.integers(-127, 128, (channels, depth)).astype(np.int8)
            scale = np.full(channels, 1e-3, np.float32)
            constants |= {
                "weight_scale": scale, "input_scale": np.asarray(IN_SCALE),
                "bias": np.zeros(channels, np.int32),
            }  # fmt: skip
            wanted = (x.astype(np.int64) - IN_ZERO) @ weight.T.astype(np.int64) * (IN_SCALE * scale)
            made, error = wanted.astype(np.float32), 1e-6 * np.abs(wanted).max()
        else:
            dtype = "float16" if precision == "fp16" else "float32"
            x, weight = (
                rng.standard_normal(s).astype(dtype) for s in ((rows, depth), (channels, depth))
            )
            wanted = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
            made = wanted.astype(dtype)
            error = (1e-5 if precision == "fp32" else 1e-3) * max(1.0, np.abs(wanted).max())
        kernel = kernel_of("dense", [x], made, precision=precision)
        cases.append(
            Case(
                kernel=kernel, activations=[x], constants=constants | {"weight": weight},
                wanted=wanted, error=error,
            )
        )  # fmt: skip
    check_all(cases, opencl)


def test_layer_that_quantizes(opencl: Target):
    """An fp32 layer that feeds an int8 one writes bytes within the limits of its activation."""
    kernel, activations, constants, sums = layer(CONVOLUTIONS[3], precision="fp32", output="uint8")
    constants |= {"act_low": np.float32(0), "act_high": np.float32(3)}
    wanted = np.clip(np.rint(np.clip(sums, 0, 3) / OUT_SCALE) + OUT_ZERO, 0, 255)[None]
    case = Case(
        kernel=kernel, activations=activations, constants=constants, wanted=wanted, step=True
    )
    check_all([case], opencl)


def test_unknown_operator_is_refused(opencl: Target):
    """An operator without a rule is an error that says where."""
    x = np.zeros((1, 4), np.float32)
    kernel: Kernel = kernel_of("unheard_of", [x], x)
    with pytest.raises(CompileError, match="'unheard_of' on a GPU"):
        schedule(kernel, opencl)
