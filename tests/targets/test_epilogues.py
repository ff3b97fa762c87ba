"""Activation functions fused behind layers: in registers, in every precision, as the graph says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from kernels import TARGETS, x86
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import Compiled, lowered, quantized, scale, stored, weight

from millifit.targets.network import Array
from millifit.targets.program import Program
from millifit.targets.target import Target

node = helper.make_node
TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
AVX2 = x86("avx2")
DENSE = "dense"
# An activation function of "c" into "r", and the step it becomes.
FUNCTIONS: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "sigmoid": ([node("Sigmoid", ["c"], ["r"], "r")], "sigmoid"),
    "tanh": ([node("Tanh", ["c"], ["r"], "r")], "tanh"),
    "silu": ([node("Sigmoid", ["c"], ["g"], "g"), node("Mul", ["g", "c"], ["r"], "r")], "silu"),
    "hard swish": ([node("HardSwish", ["c"], ["r"], "r")], "hard_swish"),
    "hard swish in parts": (
        [node("HardSigmoid", ["c"], ["g"], "g", alpha=1 / 6), node("Mul", ["c", "g"], ["r"], "r")],
        "hard_swish",
    ),
    "hard sigmoid": ([node("HardSigmoid", ["c"], ["r"], "r", alpha=0.3)], "hard_sigmoid"),
    "gelu": ([node("Gelu", ["c"], ["r"], "r")], "gelu"),
    "gelu by tanh": ([node("Gelu", ["c"], ["r"], "r", approximate="tanh")], "gelu_tanh"),
    "leaky relu": ([node("LeakyRelu", ["c"], ["r"], "r", alpha=0.2)], "leaky_relu"),
    "elu": ([node("Elu", ["c"], ["r"], "r", alpha=0.7)], "elu"),
    "softplus": ([node("Softplus", ["c"], ["r"], "r")], "softplus"),
    "mish": ([node("Mish", ["c"], ["r"], "r")], "mish"),
    "prelu": ([node("PRelu", ["c", "slope"], ["r"], "r")], "leaky_relu"),
}


def work(program: Program) -> list[tuple[str, str, tuple[str, ...]]]:
    """Operator, precision and epilogue of every call that is no change of layout."""
    kernels = [call.kernel for call in program.calls]
    return [(k.op, k.precision, k.epilogue) for k in kernels if not k.op.startswith("to_channels")]


def assert_same(
    model: onnx.ModelProto, *targets: Target, step: float = 0.0, ties: float = 0.005
) -> None:
    """The program answers as ONNX Runtime does.

    Quantized, a share of `ties` of the values may be rounded the other way, by one step.
    """
    x = random(3, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim))
    wanted = answer(model, x)[0]
    for target in targets or TARGETS[:1]:
        off = np.abs(Compiled(lowered(model, target), target).run(x)[0] - wanted)
        if step:
            assert off.max() <= 1.001 * step
            assert np.mean(off > 0.001 * step) <= ties
        else:
            assert off.max() <= 1e-5 * max(1.0, float(np.abs(wanted).max()))


def layer_nodes(layer: str) -> tuple[list[onnx.NodeProto], dict[str, Array], tuple[int, ...]]:
    """A layer that makes "c" of "x", its constants, and the shape of "x"."""
    if layer == DENSE:
        return [node("Gemm", ["x", "w"], ["c"], "c", transB=1)], {"w": random(0, 21, 9)}, (3, 9)
    group = 6 if layer == "depthwise" else 1
    shape = (6, 6 // group, 3, 3) if layer == "depthwise" else (21, 6, 1, 1)
    pads = [1] * 4 if layer == "depthwise" else [0] * 4
    nodes = [node("Conv", ["x", "w"], ["c"], "c", group=group, pads=pads)]
    return nodes, {"w": random(0, *shape)}, (1, 6, 7, 5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_belongs_to_its_layer(name: str) -> None:
    """Behind a convolution, a depthwise and a dense layer, a function is a step of the epilogue."""
    nodes, step = FUNCTIONS[name]
    for layer in ("pointwise", "depthwise", DENSE):
        first, constants, shape = layer_nodes(layer)
        constants |= {"slope": np.float32([0.3])}
        model = onnx_model([*first, *nodes], constants, shape=shape, output="r", opset=22)
        found = work(lowered(model, TARGETS[0]))
        assert [epilogue for _, _, epilogue in found] == [(step,)]
        if layer == "pointwise" or name == "silu":
            assert_same(model)


@TARGET
def test_functions_in_a_row(target: Target) -> None:
    """Functions and an addition in order are one kernel; a second set of parameters is apart."""
    nodes = [
        node("Conv", ["x", "w"], ["b"], "b"), node("Relu", ["b"], ["c"], "c"),
        *FUNCTIONS["silu"][0], node("Add", ["r", "x"], ["s"], "s"),
        node("Clip", ["s", "low", "high"], ["t"], "t"), node("HardSwish", ["t"], ["u"], "u"),
        node("LeakyRelu", ["u"], ["y"], "y"),
    ]  # fmt: skip
    limits = {"low": np.array(-1, "f4"), "high": np.array(2, "f4")}
    model = onnx_model(nodes, {"w": random(0, 4, 4, 1, 1), **limits})
    # The residual of the addition is the input, which has to be channels-last first.
    assert work(lowered(model, target)) == [
        ("conv2d", "fp32", ("relu", "silu", "add", "clip", "hard_swish")),
        ("leaky_relu", "fp32", ()),
    ]
    assert_same(model, target)


INT8 = {**scale("a", 0.02, 120), **weight("w", (24, 4, 3, 3))}


def int8_conv(*tail: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A quantized convolution that makes "c" of "x"."""
    return [*quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["c"], "c", pads=[1] * 4),
            *tail]  # fmt: skip


