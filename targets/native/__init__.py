"""Native parts of millifit: the OpenCL runtime of TVM, and the runner of bundles.

C++ built against the headers that the TVM wheels ship; see docs/decisions/0011-opencl-runtime.md.
"""

from __future__ import annotations

from millifit.targets.native.building import Part, Toolchain, build, built_file
from millifit.targets.native.opencl_runtime import (
    OpenClDevice,
    list_opencl,
    load_opencl,
    opencl_devices,
    opencl_index,
    opencl_is_built,
)

__all__ = [
    "OpenClDevice",
    "Part",
    "Toolchain",
    "build",
    "built_file",
    "list_opencl",
    "load_opencl",
    "opencl_devices",
    "opencl_index",
    "opencl_is_built",
]
