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
