"""Clocks: how long a device works on what is called.

The processor's is the wall clock. A GPU works on after a call has returned, so its own clock is
asked: OpenCL's events tell what every launch took, CUDA's what lies between two points of a stream.
The runtime alone is needed, no compiler.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, Protocol

from millifit.errors import MeasurementError
from millifit.targets.device import runtime_device
from millifit.targets.target import Target

# While CUDA fills this much memory, launches queue up behind it: see CudaClock.
_FILLED_BYTES = 64 << 20
_FILLS = 16


class Clock(Protocol):
    """Tells how long the device takes for what a function does to it."""

    counts_calls: bool
    """Whether the time it takes to call from Python is part of what the clock shows."""

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds of what `run` had the device do; returns when that is done."""
        ...


class WallClock:
    """The processor's clock: the call and all that it does."""

    counts_calls = True

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds from before the call until after it."""
        start = time.perf_counter()
        run()
        return time.perf_counter() - start


class OpenClClock:
    """The sum of what every launched kernel took, by the events of the OpenCL device."""

    counts_calls = False

    def __init__(self, device: Any) -> None:
        """`device` is the runtime's."""
        import tvm

        self._number = device.index
        self._begin = tvm.get_global_func("millifit.opencl.events_begin")
        self._end = tvm.get_global_func("millifit.opencl.events_seconds")

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds in kernels; copies and gaps between launches are not counted."""
        self._begin(self._number)
        try:
            run()
        finally:
            taken = self._end(self._number)
        return float(sum(taken))


class CudaClock:
    """What lies between two events of the CUDA stream.

    Launching takes a few microseconds, longer than a small kernel runs: the stream would stand idle
    between launches, and that would be measured. So memory is filled first, and while that takes
    its time, launches queue up. What is measured is the GPU at work without pause.
    """

    counts_calls = False

    def __init__(self, device: Any) -> None:
        """`device` is the runtime's; its context must be the calling thread's."""
        import tvm

        device.sync()
        self._device = device
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._filled = tvm.runtime.empty((_FILLED_BYTES,), "uint8", device=device)
        self._start, self._end = self._event(), self._event()

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds between the first launch and the end of the last."""
        self._device.sync()
        address = ctypes.c_uint64(self._filled.data_ptr())
        for _ in range(_FILLS):
            self._call("cuMemsetD8Async", address, ctypes.c_ubyte(0),
                       ctypes.c_size_t(_FILLED_BYTES), None)  # fmt: skip
        self._call("cuEventRecord", self._start, None)
        run()
        self._call("cuEventRecord", self._end, None)
        self._call("cuEventSynchronize", self._end)
        elapsed_ms = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed_ms), self._start, self._end)
        return elapsed_ms.value / 1e3

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return event

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise MeasurementError(f"CUDA's {name} failed with error {code}: see cuda.h")


def clock_for(target: Target) -> Clock:
    """The clock of the device that a target's code runs on here."""
    if target.gpu is None:
        return WallClock()
    device = runtime_device(target)
    return OpenClClock(device) if target.gpu.api == "opencl" else CudaClock(device)
