"""Kernels that are encoded once."""

from dataclasses import replace

import numpy as np
import pytest

from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.columns import family_of
from millifit.latency_models.kernels.features import features, work
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def kernel(op: str, read: tuple[int, ...], made: tuple[int, ...], **attributes: object) -> Kernel:
    return Kernel(
        op=op,
        inputs=(TensorType(shape=read, dtype="float32"),),
        output=TensorType(shape=made, dtype="float32"),
        precision="fp32",
        attributes=tuple(sorted(attributes.items())),  # type: ignore[arg-type]  # tuples of numbers
    )


def test_a_batch_holds_what_models_see(convolutions: list[Kernel]) -> None:
    """Features and work are those of the kernels; a part of a batch is the batch of the part."""
    batch = KernelBatch.of(convolutions[:9], vector_lanes=8)
    assert np.allclose(batch.features, features(convolutions[:9], vector_lanes=8), rtol=1e-6)
    assert np.array_equal(batch.work, work(convolutions[:9]))
    rows = np.array([4, 1, 1])
    part, direct = batch.take(rows), KernelBatch.of([convolutions[n] for n in rows], vector_lanes=8)
    assert np.array_equal(part.features, direct.features)
    assert part.identities[1] == part.identities[2] != part.identities[0]


def test_members_of_families(convolutions: list[Kernel]) -> None:
    """Every row is in one family; a precision is a family of its own."""
    mixed = [convolutions[0], replace(convolutions[0], precision="int8"), convolutions[1]]
    members = KernelBatch.of(mixed).members()
    assert {name: rows.tolist() for name, rows in members.items()} == {
        "conv2d fp32": [0, 2],
        "conv2d int8": [1],
    }
    assert KernelBatch.of([]).members() == {}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (kernel("conv2d", (1, 1, 1, 8), (1, 1, 1, 4), kernel=(1, 1)), "dense fp32"),
        (kernel("conv2d", (1, 3, 3, 8), (1, 1, 1, 4), kernel=(3, 3)), "conv2d fp32"),
        (kernel("conv2d", (1, 3, 3, 8), (1, 3, 3, 4), groups=2), "grouped_conv2d fp32"),
        (kernel("avg_pool", (1, 7, 7, 8), (1, 1, 1, 8), kernel=(7, 7)), "global_avg_pool fp32"),
        (kernel("max_pool", (1, 8, 8, 8), (1, 4, 4, 8), kernel=(2, 2)), "pool fp32"),
        (kernel("relu", (1, 8), (1, 8)), "relu fp32"),
    ],
)
def test_operators_that_compute_the_same_are_one_family(subject: Kernel, expected: str) -> None:
    """A convolution of one pixel is dense; average pooling of a whole map is global."""
    assert family_of(subject) == expected
