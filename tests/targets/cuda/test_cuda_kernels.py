"""Layers on CUDA compute what they should: the generated code, emulated on this processor."""

import numpy as np
import pytest
from emulated_gpu import EmulatedGpu, cuda, run
from kernels import tensor
from layers import IN_SCALE, OUT_SCALE, OUT_ZERO, layer, requantized

from millifit.targets.kernel import Kernel
from millifit.targets.schedules.gpu.cuda import product_plan
from millifit.targets.schedules.gpu.cuda.depthwise import columns_and_lanes
from millifit.targets.schedules.gpu.cuda.row_product import is_row
from millifit.targets.schedules.rules import schedule

PRECISIONS = {"fp32": ("float32", 1e-4), "fp16": ("float16", 2e-2), "int8": ("uint8", 0.0)}


def geometry(stride=1, dilation=1, pads=(1, 1, 1, 1)):
    return {"strides": (stride, stride), "dilations": (dilation, dilation), "pads": pads}


# Height, width, inputs, outputs, kernel, geometry, groups, seed
CASES = {
    "plain": (14, 14, 64, 96, (3, 3), geometry(), 1, 0),
    "deep": (7, 7, 512, 96, (3, 3), geometry(), 1, 1),
    "first": (15, 17, 3, 20, (3, 3), geometry(stride=2), 1, 2),
    "grouped": (9, 9, 6, 10, (3, 3), geometry(), 2, 3),
    "groups_of_16": (8, 8, 32, 48, (3, 3), geometry(), 2, 4),
    "dilated": (11, 13, 16, 17, (3, 2), geometry(dilation=2, pads=(2, 0, 1, 3)), 1, 5),
    "pointwise": (10, 10, 40, 24, (1, 1), geometry(stride=2, pads=(0, 0, 0, 0)), 1, 6),
    "row": (1, 1, 100, 33, (1, 1), geometry(pads=(0, 0, 0, 0)), 1, 7),
    "depthwise": (9, 12, 24, 24, (3, 3), geometry(), 24, 8),
    "strided_depthwise": (13, 9, 16, 16, (5, 5), geometry(stride=2, pads=(2, 2, 1, 1)), 16, 9),
    "odd_depthwise": (7, 7, 7, 7, (3, 3), geometry(dilation=2, pads=(2, 2, 2, 2)), 7, 10),
}  # fmt: skip


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_of_all_shapes_are_exact_within_their_precision(precision, arch):
    """Tensor cores, dp4a, split depth, groups, padding, ragged tiles: as NumPy computes them."""
    target, (output, tolerance) = cuda(arch), PRECISIONS[precision]
    epilogue = () if precision == "int8" else ("clip",)
    options = {"precision": precision, "output": output, "epilogue": epilogue}
    made = {name: layer(case, **options) for name, case in CASES.items()}
    codes = {name: schedule(kernel, target) for name, (kernel, *_) in made.items()}
    gpu = EmulatedGpu(codes, target)
    for name, (kernel, given, constants, exact) in made.items():
        got = gpu.run(name, (*given, *codes[name].pack(constants)), kernel.output)[0]
        if precision == "int8":
            scale = np.float32(IN_SCALE) * constants["weight_scale"] / np.float32(OUT_SCALE)
            np.testing.assert_array_equal(got, requantized(exact, scale, OUT_ZERO), err_msg=name)
        else:
            wanted = np.clip(exact, 0, 6)
            np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("features", [("fp16", "dp4a"), ()])
