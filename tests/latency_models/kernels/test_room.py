"""Which kernels have room: seconds above what the best of the network's kernels reach."""

import pytest

from millifit.latency_models.kernels.room import expected_gains
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def dense(inputs: int, precision: str = "fp32") -> Kernel:
    """A layer of inputs * 1000 multiply-adds, and about as many weights."""
    dtype = "uint8" if precision == "int8" else "float32"
    return Kernel(
        op="dense", inputs=(TensorType(shape=(1, inputs), dtype=dtype),),
        output=TensorType(shape=(1, 1000), dtype=dtype), precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_kernel_below_the_best_rate_has_room_for_every_call() -> None:
    """Twice the work in four times the time leaves half of it; calls count."""
    fast, slow = dense(1000), dense(2000)
    gains = expected_gains({fast: 1, slow: 3}, {fast: 1e-3, slow: 4e-3})
    assert gains[fast] == 0
    assert gains[slow] == pytest.approx(3 * 2e-3, rel=0.01)


def test_each_precision_is_judged_by_its_own_best() -> None:
    """int8 arithmetic that is four times as fast leaves fp32 kernels no room of their own."""
    layer, quantized = dense(1000), dense(1000, "int8")
    gains = expected_gains({layer: 1, quantized: 1}, {layer: 4e-3, quantized: 1e-3})
    assert gains == pytest.approx({layer: 0, quantized: 0})


def test_without_times_there_is_nothing_to_say() -> None:
    """No kernel, no gain."""
    assert expected_gains({dense(10): 1}, {}) == {}
