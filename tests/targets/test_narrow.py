"""Packing sums to bytes: saturated, limited, halves to even, in any group of vectors."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import TARGETS, run, tensor

from millifit.targets.kernel import Kernel


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("channels", [16, 32, 48, 64, 80, 24])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 510.0])
def test_sums_of_any_size_are_rounded_shifted_and_limited(target, channels, scale):
    """Sums far beyond a byte, and beyond 32 bits once scaled, end at the limits they passed."""
    rng = np.random.default_rng(channels)
    rows, depth, zero_point, low, high = 13, 40, 100, -60.0 * scale, 120.0 * scale
    x = rng.integers(0, 256, (rows, depth)).astype(np.uint8)
    weight = rng.integers(-127, 128, (channels, depth)).astype(np.int8)
    kernel = Kernel(
        op="dense", inputs=(tensor(x.shape, "uint8"),), output=tensor((rows, channels), "uint8"),
        precision="int8",
    )  # fmt: skip
    constants = {
        "weight": weight, "bias": rng.integers(-9, 9, channels).astype(np.int32),
        "weight_scale": np.ones(channels, np.float32), "input_scale": np.float32(1.0),
        "input_zero_point": np.float32(7), "output_scale": np.float32(scale),
        "output_zero_point": np.float32(zero_point), "act_low": np.float32(low),
        "act_high": np.float32(high),
    }  # fmt: skip
    exact = (x.astype(np.int64) - 7) @ weight.astype(np.int64).T + constants["bias"]
    rounded = np.rint(exact.astype(np.float32) * (np.float32(1.0) / np.float32(scale)))
    wanted = np.clip(rounded + zero_point, zero_point - 60, zero_point + 120)
    made = run(kernel, target, [x], constants)
    assert np.array_equal(made, wanted.astype(np.uint8))
    assert {40, 220} <= set(np.unique(made)) or scale > 1