@TARGET
@pytest.mark.parametrize("name", ["silu", "hard swish", "gelu", "leaky relu", "sigmoid"])
def test_int8_layer_with_a_function(target: Target, name: str) -> None:
    """DQ + conv + function + Q is one int8 kernel from uint8 to uint8."""
    nodes, step = FUNCTIONS[name]
    model = onnx_model(
        int8_conv(*nodes, *quantized("r", "y")), INT8 | scale("y", 0.01, 60), opset=22
    )
    program = lowered(model, target)
    assert ("conv2d", "int8", (step,)) in work(program)
    assert_same(model, target, step=0.01)


@TARGET
@pytest.mark.parametrize("name", ["hard swish", "tanh", "gelu"])
@pytest.mark.parametrize("ends", ["uint8", "float32"])
def test_function_of_rounded_values(target: Target, name: str, ends: str) -> None:
    """conv + Q/DQ + function: the function reads values rounded to the inner scale."""
    nodes, step = FUNCTIONS[name]
    inner = [node(n.op_type, ["q"], n.output, n.name, **_attributes(n)) for n in nodes]
    last = quantized("r", "y") if ends == "uint8" else [node("Identity", ["r"], ["y"], "y")]
    model = onnx_model(
        int8_conv(*quantized("c", "q"), *inner, *last),
        INT8 | scale("q", 0.05, 130) | scale("y", 0.02, 60), opset=22,
    )  # fmt: skip
    assert ("conv2d", "int8", ("round", step)) in work(lowered(model, target))
    assert_same(model, target, step=0.02 if ends == "uint8" else 0.0)


def _attributes(made: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in made.attribute}


@TARGET
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_gate_of_rounded_values(target: Target, rounded: bool, gate: str) -> None:
    """conv + Q/DQ + x * gate(x), each reading a DQ of its own; the gate may be rounded, too."""
    names = ["c.scale", "c.zero"]
    nodes = [
        node("QuantizeLinear", ["c", *names], ["c.q"], "c.q"),
        node("DequantizeLinear", ["c.q", *names], ["left"], "left"),
        node("DequantizeLinear", ["c.q", *names], ["right"], "right"),
        node(gate, ["left"], ["g"], "g"), *(quantized("g", "h") if rounded else []),
        node("Mul", ["right", "h" if rounded else "g"], ["r"], "r"), *quantized("r", "y"),
    ]  # fmt: skip
    scales = scale("c", 0.05, 130) | scale("h", 1 / 255, 0) | scale("y", 0.02, 10)
    model = onnx_model(int8_conv(*nodes), INT8 | scales)
    name = "hard_swish" if gate == "HardSigmoid" else "silu"
    step = f"{'hard_' * (gate != 'Sigmoid')}sigmoid_gate" if rounded else name
    assert ("conv2d", "int8", ("round", step)) in work(lowered(model, target))
    assert_same(model, target, step=0.02)


