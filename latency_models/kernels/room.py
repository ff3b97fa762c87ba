"""Which kernels are worth an effort: those with many seconds above what the device can do."""

from __future__ import annotations

from collections.abc import Mapping

from millifit.latency_models.kernels.features import macs, moved_bytes
from millifit.targets.kernel import Kernel


def expected_gains(
    calls: Mapping[Kernel, int], seconds: Mapping[Kernel, float]
) -> dict[Kernel, float]:
    """Seconds that a network could at most gain by each of its kernels.

    `calls` is how often the network runs a kernel, `seconds` what one run takes. What the device
    can do is what some kernel of the network reaches: the most multiply-adds per second in a
    precision, and the most bytes per second.
    """
    compute: dict[str, float] = {}
    bandwidth = 0.0
    for kernel, taken_s in seconds.items():
        reached = macs(kernel) / taken_s
        compute[kernel.precision] = max(compute.get(kernel.precision, 0.0), reached)
        bandwidth = max(bandwidth, moved_bytes(kernel) / taken_s)

    def room_s(kernel: Kernel) -> float:
        least_s = max(macs(kernel) / compute[kernel.precision], moved_bytes(kernel) / bandwidth)
        return seconds[kernel] - least_s

    return {kernel: calls[kernel] * room_s(kernel) for kernel in seconds}
