"""Which kernels lose: our seconds beside those of ONNX Runtime for the same nodes."""

from __future__ import annotations

from typing import Any

from benchmarks.comparison.own import kernel_seconds
from benchmarks.comparison.reference import Profile, seconds_by_node
from benchmarks.comparison.work import macs_by_node
from millifit.targets.loaded_bundle import LoadedBundle
from millifit.targets.network import Network
from millifit.targets.program import Program

_MOST = 6


def slowest(
    program: Program, bundle: LoadedBundle, profiled: Profile, network: Network, peak: float
) -> list[dict[str, Any]]:
    """The kernels that cost most over ONNX Runtime, the costliest first; at most 6.

    Calls of one kernel are summed up. `onnxruntime_s` is the time of the nodes that the kernel
    stands for: None where ONNX Runtime has no node of their names, since it fused or split them
    otherwise. Both are of kernels as they run in the network, but under a profiler: small ones are
    some microseconds too long. `fraction_of_peak` is of `peak` multiply-adds per second.
    """
    seconds = kernel_seconds(bundle, program)
    if seconds is None:
        return []
    theirs, macs = seconds_by_node(profiled, network), macs_by_node(network)
    found: dict[str, dict[str, Any]] = {}
    for call, taken in zip(program.calls, seconds, strict=True):
        kernel = call.kernel
        row = found.setdefault(
            kernel.key,
            {
                "kernel": kernel.op,
                "shape": [list(each.shape) for each in (*kernel.inputs, kernel.output)],
                "nodes": [],
                "ours_s": 0.0,
                "onnxruntime_s": None,
                "macs": 0,
            },
        )
        matched = [theirs[node] for node in call.nodes if node in theirs]
        row["nodes"] += call.nodes[:1] or (call.output,)
        row["ours_s"] += taken
        row["macs"] += sum(macs.get(node, 0) for node in call.nodes)
        if matched:
            row["onnxruntime_s"] = (row["onnxruntime_s"] or 0.0) + sum(matched)
    ran = [row for row in found.values() if row["ours_s"] > 0]  # a reshape is none
    for row in ran:
        row["fraction_of_peak"] = row["macs"] / row["ours_s"] / peak
    lost = sorted(ran, key=lambda r: (r["onnxruntime_s"] or 0.0) - r["ours_s"])
    return lost[:_MOST]
