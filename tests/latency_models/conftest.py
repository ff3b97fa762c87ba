"""A synthetic device: kernels whose seconds follow a known law."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from millifit.latency_models.features import macs, moved_bytes
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

LANES = 8


def synthetic_seconds(kernel: Kernel) -> float:
    """100 G multiply-adds a second, 20 GB a second, whichever takes longer, and 1 us to start.

    Output channels are padded to whole vectors of 8, as on a real device.
    """
    channels = kernel.output.shape[-1]
    padding = math.ceil(channels / LANES) * LANES / channels
    rate = 200e9 if kernel.precision == "int8" else 100e9
    return max(macs(kernel) * padding / rate, moved_bytes(kernel) / 20e9) + 1e-6


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
