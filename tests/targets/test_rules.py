"""What no schedule can write is refused, and the refusal names the node."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kernels import tensor, x86
from onnx import TensorProto, helper, numpy_helper

from millifit.errors import CompileError
from millifit.targets.build import compile_program
from millifit.targets.importer.onnx_graph import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.schedules.rules import schedule


def test_an_operator_without_a_rule_is_named():
    """The operator that no rule knows is in the message."""
    kernel = Kernel(
        op="hash", inputs=(tensor((1, 4)),), output=tensor((1, 4)), precision="fp32"
    )  # fmt: skip
    with pytest.raises(CompileError, match="'hash'"):
        schedule(kernel, x86("avx2"))


@pytest.mark.parametrize("shape", [(1, 0, 4, 8), (1, 4, 4, 0)])
def test_empty_tensors_are_refused(shape):
    """No kernel is written for a tensor without elements."""
    kernel = Kernel(op="relu", inputs=(tensor(shape),), output=tensor(shape), precision="fp32")
    with pytest.raises(CompileError, match="empty tensor"):
        schedule(kernel, x86("avx2"))


def test_more_elements_than_an_index_counts_are_refused():
    """2^31 elements and more would wrap around in 32-bit indices."""
    shape = (1, 1 << 15, 1 << 14, 4)
    kernel = Kernel(op="relu", inputs=(tensor(shape),), output=tensor(shape), precision="fp32")
    with pytest.raises(CompileError, match="more than 2"):
        schedule(kernel, x86("avx2"))


def test_the_node_at_fault_is_named():
    """A layer that cannot be scheduled as chosen is refused with the node's name."""
    weight = numpy_helper.from_array(np.ones((8, 1, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="stubborn", kernel_shape=[1, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    target = x86("avx2")
    program = lower(simplify(from_onnx(model, name="g")), target)
    calls = tuple(
        dataclasses.replace(call, kernel=call.kernel.with_choice((("rows", 99),)))
        if call.kernel.op == "conv2d"
        else call
        for call in program.calls
    )
    with pytest.raises(CompileError, match=r"node 'stubborn': .*rows=99 is not possible"):
        compile_program(dataclasses.replace(program, calls=calls), target)
