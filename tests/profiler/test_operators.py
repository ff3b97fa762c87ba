"""Operators of tables become kernels: shapes, padding, epilogues, and errors with their row."""

import pytest

from millifit.profiler.packs.operators import (
    Operator,
    kernels_of,
    operator_name,
    precision_name,
)


def convolution(**changes: object) -> Operator:
    """A 3x3 convolution of 56 x 56 x 64 to 128 channels, fp32."""
    plain = Operator(
        op="conv2d", in_h=56, in_w=56, in_ch=64, out_ch=128, precision="fp32", kernel_h=3,
        kernel_w=3,
    )  # fmt: skip
    return plain._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "output", "pads"),
    [
        ({}, (56, 56), (1, 1, 1, 1)),
        ({"stride_h": 2, "stride_w": 2}, (28, 28), (0, 0, 1, 1)),
        ({"in_h": 58, "in_w": 58, "out_h": 56, "out_w": 56}, (56, 56), (0, 0, 0, 0)),
        ({"padding": 0}, (54, 54), (0, 0, 0, 0)),
        ({"padding": 2, "dilation": 2}, (56, 56), (2, 2, 2, 2)),
        ({"kernel_h": 1, "stride_w": 2}, (56, 28), (0, 0, 0, 1)),
    ],
)
def test_output_and_padding(
    changes: dict[str, int], output: tuple[int, int], pads: tuple[int, ...]
) -> None:
    """What is not stated follows from the padding, and the padding from what is stated."""
    kernel = convolution(**changes).kernel
    assert kernel.output.shape == (1, *output, 128)
    assert kernel.attribute("pads") == pads


def test_a_convolution_is_as_lowering_leaves_it() -> None:
    """Attributes are sorted, groups stand in full convolutions only, and types follow precision."""
    kernel = convolution(precision="int8", groups=4, epilogue="relu+add").kernel
    assert [name for name, _ in kernel.attributes] == sorted(dict(kernel.attributes))
    assert kernel.attribute("groups") == 4
    assert kernel.epilogue == ("relu", "add")
    assert [t.shape for t in kernel.inputs] == [(1, 56, 56, 64), (1, 56, 56, 128)]
    assert {t.dtype for t in (*kernel.inputs, kernel.output)} == {"uint8"}


def test_as_many_groups_as_channels_are_depthwise() -> None:
    """A table may call that a convolution."""
    kernel = convolution(groups=64, out_ch=64).kernel
    assert kernel.op == "depthwise_conv2d"
    assert "groups" not in dict(kernel.attributes)


def test_the_addition_of_a_normalization_reads_no_map() -> None:
    """Of add+mul+add the first addition has an operand, the one behind the product has not."""
    assert len(convolution(epilogue="add+mul+add+relu").kernel.inputs) == 2


def test_other_operators() -> None:
    """Dense layers are flat, global pools leave one position, the parts of a concat add up."""
    dense = convolution(op="dense", in_h=2, in_w=2, kernel_h=1, kernel_w=1).kernel
    assert (dense.inputs[0].shape, dense.output.shape) == ((1, 256), (1, 128))
    mean = convolution(op="global_avg_pool", out_ch=64).kernel
    assert mean.output.shape == (1, 1, 1, 64)
    joined = convolution(op="concat", n_inputs=3, out_ch=101).kernel
    assert [t.shape[-1] for t in joined.inputs] == [64, 19, 18]
    assert joined.attribute("axis") == 3
    added = convolution(op="add", out_ch=64, kernel_h=1, kernel_w=1).kernel
    assert len(added.inputs) == 2
    unknown = convolution(op="Swizzle", out_ch=64, kernel_h=1, kernel_w=1).kernel
    assert (unknown.op, unknown.attributes) == ("Swizzle", ())


def test_equal_rows_share_a_kernel() -> None:
    """So that whoever looks at a hundred thousand rows looks at each kernel once."""
    first, second, other = kernels_of([convolution(), convolution(), convolution(out_ch=8)])
    assert first is second
    assert other is not first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 5}, "row 2: 64 input and 128 output channels have no 5 groups"),
        ({"padding": 0, "in_h": 2}, "row 2: a kernel of 3 x 3 is larger than its 2 x 56 input"),
        ({"op": "concat", "n_inputs": 2, "out_ch": 64}, "row 2: 2 inputs, the first of 64"),
        ({"op": "concat"}, "row 2: 1 inputs"),
    ],
)
def test_impossible_operators_are_named_by_row(changes: dict[str, object], message: str) -> None:
    """Numbers that describe no operator."""
    with pytest.raises(ValueError, match=message):
        kernels_of([convolution(), convolution(**changes)])


def test_spellings() -> None:
    """What tables call operators and precisions; what is unknown keeps its name."""
    given = ("Conv2D", "conv_2d_group", "fully_connected", "MaxPool2d", "mean", "Concatenation")
    assert [operator_name(name) for name in given] == [
        (op, True) for op in ("conv2d", "conv2d", "dense", "max_pool", "global_avg_pool", "concat")
    ]
    assert operator_name("Swizzle") == ("Swizzle", False)
    assert precision_name(" Float16 ") == "fp16"
    with pytest.raises(ValueError, match="precision 'fp7' is unknown"):
        precision_name("fp7")
