"""What became of a kernel's time on its way to a device and back, for those who tune the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTrace:
    """Moments of this machine's monotonic clock, and the seconds that the device spent timing."""

    compiled_s: float
    begun_s: float
    ended_s: float
    on_device_s: float


def waited_for_compiler_s(traces: Iterable[KernelTrace], begun_s: float) -> float:
    """Seconds in which one device had nothing to do because the next kernel was not compiled.

    `begun_s` is when the device was ready.
    """
    waited_s, free_s = 0.0, begun_s
    for trace in sorted(traces, key=lambda each: each.begun_s):
        waited_s += max(0.0, min(trace.compiled_s, trace.begun_s) - free_s)
        free_s = max(free_s, trace.ended_s)
    return waited_s
