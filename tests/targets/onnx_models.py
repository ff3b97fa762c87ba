"""Small ONNX models, and what ONNX Runtime says they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, npt.NDArray[np.generic]] | None = None,
    *,
    shape: Sequence[int | str] = (1, 4, 8, 8),
    output: str = "y",
    opset: int = 18,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model that reads ``x`` of `shape` and answers `output`."""
    graph = helper.make_graph(
        nodes,
        "small",
        inputs or [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=max(4, helper.find_min_ir_version_for(opsets))
    )


def answer(model: onnx.ModelProto, x: npt.NDArray[np.generic]) -> list[Floats]:
    """The outputs of a model for one input, without the runtime's own graph optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, {session.get_inputs()[0].name: x})]


def random(seed: int, *shape: int) -> Floats:
    """Standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(*values: int) -> npt.NDArray[np.int64]:
    """A vector of integers, as shapes and axes are given."""
    return np.array(values, dtype=np.int64)
