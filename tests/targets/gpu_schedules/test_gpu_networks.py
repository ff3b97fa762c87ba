"""Networks on an OpenCL device, in every precision that a file may state."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import Compiled, lowered, quantized, scale, stored, weight

from millifit.compress.quantize.quantizer import quantize
from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.target import Precision, Target

W = {
    "w1": random(0, 16, 4, 3, 3) / 6, "w2": random(1, 16, 1, 3, 3) / 3,
    "w3": random(2, 16, 16, 1, 1) / 4, "w4": random(3, 5, 16) / 4,
}  # fmt: skip


def network() -> onnx.ModelProto:
    """A stem, a depthwise and a pointwise layer with a residual around them, and a head."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "c1", pads=[1] * 4), node("Relu", ["a"], ["b"], "r1"),
        node("Conv", ["b", "w2"], ["c"], "c2", pads=[1] * 4, group=16),
        node("HardSwish", ["c"], ["d"], "h"), node("Conv", ["d", "w3"], ["e"], "c3"),
        node("Add", ["e", "b"], ["f"], "add"), node("GlobalAveragePool", ["f"], ["g"], "pool"),
        node("Flatten", ["g"], ["h2"], "flat"),
        node("Gemm", ["h2", "w4"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    return onnx_model(nodes, W, shape=(1, 4, 9, 7))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "w8"])
def test_network_of_floats(opencl: Target, precision: Precision) -> None:
    """What the device has no arithmetic for is computed in fp32 on the same values."""
    plain = simplify(from_onnx(network(), name="floats"))
    layers = {"fc": precision} if precision == "w8" else dict.fromkeys(
        ("c1", "c2", "c3", "fc"), precision
    )  # fmt: skip
    made = plain if precision == "fp32" else quantize(plain, layers, {})
    model = to_onnx(made)
    program = lower(simplify(from_onnx(model, name="floats")), opencl)
    layers_of = {c.kernel.precision for c in program.calls if "w" not in c.kernel.op}
    assert layers_of <= ({"fp32", "fp16"} if precision == "fp16" else {"fp32"})
    assert ("fp16" in layers_of) == (precision == "fp16")
    x = random(9, 1, 4, 9, 7)
    wanted = answer(model, x)[0]
    error = 2e-2 if precision in ("fp16", "bf16") else 1e-4
    assert (
        np.abs(Compiled(program, opencl).run(x)[0] - wanted).max() <= error * np.abs(wanted).max()
    )


def test_network_of_integers(opencl: Target) -> None:
    """A quantized network runs in integers, to one step of its last scale."""
    nodes = [
        *quantized("x", "a"), stored("w"), stored("v"),
        helper.make_node("Conv", ["a", "w"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"), *quantized("r", "b"),
        helper.make_node("Conv", ["b", "v"], ["d"], "d", pads=[1] * 4, group=24),
        *quantized("d", "e"), helper.make_node("Add", ["e", "b"], ["f"], "f"),
        *quantized("f", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("b", 0.0213, 0) | scale("e", 0.0317, 130)
    constants |= scale("y", 0.0423, 100) | weight("w", (24, 4, 3, 3))
    constants |= weight("v", (24, 1, 3, 3), seed=1)
    model = onnx_model(nodes, constants, shape=(1, 4, 8, 8))
    program = lowered(model, opencl)
    assert {c.kernel.precision for c in program.calls if "conv" in c.kernel.op} == {"int8"}
    x = random(3, 1, 4, 8, 8)
    off = np.abs(Compiled(program, opencl).run(x)[0] - answer(model, x)[0])
    assert off.max() <= 1.001 * 0.0423
    assert np.mean(off > 1e-4) <= 0.01


def test_operators_without_a_rule_are_scheduled_by_tvm(opencl: Target) -> None:
    """An operator that no rule covers runs between those that have one."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], "first", pads=[1] * 4),
        helper.make_node("CumSum", ["a", "axis"], ["b"], "sums"),
        helper.make_node("Sin", ["b"], ["c"], "odd"),
        helper.make_node("Conv", ["c", "v"], ["y"], "last", pads=[1] * 4),
    ]
    constants = {"v": random(0, 4, 4, 3, 3) / 6, "axis": np.array(2, np.int64)}
    model = onnx_model(nodes, constants)
    program = lowered(model, opencl)
    assert [call.nodes for call in program.without_rule] == [("sums",), ("odd",)]
    x = random(1, 1, 4, 8, 8)
    wanted = answer(model, x)[0]
    assert np.abs(Compiled(program, opencl).run(x)[0] - wanted).max() <= 1e-4
