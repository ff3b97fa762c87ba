"""Work and traffic of kernels, against numbers counted by hand."""

import numpy as np
import pytest

from millifit.latency_models.kernels.features import (
    FEATURES,
    features,
    macs,
    moved_bytes,
    weight_bytes,
)
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def kernel(
    op: str,
    read: tuple[int, ...],
    written: tuple[int, ...],
    *,
    dtype: str = "float32",
    **attributes: int | tuple[int, ...],
) -> Kernel:
    return Kernel(
        op=op,
        inputs=(TensorType(shape=read, dtype=dtype),),
        output=TensorType(shape=written, dtype=dtype),
        precision="fp32" if dtype == "float32" else "int8",
        attributes=tuple(sorted(attributes.items())),
    )


@pytest.mark.parametrize(
    ("subject", "expected_macs", "expected_weight_bytes"),
    [
        (
            kernel("conv2d", (1, 8, 8, 4), (1, 4, 4, 6), kernel=(3, 3), groups=2, strides=(2, 2)),
            4 * 4 * 6 * 9 * 2,
            6 * 9 * 2 * 4,
        ),
        (
            kernel("depthwise_conv2d", (1, 8, 8, 4), (1, 8, 8, 4), kernel=(3, 5)),
            8 * 8 * 4 * 15,
            4 * 15 * 4,
        ),
        (kernel("dense", (2, 10), (2, 3), dtype="uint8"), 2 * 3 * 10, 30),
        (kernel("max_pool", (1, 8, 8, 4), (1, 4, 4, 4), kernel=(2, 2)), 4 * 4 * 4 * 4, 0),
        (kernel("global_avg_pool", (1, 8, 8, 4), (1, 1, 1, 4)), 256, 0),
        (kernel("relu", (1, 8), (1, 8)), 8, 0),
    ],
)
def test_work_is_counted(subject: Kernel, expected_macs: int, expected_weight_bytes: int) -> None:
    """Multiply-adds and weight bytes of every family; traffic is inputs, weights and output."""
    assert macs(subject) == expected_macs
    assert weight_bytes(subject) == expected_weight_bytes
    activations = subject.inputs[0].bytes + subject.output.bytes
    assert moved_bytes(subject) == activations + expected_weight_bytes


def test_features_are_finite_and_named() -> None:
    """One column a name; 20 channels fill five sixths of three vectors of 8."""
    made = features([kernel("dense", (1, 16), (1, 20))], vector_lanes=8)
    assert made.shape == (1, len(FEATURES))
    assert np.isfinite(made).all()
    row = dict(zip(FEATURES, made[0], strict=True))
    assert row["out_filled"] == pytest.approx(20 / 24)
    assert row["in_filled"] == 1.0


def test_no_kernels_have_no_rows() -> None:
    """An empty list keeps its columns."""
    assert features([], vector_lanes=8).shape == (0, len(FEATURES))


def test_work_of_sequences() -> None:
    """Attention counts both of its products; an embedding moves only the rows that it reads."""

    def tensor(*shape: int, dtype: str = "float32") -> TensorType:
        return TensorType(shape=shape, dtype=dtype)

    sizes = {"heads": 2, "queries": 5, "keys": 7, "depth": 3, "width": 4}
    attention = Kernel(
        op="attention", inputs=(tensor(5, 6), tensor(7, 6), tensor(7, 8)), output=tensor(5, 8),
        precision="fp32", attributes=tuple(sorted(sizes.items())),
    )  # fmt: skip
    product = Kernel(
        op="matmul", inputs=(tensor(2, 5, 3), tensor(2, 3, 7)), output=tensor(2, 5, 7),
        precision="fp32", attributes=(("depth", 3),),
    )  # fmt: skip
    embedding = Kernel(
        op="embedding", inputs=(tensor(1, 9, dtype="int64"),), output=tensor(1, 9, 4),
        precision="fp32", attributes=(("rows", 1000),),
    )  # fmt: skip
    assert macs(attention) == 2 * 5 * 7 * (3 + 4)
    assert macs(product) == 2 * 5 * 7 * 3
    assert moved_bytes(embedding) == 9 * 8 + 2 * 9 * 4 * 4
