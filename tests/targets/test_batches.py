"""Several samples at a time: where there is code for them, and what is said where there is none."""

import numpy as np
import pytest
from kernels import EVERYWHERE
from onnx import helper
from programs import lowered

from millifit.errors import ModelError
from millifit.targets.target import Gpu


def model(*nodes, shape=(2, 4, 8, 8), output=(2, 4, 8, 8)):
    """A model of these nodes from ``x`` to ``y``, for two samples."""
    import onnx

    weight = np.ones((4, 4, 1, 1), np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "small", [info("x", 1, shape)], [info("y", 1, output)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


CONV = helper.make_node("Conv", ["x", "w"], ["y"], "conv")


def gpu(api):
    """A target with a GPU."""
    import dataclasses

    made = Gpu(
        api=api, name="test", arch="sm_80" if api == "cuda" else "", compute_units=8, subgroup=32,
        max_threads=1024, shared_bytes=49_152, features=("fp16",),
    )  # fmt: skip
    return dataclasses.replace(EVERYWHERE[-1], gpu=made, precisions=())


def test_cuda_takes_batches():
    """A convolution of two samples is one kernel of both."""
    program = lowered(model(CONV), gpu("cuda"))
    kernels = [call.kernel for call in program.calls if call.kernel.op == "conv2d"]
    assert [kernel.output.shape[0] for kernel in kernels] == [2]


@pytest.mark.parametrize("target", [EVERYWHERE[-1], gpu("opencl")], ids=["processor", "opencl"])
def test_other_targets_refuse_them(target):
    """With what to do."""
    with pytest.raises(ModelError, match=r"has batch 2; .*--input-shape 1"):
        lowered(model(CONV), target)


def test_operators_without_code_for_batches_are_named():
    """Rather than computing something else."""
    shuffle = helper.make_node("DepthToSpace", ["c"], ["y"], "shuffle", blocksize=2)
    first = helper.make_node("Conv", ["x", "w"], ["c"], "conv")
    with pytest.raises(ModelError, match=r"node 'shuffle' .* one sample at a time"):
        lowered(model(first, shuffle, output=(2, 1, 16, 16)), gpu("cuda"))
