"""Clocks tell what the device worked, and whether the call is part of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from millifit.targets.build import build_kernel
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.runner.clock import OpenClClock, WallClock, clock_for
from millifit.targets.runner.kernel_timing import KernelBench, repeat
from millifit.targets.target import Target
from millifit.targets.timing import TimingPolicy

KIND = TensorType(shape=(1, 32, 32, 64), dtype="float32")
RELU = Kernel(op="relu", inputs=(KIND,), output=KIND, precision="fp32")


def test_processor_is_timed_by_the_wall_clock() -> None:
    """The call is part of what is seen."""
    clock = clock_for(find_target("local"))
    assert isinstance(clock, WallClock)
    assert clock.counts_calls
    assert 0.02 <= clock.seconds(lambda: time.sleep(0.02)) < 1


def test_opencl_is_timed_by_its_events(opencl: Target) -> None:
    """What the processor does between launches is not seen, and every launch is."""
    clock = clock_for(opencl)
    assert isinstance(clock, OpenClClock)
    assert not clock.counts_calls
    built = build_kernel(RELU, opencl)
    (operands, _) = built.operands(np.random.default_rng(0), 0)
    built.function(*operands)

    def once() -> None:
        built.function(*operands)

    def slowly() -> None:
        for _ in range(3):
            once()
            time.sleep(0.1)

    assert 0 < clock.seconds(slowly) < 0.1
    assert clock.seconds(lambda: None) == 0.0


def test_launches_that_fail_leave_the_clock_usable(opencl: Target) -> None:
    """An error in what is timed comes out, and the next timing starts afresh."""
    clock = clock_for(opencl)
    with pytest.raises(ZeroDivisionError):
        clock.seconds(lambda: 1 / 0)
    assert clock.seconds(lambda: None) == 0.0


def test_run_asks_the_clock(opencl: Target) -> None:
    """`repeat` gives what its clock shows, less the overhead of each call."""

    class Fixed:
        counts_calls = True

        def seconds(self, run: object) -> float:
            assert callable(run)
            run()
            return 1.0

    seen: list[int] = []
    run = repeat(seen.append, [(1,), (2,)], overhead_s=0.1, clock=Fixed())
    assert run(3) == pytest.approx(0.7)
    assert seen == [1, 2, 1]


def test_kernel_of_a_gpu_is_timed_in_this_process(opencl: Target) -> None:
    """A kernel on 16 times as many values takes longer; the processor's energy is not the GPU's."""
    bench = KernelBench()
    policy = TimingPolicy(block_s=1e-3, min_samples=5, max_samples=21, limit_s=0.3)
    large = TensorType(shape=(1, 128, 128, 64), dtype="float32")
    medians = [
        bench.time(
            Kernel(op="relu", inputs=(t,), output=t, precision="fp32"), opencl, policy, seed=0
        )
        for t in (KIND, large)
    ]
    assert medians[0].median_s < medians[1].median_s
    assert medians[0].energy_j is None
