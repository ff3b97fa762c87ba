"""A synthetic device: kernels whose seconds follow a known law."""

from collections.abc import Callable

import numpy as np
import pytest
from synthetic_device import synthetic_seconds

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


@pytest.fixture
def seconds() -> Callable[[Kernel], float]:
    return synthetic_seconds


@pytest.fixture
def convolutions() -> list[Kernel]:
    """240 different convolutions as networks have them: 4 to 56 wide, 8 to 400 channels."""
    rng = np.random.default_rng(7)
    made: dict[Kernel, None] = {}
    while len(made) < 240:
        size, channels_in, channels_out = (
            int(rng.choice([4, 7, 14, 28, 56])),
            int(rng.integers(8, 400)),
            int(rng.integers(8, 400)),
        )
        area = int(rng.choice([1, 3]))
        made[
            Kernel(
                op="conv2d",
                inputs=(TensorType(shape=(1, size, size, channels_in), dtype="float32"),),
                output=TensorType(shape=(1, size, size, channels_out), dtype="float32"),
                precision="fp32",
                attributes=(
                    ("dilations", (1, 1)),
                    ("groups", 1),
                    ("kernel", (area, area)),
                    ("pads", (area // 2,) * 4),
                    ("strides", (1, 1)),
                ),
                epilogue=("relu",),
            )
        ] = None
    return list(made)
