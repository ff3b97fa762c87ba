"""The runner in C++: its size, and how long MobileNetV2 takes from the start of the process.

A start is timed from outside: from before the process is made until it has ended, after one
inference, all hashes checked. That is more than the start-up to the first inference, so that is
within the bar where this is. Files are in the page cache, as on a device that was not just booted.

    python -m benchmarks.runner --json benchmarks/results/runner.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import load
from benchmarks.setting import setting, write_result
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.native import build
from millifit.targets.timing import median_interval

_SEED = 0
_NETWORK = "MobileNetV2"
_STARTS = 60
_MOST_BYTES = 200_000
_MOST_S = 0.150
_TVM_MOST_BYTES = 6_000_000


def bundle_of(name: str, path: Path) -> None:
    """Write the bundle of a network for this machine."""
    network, here = simplify(from_onnx(load(name, _SEED), name=name)), find_target("local")
    shape = network.types[network.inputs[0]].shape
    given = np.random.default_rng(_SEED).standard_normal(shape).astype(np.float32)
    write_bundle(
        path, program=lower(network, here), target=here, versions="", golden_input=given, details={}
    )


def start(command: list[str], report: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of a whole process, and what it reports itself."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    return seconds, json.loads(report.read_text())


def interval(seconds: list[float]) -> dict[str, float]:
    """Median and 95 % interval."""
    low_s, high_s = median_interval(seconds)
    return {"median": statistics.median(seconds), "low": low_s, "high": high_s, "n": len(seconds)}


def runtime_bytes() -> dict[str, int]:
    """Sizes of the libraries of TVM that the runner needs, as in the wheels."""
    found = {}
    for package, name in (("tvm", "libtvm_runtime.so"), ("tvm_ffi", "libtvm_ffi.so")):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        found[name] = (Path(spec.origin).parent / "lib" / name).stat().st_size
    return found


def measure(starts: int) -> dict[str, Any]:
    """The result of the benchmark."""
    program = build("runner") / "millifit-run"
    with tempfile.TemporaryDirectory() as folder:
        bundle, report = Path(folder) / "bundle", Path(folder) / "report.json"
        bundle_of(_NETWORK, bundle)
        command = [str(program), str(bundle), "--json", str(report)]
        verify = [*command, "--verify"]
        for _ in range(3):
            start(verify, report)
        runs = [start(verify, report) for _ in range(starts)]
        _, timed = start([*command, "--repeat", "200"], report)
        sizes = {file.name: file.stat().st_size for file in sorted(bundle.iterdir())}
    process_s = interval([seconds for seconds, _ in runs])
    size, libraries = program.stat().st_size, runtime_bytes()
    return {
        "network": _NETWORK,
        "bundle_bytes": sizes,
        "program_bytes": size,
        "runtime_bytes": libraries,
        "process_s": process_s,
        "start_up_s": interval([report["start_up_s"] for _, report in runs]),
        "latency_s": timed["latency_s"],
        "peak_memory_bytes": timed["peak_memory_bytes"],
        "bars": {
            "program under 200 kB": size < _MOST_BYTES,
            "runtime of TVM under 6 MB": sum(libraries.values()) < _TVM_MOST_BYTES,
            "process with one inference under 150 ms": process_s["median"] < _MOST_S,
        },
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--starts", type=int, default=_STARTS, help="processes to time")
    arguments = parser.parse_args()
    os.environ.pop("MILLIFIT_RUNTIME", None)
    found = setting(_SEED) | measure(arguments.starts)
    for name, met in found["bars"].items():
        print(f"{'met ' if met else 'MISSED'} {name}")
    print(
        f"process {found['process_s']['median'] * 1e3:.1f} ms, program {found['program_bytes']} B"
    )
    write_result(arguments.json, found)


if __name__ == "__main__":
    main()
