"""The device of TVM that a target's code runs on here."""

from __future__ import annotations

from typing import Any

from millifit.targets.cuda_runtime import load_cuda
from millifit.targets.target import Target


def runtime_device(target: Target) -> Any:
    """The runtime's device for a target that this machine runs; its runtime is loaded.

    Raises MissingDependency or TargetError where there is no such device.
    """
    import tvm

    if target.gpu is None:
        return tvm.cpu()
    if target.gpu.api == "cuda":
        load_cuda()
        return tvm.cuda(0)
    from millifit.targets.native import load_opencl, opencl_index

    load_opencl()
    return tvm.opencl(opencl_index(target.gpu))


def device_peak_bytes(target: Target) -> int | None:
    """The most bytes that this process held on the target's device; None where nobody counts."""
    import tvm

    if target.gpu is None or target.gpu.api != "opencl":
        return None
    return int(tvm.get_global_func("millifit.opencl.peak_bytes")())


def forget_device_peak(target: Target) -> None:
    """Let `device_peak_bytes` start again from what is held now."""
    import tvm

    if target.gpu is not None and target.gpu.api == "opencl":
        tvm.get_global_func("millifit.opencl.forget_peak")()
