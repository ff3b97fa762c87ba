"""A look into ONNX Runtime: what its arena held, and the seconds of every node."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from millifit.targets.network import Network

_RUNS = 12
_SUFFIX = "_kernel_time"
# What ONNX Runtime's graph transformations put behind a name.
_ADDED = re.compile(r"(_nchwc|_token_\d+|_quant|_dq|_q|/[^/]*|\.out)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One network in ONNX Runtime.

    `arena_peak_bytes` is what the arena had handed out at most, over all runs, less what it had
    handed out when the first run began (weights, and what kernels made of them at load): values,
    the kernels' scratch memory and the arena's own rounding. It is the arena's statistic
    (`mem_in_use_peak`), which the profiler writes beside every node. `arena_held_bytes` is what the
    arena took from the system for that, which grows by powers of two.

    `seconds` are medians by the node's name in ONNX Runtime's optimized graph.
    """

    arena_peak_bytes: int
    arena_held_bytes: int
    seconds: dict[str, float]


def answers(
    path: Path, x: npt.NDArray[np.generic], *, optimized: bool = True
) -> npt.NDArray[np.generic]:
    """The first output for every sample ``x[i]``, with sums that cannot saturate.

    Without `optimized` every operator runs as it stands in the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Without VNNI the default u8 x s8 kernels saturate in 16 bits; an oracle must not.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    made = [session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))]
    return np.concatenate(made)


def profile(path: Path, sample: npt.NDArray[np.generic], threads: int) -> Profile:
    """Run the model at `path` some times under ONNX Runtime's profiler."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        for _ in range(_RUNS):
            session.run(None, {name: sample})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX)]
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in nodes:
        seconds[event["name"].removesuffix(_SUFFIX)].append(event["dur"] * 1e-6)
    facts = [e["args"] for e in nodes if "mem_in_use_peak" in e["args"]]
    start = {
        kind: int(facts[0][f"mem_{kind}"]) - int(facts[0][f"mem_{delta}_delta"])
        for kind, delta in (("bytes_in_use", "in_use"), ("arena_held", "arena_held"))
    }
    return Profile(
        arena_peak_bytes=int(facts[-1]["mem_in_use_peak"]) - start["bytes_in_use"],
        arena_held_bytes=int(facts[-1]["mem_arena_held"]) - start["arena_held"],
        seconds={node: statistics.median(taken) for node, taken in seconds.items()},
    )


def seconds_by_node(found: Profile, network: Network) -> dict[str, float]:
    """The seconds by the names of `network`'s nodes.

    A node of the optimized graph is named after a node it replaces, or after that node's output,
    with what the pass that made it adds behind: ``conv_3_nchwc``, ``conv_3_token_7``,
    ``matmul_6/MatMulAddFusion``. What has no such name is left out: ``ReorderOutput``, which
    changes the layout, is nobody's node.
    """
    named = {tensor: node.name for tensor, node in network.producers().items()}
    named |= {node.name: node.name for node in network.nodes}
    matched: dict[str, float] = defaultdict(float)
    for made, seconds in found.seconds.items():
        name = made
        while name and name not in named:
            shorter = _ADDED.sub("", name)
            name = shorter if shorter != name else ""
        if name:
            matched[named[name]] += seconds
    return dict(matched)
