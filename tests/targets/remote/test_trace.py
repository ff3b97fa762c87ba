"""Where the time of a sweep went."""

from millifit.targets.remote.trace import KernelTrace, waited_for_compiler_s


def trace(compiled_s: float, begun_s: float, ended_s: float) -> KernelTrace:
    return KernelTrace(
        compiled_s=compiled_s, begun_s=begun_s, ended_s=ended_s, on_device_s=ended_s - begun_s
    )


def test_only_what_the_device_waits_for_the_compiler_counts() -> None:
    """From when it is free until the next kernel is compiled; the way to it is another matter."""
    traces = [
        trace(2.0, 2.5, 4.0),  # free from 1: waits 1 for the compiler, half a second on the way
        trace(3.0, 4.25, 5.0),  # compiled meanwhile
        trace(7.0, 7.0, 8.0),  # free from 5: waits 2
    ]
    assert waited_for_compiler_s(reversed(traces), begun_s=1.0) == 3.0


def test_a_compiler_that_is_ahead_is_not_waited_for() -> None:
    """Nothing is below zero."""
    assert waited_for_compiler_s([trace(0.0, 2.0, 3.0)], begun_s=1.0) == 0.0
