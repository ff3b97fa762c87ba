"""Kernels of pruned networks: shapes and bytes."""

import pytest

from millifit.search.kernel_resize import resized, weight_bytes
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def tensor(*shape: int, dtype: str = "float32") -> TensorType:
    return TensorType(shape=shape, dtype=dtype)


def kernel(op, inputs, output, *, precision="fp32", **attributes) -> Kernel:
    return Kernel(
        op=op,
        inputs=inputs,
        output=output,
        precision=precision,
        attributes=tuple(sorted(attributes.items())),
    )


@pytest.mark.parametrize(
    ("op", "inputs", "output", "expected_inputs", "expected_output"),
    [
        ("conv2d", [(1, 8, 8, 16)], (1, 4, 4, 32), [(1, 8, 8, 8)], (1, 4, 4, 24)),
        (
            "conv2d",  # a fused residual follows the output
            [(1, 4, 4, 16), (1, 4, 4, 32)],
            (1, 4, 4, 32),
            [(1, 4, 4, 8), (1, 4, 4, 24)],
            (1, 4, 4, 24),
        ),
        ("dense", [(1, 64)], (1, 10), [(1, 8)], (1, 24)),
        ("mul", [(1, 4, 32), (1, 1, 32)], (1, 4, 32), [(1, 4, 8), (1, 1, 24)], (1, 4, 24)),
        ("mul", [(1, 4, 32), (1, 4, 1)], (1, 4, 32), [(1, 4, 8), (1, 4, 1)], (1, 4, 24)),
        ("to_channels_first", [(1, 4, 4, 32)], (1, 32, 4, 4), [(1, 4, 4, 8)], (1, 24, 4, 4)),
        ("to_channels_last", [(1, 32, 4, 4)], (1, 4, 4, 32), [(1, 8, 4, 4)], (1, 4, 4, 24)),
    ],
)  # fmt: skip
def test_only_channels_change(op, inputs, output, expected_inputs, expected_output):
    """8 channels in and 24 out go where each operator has its channels; the rest stays."""
    before = kernel(op, tuple(tensor(*s) for s in inputs), tensor(*output, dtype="uint8"))
    after = resized(before, in_channels=8, out_channels=24)
    assert [t.shape for t in after.inputs] == expected_inputs
    assert after.output == tensor(*expected_output, dtype="uint8")
    assert after.op == before.op


def test_refuses_groups_that_do_not_divide():
    """A grouped convolution cannot have channels that its groups do not share evenly."""
    grouped = kernel("conv2d", (tensor(1, 4, 4, 16),), tensor(1, 4, 4, 16), groups=4)
    with pytest.raises(ValueError, match="4 groups cannot have 10 -> 16"):
        resized(grouped, in_channels=10, out_channels=16)


@pytest.mark.parametrize(
    ("op", "channels", "attributes", "fp32", "int8"),
    [
        ("conv2d", (16, 32), {"kernel": (3, 3), "groups": 1}, 4 * (4608 + 32), 4608 + 256),
        ("conv2d", (16, 32), {"kernel": (3, 3), "groups": 4}, 4 * (1152 + 32), 1152 + 256),
        ("depthwise_conv2d", (32, 32), {"kernel": (3, 3)}, 4 * (288 + 32), 288 + 256),
        ("max_pool", (32, 32), {"kernel": (2, 2)}, 0, 0),
    ],
)
def test_weight_bytes(op, channels, attributes, fp32, int8):
    """Weights have 4 bytes or 1, biases 4, scales of int8 weights 4 per channel."""
    for precision, expected in (("fp32", fp32), ("int8", int8)):
        made = kernel(
            op,
            (tensor(1, 8, 8, channels[0]),),
            tensor(1, 8, 8, channels[1]),
            precision=precision,
            **attributes,
        )
        assert weight_bytes(made) == expected


def test_dense_weight_bytes():
    """A matrix of 64 x 10 and 10 biases."""
    assert weight_bytes(kernel("dense", (tensor(1, 64),), tensor(1, 10))) == 4 * 650
