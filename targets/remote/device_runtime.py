"""The TVM runtime on the device: loaded once before anything is forked, or found missing."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from millifit.targets.device_facts import DeviceFacts, GpuFacts, probe

# Threads must not exist before a fork, and NumPy's would.
_GPU_S = 60.0
_SINGLE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def load_runtime(log: Callable[[str], None]) -> DeviceFacts:
    """Load what sessions use, so that they need not, and return the facts of this device.

    Without a runtime the facts have no version of it; workstations are told so when they connect.
    """
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    for name in _SINGLE:
        os.environ.setdefault(name, "1")
    # tvm_ffi imports torch where it can, which is of no use here and starts threads.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    facts = probe()
    try:
        import numpy.random  # noqa: F401 - loaded when it is first used
        import tvm
        import tvm.runtime.vm
        import tvm_ffi
    except (ImportError, OSError, RuntimeError) as error:
        log(f"no TVM runtime: {type(error).__name__}: {error}. Install apache-tvm.")
        return replace(facts, versions={})
    for name in _SINGLE:  # sessions decide for themselves
        os.environ.pop(name, None)
    found = {"apache-tvm": str(tvm.__version__), "apache-tvm-ffi": str(tvm_ffi.__version__)}
    return replace(facts, versions={**found, **facts.versions}, gpus=_gpus(log))


def _gpus(log: Callable[[str], None]) -> tuple[GpuFacts, ...]:
    """The GPUs that code runs on here, looked for in a process of its own.

    Drivers start threads and do not survive a fork: sessions load them for themselves.
    """
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            from millifit.targets.detect_gpu import reachable_gpus

            found = json.dumps([asdict(gpu) for gpu in reachable_gpus()])
            os.write(answer, found.encode())
        except OSError as error:  # in the single file there is nothing to build from
            log(f"no OpenCL device is looked for: set MILLIFIT_OPENCL_LIBRARY ({error})")
        except BaseException as error:
            log(f"no GPU is looked for: {type(error).__name__}: {error}")
        finally:
            os._exit(0)
    os.close(answer)
    try:
        return tuple(
            GpuFacts(**{**gpu, "features": tuple(gpu["features"])})
            for gpu in json.loads(_read(answers, time.monotonic() + _GPU_S) or b"[]")
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _read(answers: int, deadline_s: float) -> bytes:
    found = b""
    with os.fdopen(answers, "rb", buffering=0) as stream:
        while (left := deadline_s - time.monotonic()) > 0:
            if not select.select([stream], [], [], left)[0]:
                break
            part = stream.read(1 << 16)
            if not part:
                return found
            found += part
    return b""
