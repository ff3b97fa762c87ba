"""A device on paper: seconds of a kernel by a known law."""

from __future__ import annotations

import math

from millifit.latency_models.kernels.features import macs, moved_bytes
from millifit.targets.kernel import Kernel

LANES = 8


def synthetic_seconds(kernel: Kernel) -> float:
    """100 G multiply-adds a second, 20 GB a second, whichever takes longer, and 1 us to start.

    Output channels are padded to whole vectors of 8, as on a real device.
    """
    channels = kernel.output.shape[-1]
    padding = math.ceil(channels / LANES) * LANES / channels
    rate = 200e9 if kernel.precision == "int8" else 100e9
    return max(macs(kernel) * padding / rate, moved_bytes(kernel) / 20e9) + 1e-6
