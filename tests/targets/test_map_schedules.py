"""Operators on feature maps that compute little: movement, resizing, pooling, reductions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, TARGETS, run, tensor
from map_references import REDUCE, pooled, to_space

from millifit.targets.kernel import Kernel

TARGET = pytest.mark.parametrize("target", EVERYWHERE, ids=lambda t: t.name)
SLOW = settings(
    max_examples=10, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
DTYPES = st.sampled_from(["float32", "uint8"])
IN, OUT = (np.float32(0.02), 7), (np.float32(0.03), 100)


def values(seed, shape, dtype="float32"):
    """Random values: standard normal, or all bytes."""
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    return rng.standard_normal(shape).astype(np.float32)


def kernel_of(op, inputs, output, precision="fp32", **attributes):
    """A kernel from arrays and the type that comes out."""
    return Kernel(
        op=op, inputs=tuple(tensor(x.shape, str(x.dtype)) for x in inputs),
        output=output, precision=precision, attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip


def exactly(target, op, inputs, wanted, constants=None, **attributes):
    """The kernel writes exactly these values."""
    kernel = kernel_of(op, inputs, tensor(wanted.shape, str(wanted.dtype)), **attributes)
    np.testing.assert_array_equal(run(kernel, target, inputs, constants or {}), wanted)


def closely(target, op, inputs, wanted, constants=None, **attributes):
    """The kernel is right to a relative error of 1e-5."""
    kernel = kernel_of(op, inputs, tensor(wanted.shape), **attributes)
    off = np.abs(run(kernel, target, inputs, constants or {}) - wanted).max()
    assert off <= 1e-5 * max(1e-3, np.abs(wanted).max())


@TARGET
@SLOW
@given(channels=st.integers(1, 40), size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
       dtype=DTYPES, quantized=st.booleans())  # fmt: skip
def test_layouts(target, channels, size, dtype, quantized):
    """A map of any size is transposed both ways, and quantized on the way as ONNX says."""
    x = values(channels, (1, channels, *size), dtype)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    exactly(target, "to_channels_first", [last], x)
    if quantized and dtype == "float32":
        last = np.clip(np.rint(last / OUT[0]) + OUT[1], 0, 255).astype(np.uint8)
    constants = {"output_scale": OUT[0], "output_zero_point": np.float32(OUT[1])}
    exactly(target, "to_channels_last", [x], last, constants)


@TARGET
@SLOW
@given(parts=st.lists(st.integers(1, 37), min_size=1, max_size=5), axis=st.integers(0, 3),
       dtype=DTYPES)  # fmt: skip
def test_concat(target, parts, axis, dtype):
    """Parts of any number and size are joined along any axis."""
    shape = [1, 3, 2, 5]
    made = [values(i, (*shape[:axis], part, *shape[axis + 1 :]), dtype)
            for i, part in enumerate(parts)]  # fmt: skip
    exactly(target, "concat", made, np.concatenate(made, axis=axis), axis=axis)


@TARGET
@pytest.mark.parametrize("channels", [3, 70])
def test_concat_of_scales_is_bit_exact(target, channels):
    """A part at another scale than the output's is requantized, one at the same scale copied."""
    parts = [values(i, (1, 3, 5, channels + i), "uint8") for i in range(2)]
    meant = (parts[1].astype(np.float32) - IN[1]) * IN[0]
    other = np.clip(np.rint(meant / OUT[0]) + OUT[1], 0, 255).astype(np.uint8)
    constants = {
        name: np.float32(value)
        for i, pair in enumerate((OUT, IN))
        for name, value in zip((f"input{i}_scale", f"input{i}_zero_point"), pair, strict=True)
    } | {"output_scale": OUT[0], "output_zero_point": np.float32(OUT[1])}
    wanted = np.concatenate([parts[0], other], axis=3)
    exactly(target, "concat", parts, wanted, constants, axis=3, requantized=(1,))


@TARGET
@SLOW
@given(mode=st.sampled_from(["constant", "reflect", "edge", "wrap"]), dtype=DTYPES,
       amounts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=4, max_size=4),
       channels=st.integers(3, 37))  # fmt: skip
def test_pad(target, mode, dtype, amounts, channels):
    """Every axis is padded on both sides, in every mode."""
    amounts = [(0, 0), *amounts[1:]]
    x = values(2, (1, 3, 4, channels), dtype)
    if mode == "constant":
        wanted = np.pad(x, amounts, mode, constant_values=9)
    else:
        wanted = np.pad(x, amounts, mode)
    exactly(target, "pad", [x], wanted, {"value": np.array(9, dtype)}, mode=mode,
            before=tuple(before for before, _ in amounts))  # fmt: skip