def test_without_tensor_cores_sums_are_the_same(features):
    """A GPU without them computes the same with dp4a, and halves as float32."""
    target = cuda("sm_75", features=features)
    for precision in ("int8", "fp16"):
        output, tolerance = PRECISIONS[precision]
        kernel, given, constants, exact = layer(CASES["plain"], precision=precision, output=output)
        assert product_plan.plan(kernel, target.gpu).arithmetic == "Grid"
        got = run(kernel, target, given, constants)[0]
        wanted = exact
        if precision == "int8":
            scale = np.float32(IN_SCALE) * constants["weight_scale"] / np.float32(OUT_SCALE)
            wanted = requantized(exact, scale, OUT_ZERO)
        np.testing.assert_allclose(got, wanted, atol=10 * tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("precision", "output"), [("fp32", "float32"), ("fp16", "float16"), ("int8", "float32")]
)
def test_residuals_are_added(precision, output):
    """What a kernel adds, in the type it lies in memory in, to sums in one or two launches."""
    target = cuda("sm_80")
    for case in ("plain", "deep"):
        kernel, given, constants, exact = layer(
            CASES[case], precision=precision, output=output, epilogue=("add", "relu")
        )
        real = exact
        if precision == "int8":
            real = exact * (np.float32(IN_SCALE) * constants["weight_scale"])
        wanted = np.maximum(real + given[1][0].astype(np.float64), 0)
        got = run(kernel, target, given, constants)[0].astype(np.float64)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got / scale, wanted / scale, atol=2e-3)


def test_batches_are_rows_of_one_product():
    """Three images at a time give what each of them gives alone."""
    target = cuda("sm_80")
    for case in ("plain", "strided_depthwise"):
        kernel, (x,), constants, _ = layer(CASES[case], precision="fp16", output="float16")
        images = np.concatenate([x, x[:, ::-1], x * 2])
        batched = Kernel(
            op=kernel.op, inputs=(tensor(images.shape, "float16"),),
            output=tensor((3, *kernel.output.shape[1:]), "float16"), precision="fp16",
            attributes=kernel.attributes,
        )  # fmt: skip
        got = run(batched, target, (images,), constants)
        for image, one in zip(images, got, strict=True):
            alone = run(kernel, target, (image[None],), constants)[0]
            np.testing.assert_allclose(one, alone, atol=2e-2, rtol=1e-2)


def test_small_maps_with_many_inputs_are_split():
    """A layer of 49 positions keeps all multiprocessors busy by parts of its depth."""
    kernel, *_ = layer(
        (7, 7, 512, 512, (3, 3), geometry(), 1, 0), precision="fp16", output="float16"
    )
    plan = product_plan.plan(kernel, cuda("sm_90").gpu)
    assert plan.splits > 1
    blocks = plan.blocks[0] * plan.blocks[1] * plan.splits
    assert blocks >= 64
    assert plan.splits * plan.stages_of_split >= plan.stages


def test_large_products_have_large_tiles_that_fit():
    """Many positions by many channels: the tile that reads least, where shared memory holds it."""
    shape = (8, 112, 112, 256)
    kernel = Kernel(
        op="conv2d", inputs=(tensor(shape, "float16"),), output=tensor(shape, "float16"),
        precision="fp16",
        attributes=(("dilations", (1, 1)), ("groups", 1), ("kernel", (3, 3)),
                    ("pads", (1, 1, 1, 1)), ("strides", (1, 1))),
    )  # fmt: skip
    wide = product_plan.plan(kernel, cuda("sm_90").gpu)
    assert (wide.tile.rows, wide.tile.columns, wide.splits) == (128, 128, 1)
    small = product_plan.plan(kernel, cuda("sm_75").gpu)
    assert small.tile.shared_bytes <= 49_152


def test_a_row_is_a_single_position():
    """Dense layers of one sample and pointwise convolutions of a 1 x 1 map, nothing else."""
    dense = Kernel(op="dense", inputs=(tensor((1, 64)),), output=tensor((1, 10)), precision="fp32")
    assert is_row(dense)
    assert is_row(layer(CASES["row"], precision="fp32", output="float32")[0])
    assert not is_row(layer(CASES["pointwise"], precision="fp32", output="float32")[0])


def test_threads_of_small_maps_have_fewer_channels():
    """Where there are few outputs, a thread has fewer, so that there are more threads."""
    small, *_ = layer(CASES["depthwise"], precision="fp16", output="float16")
    assert columns_and_lanes(small, cuda("sm_90").gpu) == (1, 2)
    case = (112, 112, 96, 96, (3, 3), geometry(), 96, 0)
    large, *_ = layer(case, precision="fp16", output="float16")
    columns, lanes = columns_and_lanes(large, cuda("sm_90").gpu)
    assert (columns, lanes) == (2, 8)
