"""What the first run of a bundle takes: time and memory, in a process that does nothing else.

``python -m millifit.targets.runner.first_run BUNDLE`` prints it as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from millifit.errors import BundleError

_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """From opening a bundle's files to its first output, the runtime loaded already.

    `peak_memory_bytes` is what the process needed more than before; for a GPU's bundle what it
    held on the GPU.
    """

    start_up_s: float
    peak_memory_bytes: int


def measure_first_run(bundle: Path) -> FirstRun:
    """Load and run a bundle once in a fresh process that has the TVM runtime alone.

    Raises BundleError with the last line that the process said where it fails.
    """
    command = [sys.executable, "-P", "-m", __name__, str(bundle.absolute())]
    environment = os.environ | {"TVM_USE_RUNTIME_LIB": "1", "TVM_BIND_THREADS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"bundle '{bundle}' did not end its first run within {_LIMIT_S:g} s"
        ) from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BundleError(f"bundle '{bundle}' failed in its first run: {said}")
    return FirstRun(**json.loads(done.stdout))


def first_run(bundle: Path) -> FirstRun:
    """Load and run a bundle once in this process."""
    import tvm.runtime.vm  # noqa: F401 - so that the runtime counts neither as time nor as memory

    from millifit.targets.loaded_bundle import load_bundle
    from millifit.targets.runner.memory import forget_peak, status_bytes

    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        given = golden["input"]
    forget_peak()
    before = status_bytes("VmHWM")
    start = time.perf_counter()
    loaded = load_bundle(bundle)
    loaded.run(given)
    seconds = time.perf_counter() - start
    grown, device_bytes = max(0, status_bytes("VmHWM") - before), loaded.device_bytes()
    return FirstRun(
        start_up_s=seconds, peak_memory_bytes=grown if device_bytes is None else device_bytes
    )


if __name__ == "__main__":
    print(json.dumps(asdict(first_run(Path(sys.argv[1])))))  # noqa: T201 - its answer
