"""The TVM runtime on the device: loaded once before anything is forked, or found missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from millifit.targets.device_facts import DeviceFacts, probe

# Threads must not exist before a fork, and NumPy's would.
_SINGLE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def load_runtime(log: Callable[[str], None]) -> DeviceFacts:
    """Load what sessions use, so that they need not, and return the facts of this device.

    Without a runtime the facts have no version of it; workstations are told so when they connect.
    """
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    for name in _SINGLE:
        os.environ.setdefault(name, "1")
    facts = probe()
    try:
        import tvm
        import tvm.runtime.vm
        import tvm_ffi
    except (ImportError, OSError, RuntimeError) as error:
        log(f"no TVM runtime: {type(error).__name__}: {error}. Install apache-tvm.")
        return replace(facts, versions={})
    for name in _SINGLE:  # sessions decide for themselves
        os.environ.pop(name, None)
    found = {"apache-tvm": str(tvm.__version__), "apache-tvm-ffi": str(tvm_ffi.__version__)}
    return replace(facts, versions={**found, **facts.versions})
