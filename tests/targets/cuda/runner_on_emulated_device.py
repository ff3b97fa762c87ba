"""Compile a CUDA bundle whose machine code is emulated, and run it with millifit-run.

``python runner_on_emulated_device.py MODEL.onnx INPUT.npy GOLDEN.npy ARCH MILLIFIT-RUN OPTION...``
prints what the program says, and ends with its code. All in one process, because the emulated
kernels last as long as it does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from emulated_device import emulated_cubin, load_driver
from emulated_gpu import cuda

from millifit.targets import cuda_compiler
from millifit.targets.bundle import write_bundle
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower


def main(model: str, given: str, golden: str, arch: str, *runner: str) -> int:
    """Compile and run."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        load_driver(folder)
        cuda_compiler.compile_cuda = emulated_cubin
        target = cuda(arch)
        write_bundle(
            folder / "bundle", program=lower(simplify(read_network(Path(model))), target),
            target=target, versions="v", golden_input=np.load(given),
            golden_output=[np.load(golden)], details={},
        )  # fmt: skip
        command = [*runner[:1], str(folder / "bundle"), *runner[1:]]
        return subprocess.run(
            command, check=False, env={"LD_LIBRARY_PATH": work, "PATH": "/usr/bin:/bin"}
        ).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
