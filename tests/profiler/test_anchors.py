"""Anchors: a few kernels that stand for all sizes and operators."""

from dataclasses import replace

from millifit.profiler.anchors import choose_anchors, enough
from millifit.targets.kernel import Kernel


def test_anchors_are_spread_over_sizes_and_operators(kernels: list[Kernel]) -> None:
    """Four of sixteen: one of every quarter of the sizes, and of four operators."""
    ops = ("dense", "conv2d", "depthwise_conv2d", "add")
    measured = {
        replace(kernel, op=op): 10.0**-number * (1 + place / 10)
        for number, kernel in enumerate(kernels)
        for place, op in enumerate(ops)
    }
    anchors = choose_anchors(measured)
    assert {kernel.op for kernel in anchors} == set(ops)
    assert {kernel.output for kernel in anchors} == {kernel.output for kernel in kernels}


def test_too_few_kernels_are_all_anchors(kernels: list[Kernel]) -> None:
    """Where there are fewer than wanted all of them serve; one alone is not enough to begin."""
    few = dict.fromkeys(kernels[:2], 1.0)
    assert set(choose_anchors(few)) == set(kernels[:2])
    assert not enough(few)
