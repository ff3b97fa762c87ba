"""A small bundle for this machine's processor, to be run on devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower

SAMPLE = (4, 8, 8)


def small_bundle(path: Path, *, seed: int = 0) -> Path:
    """A convolution and a mean over ``(1, 4, 8, 8)``, in a bundle of one thread."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["r"], "r"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], "p"),
            helper.make_node("Flatten", ["p"], ["y"], "f"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *SAMPLE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8))],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    target = find_target("local")
    write_bundle(
        path, program=lower(simplify(from_onnx(model, name="small")), target), target=target,
        versions="tests", golden_input=inputs(1), details={},
    )  # fmt: skip
    return path


def inputs(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Inputs ``[count, 4, 8, 8]``, the same each time."""
    return np.random.default_rng(1).standard_normal((count, *SAMPLE)).astype(np.float32)
