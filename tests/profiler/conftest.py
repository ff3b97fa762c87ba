"""A target and kernels: what every test of the profiler needs."""

import pytest

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.target import Target


@pytest.fixture
def target() -> Target:
    return Target(
        name="here", triple="x86_64-linux-gnu", mcpu="x86-64", vector_bits=256,
        vector_registers=16, dot_product="none", cores=1, l1_bytes=2**15, l2_bytes=2**20,
        l3_bytes=2**25, cpu="a CPU", reach="local",
    )  # fmt: skip


@pytest.fixture
def kernels() -> list[Kernel]:
    """Four dense layers."""
    return [
        Kernel(
            op="dense",
            inputs=(TensorType(shape=(1, 64), dtype="float32"),),
            output=TensorType(shape=(1, width), dtype="float32"),
            precision="fp32",
            attributes=(("example", (1, 2)),),
            epilogue=("relu",),
        )
        for width in (8, 16, 32, 64)
    ]