def test_values_that_others_read_stay() -> None:
    """A value with a third reader, or that is an output, is not fused away with its gate."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], "c"), *FUNCTIONS["silu"][0],
        node("Add", ["c", "r"], ["y"], "y"),
    ]  # fmt: skip
    model = onnx_model(nodes, {"w": random(0, 4, 4, 1, 1)})
    assert [(op, e) for op, _, e in work(lowered(model, AVX2))] == [
        ("conv2d", ()), ("silu", ()), ("add", ()),
    ]  # fmt: skip
    assert_same(model)


def test_kernels_do_not_depend_on_slopes() -> None:
    """alpha and beta are operands: layers that differ in them share one kernel."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], "a"), node("LeakyRelu", ["a"], ["b"], "b", alpha=0.1),
        node("Conv", ["b", "w"], ["c"], "c"), node("LeakyRelu", ["c"], ["y"], "y", alpha=0.2),
    ]  # fmt: skip
    model = onnx_model(nodes, {"w": random(0, 4, 4, 1, 1)})
    kernels = {c.kernel for c in lowered(model, AVX2).calls if c.kernel.op == "conv2d"}
    assert len(kernels) == 1
    assert_same(model)


def squeeze_and_excite(*, int8: bool) -> onnx.ModelProto:
    """A map times a gate per channel that two pointwise layers make of its means."""
    constants = {"v": random(1, 6, 24, 1, 1), "u": random(2, 24, 6, 1, 1) / 3}
    if not int8:
        nodes = [
            node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
            node("HardSwish", ["c"], ["m"], "m"), node("GlobalAveragePool", ["m"], ["p"], "p"),
            node("Conv", ["p", "v"], ["s"], "s"),
            node("Relu", ["s"], ["t"], "t"), node("Conv", ["t", "u"], ["e"], "e"),
            node("HardSigmoid", ["e"], ["g"], "g"), node("Mul", ["m", "g"], ["n"], "n"),
            node("Conv", ["n", "v"], ["y"], "y"),
        ]  # fmt: skip
        return onnx_model(nodes, {**constants, "w": random(0, 24, 4, 3, 3)})
    nodes = int8_conv(
        node("HardSwish", ["c"], ["h"], "h"), *quantized("h", "m"),
        node("GlobalAveragePool", ["m"], ["p"], "p"), *quantized("p", "pq"),
        node("Conv", ["pq", "v"], ["s"], "s"), node("Relu", ["s"], ["t"], "t"),
        *quantized("t", "tq"), node("Conv", ["tq", "u"], ["e"], "e"), *quantized("e", "eq"),
        node("HardSigmoid", ["eq"], ["g"], "g"), *quantized("g", "gq"),
        node("Mul", ["m", "gq"], ["n"], "n"), *quantized("n", "y"), stored("v"), stored("u"),
    )  # fmt: skip
    order = sorted(nodes, key=lambda n: 0 if n.input[0] in ("v.q", "u.q") else 1)
    scales = scale("m", 0.04, 10) | scale("pq", 0.01, 10) | scale("tq", 0.01, 0)
    scales |= scale("eq", 0.02, 128) | scale("gq", 1 / 255, 0) | scale("y", 0.03, 10)
    weights = weight("v", (6, 24, 1, 1), seed=1) | weight("u", (24, 6, 1, 1), seed=2)
    return onnx_model(order, {**INT8, **scales, **weights})


@TARGET
@pytest.mark.parametrize("int8", [False, True])
def test_squeeze_and_excite(target: Target, int8: bool) -> None:
    """The whole block has rules, the gates are fused, and the answer is ONNX Runtime's."""
    model = squeeze_and_excite(int8=int8)
    program = lowered(model, target)
    assert program.without_rule == ()
    precision = "int8" if int8 else "fp32"
    gate = ("round", "hard_sigmoid") if int8 else ("hard_sigmoid",)
    assert ("conv2d", precision, gate) in work(program)
    assert ("mul", precision, ()) in work(program)
    # A gate that is rounded the other way moves its whole channel, one of 24.
    assert_same(model, target, step=0.03 if int8 else 0.0, ties=1 / 24)