@TARGET
@SLOW
@given(block=st.tuples(st.integers(1, 4), st.integers(1, 4)), channels=st.integers(1, 20),
       size=st.tuples(st.integers(1, 4), st.integers(1, 19)), mode=st.sampled_from(["DCR", "CRD"]),
       crop=st.tuples(st.integers(0, 3), st.integers(0, 3)), dtype=DTYPES)  # fmt: skip
def test_depth_to_space(target, block, channels, size, mode, crop, dtype):
    """Pixel shuffle in both orders, cropped on all sides; space to depth is the inverse."""
    x = values(3, (1, *size, block[0] * block[1] * channels), dtype)
    full = to_space(x, block, mode == "CRD")
    exactly(target, "depth_to_space", [x], full, block=block, mode=mode)
    cut = np.ascontiguousarray(full[:, crop[0] : full.shape[1] - 1, crop[1] : full.shape[2] - 1])
    if cut.size:
        exactly(target, "depth_to_space", [x], cut, block=block, mode=mode, crop=crop)
    if mode == "DCR":
        exactly(target, "space_to_depth", [full], x, block=block)


@TARGET
@SLOW
@given(groups=st.integers(1, 10), size=st.integers(1, 40), dtype=DTYPES)
def test_channel_shuffle(target, groups, size, dtype):
    """One channel of every group in turn."""
    x = values(4, (1, 2, 3, groups * size), dtype)
    wanted = x.reshape(1, 2, 3, groups, size).swapaxes(3, 4).reshape(x.shape)
    exactly(target, "channel_shuffle", [x], np.ascontiguousarray(wanted), groups=groups)


def tables(rng, extents, sizes, taps):
    """Random rows and columns to be mixed, and their weights."""
    constants = {}
    for axis, extent, size, count in zip(("row", "column"), extents, sizes, taps, strict=True):
        constants[f"{axis}_index"] = rng.integers(0, extent, (size, count)).astype(np.int32)
        weight = rng.random((size, count)) if count > 1 else np.ones((size, 1))
        constants[f"{axis}_weight"] = weight.astype(np.float32)
    return constants


@TARGET
@SLOW
@given(taps=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
       channels=st.integers(1, 36), size=st.tuples(st.integers(1, 5), st.integers(1, 9)),
       made=st.tuples(st.integers(1, 7), st.integers(1, 9)), dtype=DTYPES)  # fmt: skip
def test_resize(target, taps, channels, size, made, dtype):
    """Any mixture of rows and columns; copies are exact, bytes rounded once."""
    x = values(5, (1, *size, channels), dtype)
    given_ = tables(np.random.default_rng(6), size, made, taps)
    real = x.astype(np.float64)
    if dtype == "uint8" and taps != (1, 1):
        real = (real - IN[1]) * np.float64(IN[0])
    rows = np.einsum("yt,nytwc->nywc", given_["row_weight"], real[:, given_["row_index"]])
    columns = rows[:, :, given_["column_index"]]
    wanted = np.einsum("xt,nyxtc->nyxc", given_["column_weight"], columns)
    if taps == (1, 1):
        exactly(target, "resize", [x], wanted.astype(dtype), given_, taps=taps)
        return
    if dtype == "float32":
        closely(target, "resize", [x], wanted, given_, taps=taps)
        return
    given_ |= {
        "input_scale": IN[0], "input_zero_point": np.float32(IN[1]),
        "output_scale": OUT[0], "output_zero_point": np.float32(OUT[1]),
    }  # fmt: skip
    kernel = kernel_of("resize", [x], tensor(wanted.shape, "uint8"), taps=taps)
    steps = np.clip(np.rint(wanted / OUT[0]) + OUT[1], 0, 255)
    assert np.abs(run(kernel, target, [x], given_) - steps).max() <= 1


@st.composite
def windows(draw):
    """Pooling windows of odd sizes, strides and dilations; the last may lie beyond the pads."""
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = tuple(draw(st.integers(0, (k - 1) // 2)) for k in size * 2)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    extents = [draw(st.integers(max(1, r), r + 13)) for r in reach]
    ceil = draw(st.booleans())
    out = []
    for i in range(2):
        room = extents[i] + pads[i] + pads[i + 2] - reach[i]
        steps = -(-room // strides[i]) if ceil else room // strides[i]
        while steps * strides[i] >= extents[i] + pads[i]:
            steps -= 1  # a window must start in the map or the padding before it
        out.append(steps + 1)
    return extents, draw(st.integers(1, 70)), out, size, strides, dilations, pads


@TARGET
@SLOW
@given(case=windows(), dtype=DTYPES, include=st.integers(0, 1))
def test_pooling(target, case, dtype, include):
    """Windows of every kind: maxima are exact, averages count what they should."""
    extents, channels, out, *window = case
    x = values(7, (1, *extents, channels), dtype)
    names = dict(zip(("kernel", "strides", "dilations", "pads"), window, strict=True))
    largest = pooled(x, out, *window, lambda found, _: found.max(axis=0)).astype(dtype)
    exactly(target, "max_pool", [x], largest, **names)
    real = x.astype(np.float64)
    if dtype == "uint8":
        real = (real - IN[1]) * np.float64(IN[0])
    wanted = pooled(
        real, out, *window,
        lambda found, counted: found.sum(axis=0) / (counted if include else len(found)),
    )  # fmt: skip
    names["count_include_pad"] = include
    constants = {"input_scale": IN[0], "input_zero_point": np.float32(IN[1])}
    kernel = kernel_of("avg_pool", [x], tensor(wanted.shape), **names)
    made = run(kernel, target, [x], constants)
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


@TARGET
@SLOW
@given(op=st.sampled_from(sorted(REDUCE)),
       shape=st.tuples(*[st.integers(1, n) for n in (2, 5, 6, 150)]),
       axes=st.sets(st.integers(0, 3), min_size=1))  # fmt: skip
def test_reductions(target, op, shape, axes):
    """Every reduction over every choice of axes."""
    x = values(8, shape)
    if op == "prod":
        x = 1 + 0.01 * x  # a product that neither vanishes nor grows without end
    axes = tuple(sorted(axes))
    wanted = REDUCE[op](x.astype(np.float64), axis=axes, keepdims=True)
    kernel = kernel_of(f"reduce_{op}", [x], tensor(wanted.shape), axes=axes)
    size = REDUCE["l1"](x.astype(np.float64), axis=axes, keepdims=True) if op == "sum" else wanted
    off = np.abs(run(kernel, target, [x], {}) - wanted)
    assert (off <= 1e-5 * np.maximum(np.abs(size), 1e-2)).all()


@TARGET
@pytest.mark.parametrize("shape", [(1, 5, 7, 70), (1, 3, 4, 1), (1, 1, 1, 19), (1, 9, 1, 200)])
def test_whole_maps_of_bytes(target, shape):
    """Means of bytes are rounded once; their maxima are exact."""
    x = values(9, shape, "uint8")
    exactly(target, "global_max_pool", [x], x.max((1, 2), keepdims=True))
    constants = {
        "input_scale": IN[0], "input_zero_point": np.float32(IN[1]),
        "output_scale": OUT[0], "output_zero_point": np.float32(OUT[1]),
    }  # fmt: skip
    mean = (x.astype(np.float64) - IN[1]).mean((1, 2), keepdims=True) * np.float64(IN[0])
    kernel = kernel_of("global_avg_pool", [x], tensor(mean.shape, "uint8"), precision="int8")
    steps = np.clip(np.rint(mean / OUT[0]) + OUT[1], 0, 255)
    assert np.abs(run(kernel, target, [x], constants) - steps).max() <= 1


@TARGET
@pytest.mark.parametrize("axis", [1, 3])
@pytest.mark.parametrize("last", [0, 1])
def test_arguments(target, axis, last):
    """The first or last place of the largest and the smallest value, ties included."""
    x = np.round(values(10, (1, 6, 4, 21)))
    turned = np.flip(x, axis) if last else x
    for op, find in (("arg_max", np.argmax), ("arg_min", np.argmin)):
        wanted = find(turned, axis=axis, keepdims=True)
        wanted = x.shape[axis] - 1 - wanted if last else wanted
        exactly(target, op, [x], wanted.astype(np.int64), axis=axis, last=last)


def test_two_threads_give_the_same():
    """Maps large enough for two threads are as right as on one."""
    x = values(11, (1, 64, 64, 64))
    cases = [
        ("max_pool", (1, 32, 32, 64), {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ("global_avg_pool", (1, 1, 1, 64), {}),
        ("reduce_mean", (1, 64, 64, 1), {"axes": (3,)}),
        ("to_channels_first", (1, 64, 64, 64), {}),
        ("depth_to_space", (1, 128, 128, 16), {"block": (2, 2), "mode": "CRD"}),
        ("pad", (1, 66, 65, 64), {"before": (0, 1, 0, 0), "mode": "edge"}),
    ]
    for op, shape, attributes in cases:
        kernel = kernel_of(op, [x], tensor(shape), **attributes)
        one, two = (run(kernel, TARGETS[0].with_threads(n), [x], {}) for n in (1, 2))
        np.testing.assert_array_equal(one, two)
