"""Lowering: what is fused, in which precision, and that every program computes what ONNX means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from kernels import TARGETS, x86
from onnx import TensorProto, helper
from onnx_models import Floats, answer, integers, onnx_model, random
from programs import Compiled, lowered, quantized, scale, stored, weight
from random_networks import random_network

from millifit.compress.evaluate import outputs
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.errors import ModelError, UnsupportedOperator
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.network import Array, Network
from millifit.targets.program import Call, Program
from millifit.targets.target import Precision, Target

AVX2, VNNI = x86("avx2"), x86("avx512_vnni")
TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
LAYOUT = ("to_channels_last", "to_channels_first")
W = random(0, 8, 4, 3, 3)
SQUARE = random(1, 8, 8, 3, 3)
node = helper.make_node


def conv(source: str, made: str, weights: str = "w", *, padded: bool = True) -> onnx.NodeProto:
    """A 3x3 convolution named after its output."""
    return node("Conv", [source, weights], [made], made, pads=[int(padded)] * 4)


def work(program: Program) -> list[tuple[str, str, tuple[str, ...]]]:
    """Operator, precision and epilogue of every call that is no change of layout."""
    kernels = [call.kernel for call in program.calls]
    return [(k.op, k.precision, k.epilogue) for k in kernels if k.op not in LAYOUT]


def call_of(program: Program, name: str) -> Call:
    """The call whose anchor is that node."""
    return next(call for call in program.calls if call.nodes[:1] == (name,))


def assert_same(
    model: onnx.ModelProto, *, step: float = 0.0, targets: Sequence[Target] = TARGETS
) -> None:
    """On every target the program answers as ONNX Runtime does, unoptimized.

    `step` is that of a quantized output: sums that differ in their last bit may round apart, rarely
    and by one step.
    """
    assert targets, "no instruction set of this machine is known to the tests"
    x = random(3, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim))
    wanted = answer(model, x)
    for target in targets:
        made = Compiled(lowered(model, target), target).run(x)
        for found, right in zip(made, wanted, strict=True):
            assert found.shape == right.shape
            off = np.abs(found - right)
            if step:
                assert off.max() <= 1.001 * step
                assert np.mean(off > 0.001 * step) <= 0.01
            else:
                assert off.max() <= 2e-5 * max(1.0, np.abs(right).max())


@pytest.mark.parametrize(
    ("nodes", "epilogue"),
    [
        ([node("Relu", ["c"], ["y"], "act")], ("relu",)),
        ([node("Clip", ["c", "zero", "six"], ["y"], "act")], ("clip",)),
        ([node("Clip", ["c", "minus", "six"], ["y"], "act")], ("clip",)),
        ([node("Relu", ["c"], ["r"], "r"), node("Clip", ["r", "minus", "six"], ["y"], "act")],
         ("clip",)),
    ],
    ids=["relu", "relu6", "hardtanh", "relu and clip"],
)  # fmt: skip
def test_activation_belongs_to_its_convolution(
    nodes: list[onnx.NodeProto], epilogue: tuple[str, ...]
) -> None:
    """Relu, Clip and both in a row are the epilogue of the convolution, with the limits of both."""
    limits = {"zero": np.float32(0), "six": np.float32(0.6), "minus": np.float32(-0.4)}
    model = onnx_model(
        [conv("x", "c"), *nodes], {"w": W, **{k: np.array(v) for k, v in limits.items()}}
    )
    program = lowered(model, AVX2)
    assert work(program) == [("conv2d", "fp32", epilogue)]
    assert call_of(program, "c").nodes[-1] == "act"
    assert_same(model)


def test_value_that_others_need_is_not_fused_away() -> None:
    """An activation function stays alone where its input is an output, or read twice."""
    twice = [conv("x", "c"), node("Relu", ["c"], ["r"], "r"), node("Mul", ["r", "c"], ["y"], "m")]
    model = onnx_model(twice, {"w": W})
    assert [op for op, _, _ in work(lowered(model, AVX2))] == ["conv2d", "relu", "mul"]
    assert_same(model)
    output = onnx_model([conv("x", "c"), node("Relu", ["c"], ["y"], "r")], {"w": W})
    output.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    assert [op for op, _, _ in work(lowered(output, AVX2))] == ["conv2d", "relu"]
    assert_same(output)


@pytest.mark.parametrize("swapped", [False, True])
def test_addition_belongs_to_the_convolution_that_ends_it(swapped: bool) -> None:
    """conv + add + relu is one kernel that reads the residual, whichever operand that is."""
    operands = ["b", "r"] if swapped else ["r", "b"]
    nodes = [
        conv("x", "a"), node("Relu", ["a"], ["r"], "r"), conv("r", "b", "v"),
        node("Add", operands, ["s"], "s"), node("Relu", ["s"], ["y"], "end"),
    ]  # fmt: skip
    model = onnx_model(nodes, {"w": W, "v": SQUARE})
    program = lowered(model, AVX2)
    assert work(program) == [("conv2d", "fp32", ("relu",)), ("conv2d", "fp32", ("add", "relu"))]
    last = call_of(program, "b")
    assert last.nodes == ("b", "s", "end")
    assert last.inputs == ("r", "r")
    assert_same(model)


def test_activation_before_an_addition_is_fused_in_order() -> None:
    """conv + relu + add + clip: the epilogue is relu, add, clip."""
    nodes = [
        conv("x", "a"), conv("a", "b", "v"), node("Relu", ["b"], ["r"], "r"),
        node("Add", ["a", "r"], ["s"], "s"), node("Clip", ["s", "low", "high"], ["y"], "end"),
    ]  # fmt: skip
    bounds = {"low": np.array(-1, "f4"), "high": np.array(2, "f4")}
    model = onnx_model(nodes, {"w": W, "v": SQUARE, **bounds})
    assert work(lowered(model, AVX2))[1] == ("conv2d", "fp32", ("relu", "add", "clip"))
    assert_same(model)


def test_addition_belongs_to_the_later_of_its_two_layers() -> None:
    """What is computed after a convolution cannot be its residual, but the other way round."""
    nodes = [
        conv("x", "a"), node("Sigmoid", ["x"], ["g"], "g"), conv("g", "b"),
        node("Sigmoid", ["b"], ["h"], "h"), node("Add", ["a", "h"], ["y"], "s"),
    ]  # fmt: skip
    model = onnx_model(nodes, {"w": W})
    assert work(lowered(model, AVX2)) == [
        ("conv2d", "fp32", ()), ("sigmoid", "fp32", ()), ("conv2d", "fp32", ("sigmoid", "add")),
    ]  # fmt: skip
    assert_same(model)


def test_clip_before_an_addition_keeps_the_addition_apart() -> None:
    """A kernel has one pair of limits: conv + clip + add is two kernels."""
    nodes = [
        conv("x", "a"), conv("a", "b", "v"), node("Clip", ["b", "low", "high"], ["r"], "r"),
        node("Add", ["a", "r"], ["y"], "s"),
    ]  # fmt: skip
    bounds = {"low": np.array(0, "f4"), "high": np.array(0.5, "f4")}
    model = onnx_model(nodes, {"w": W, "v": SQUARE, **bounds})
    assert work(lowered(model, AVX2))[1:] == [("conv2d", "fp32", ("clip",)), ("add", "fp32", ())]
    assert_same(model)


@pytest.mark.parametrize("zero", [100, 20])
def test_quantized_convolution_is_an_int8_kernel(zero: int) -> None:
    """Q/DQ around conv + relu is one kernel from uint8 to uint8; its limits are those of relu."""
    nodes = [
        *quantized("x", "a"), stored("w"), node("Conv", ["a", "w", "bias"], ["c"], "c"),
        node("Relu", ["c"], ["r"], "r"), *quantized("r", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("y", 0.05, zero) | weight("w", (8, 4, 3, 3))
    model = onnx_model(nodes, {**constants, "bias": random(1, 8)})
    program = lowered(model, AVX2)
    kernel = call_of(program, "c").kernel
    assert (kernel.op, kernel.precision, kernel.epilogue) == ("conv2d", "int8", ())
    assert (kernel.inputs[0].dtype, kernel.output.dtype) == ("uint8", "uint8")
    assert call_of(program, "c").constants["act_low"] == 0
    assert call_of(program, "c").constants["weight"].dtype == np.int8
    assert_same(model, step=0.05)


def test_quantized_convolution_may_end_in_real_values() -> None:
    """Without a Q behind it an int8 layer writes float32: nothing is rounded that need not be."""
    nodes = [*quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["y"], "c")]
    model = onnx_model(nodes, scale("a", 0.02, 120) | weight("w", (8, 4, 3, 3)))
    program = lowered(model, AVX2)
    assert work(program) == [("conv2d", "int8", ())]
    assert call_of(program, "c").kernel.output.dtype == "float32"
    assert_same(model)


def test_signed_activations_are_shifted() -> None:
    """int8 activations are the same kernels with zero points 128 higher, and the same values."""

    def model(dtype: str, shift: int) -> onnx.ModelProto:
        nodes = [
            *quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["c"], "c"),
            *quantized("c", "b"), node("MaxPool", ["b"], ["p"], "p", kernel_shape=[2, 2]),
            *quantized("p", "y"),
        ]  # fmt: skip
        scales = scale("a", 0.02, 120 - shift, dtype=dtype) | scale(
            "b", 0.05, 90 - shift, dtype=dtype
        )
        scales |= {f"y.{part}": scales[f"b.{part}"] for part in ("scale", "zero")}
        return onnx_model(nodes, scales | weight("w", (8, 4, 3, 3)))

    signed, unsigned = lowered(model("int8", 128), AVX2), lowered(model("uint8", 0), AVX2)
    assert signed.kernels == unsigned.kernels
    assert call_of(signed, "c").constants["output_zero_point"] == 90
    assert_same(model("int8", 128), step=0.05)


def test_signed_activations_without_a_zero_point() -> None:
    """Where there is no zero point the type is that of the tensor."""
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], "q", output_dtype=TensorProto.INT8),
        node("DequantizeLinear", ["q", "s"], ["y"], "dq"),
    ]
    assert_same(onnx_model(nodes, {"s": np.array(0.03, "f4")}, opset=21), step=0.03)


@pytest.mark.parametrize(
    ("constants", "attributes"),
    [
        ({"s": np.array(0.03, "f4"), "z": np.array(0, np.uint16)}, {}),
        ({"s": np.full(4, 0.03, "f4"), "z": np.zeros(4, np.uint8)}, {"axis": 1}),
    ],
    ids=["16 bits", "per channel"],
)
def test_other_quantizations_of_activations_are_refused(
    constants: dict[str, Array], attributes: dict[str, int]
) -> None:
    """Activations of 16 bits or with a scale per channel are a ModelError that names the node."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quant", **attributes),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], "dq", **attributes),
    ]
    with pytest.raises(ModelError, match=r"'quant' .* per tensor to uint8 or int8"):
        lowered(onnx_model(nodes, constants, opset=21), AVX2)


def _residual(*, ready: bool = True, other_scale: bool = False) -> onnx.ModelProto:
    """``conv -> relu -> b -> conv -> e``, ``b + e -> relu``, everything quantized.

    Unless `ready` a convolution of the input takes the place of ``b`` in the addition, which comes
    last. With `other_scale` ``e`` is dequantized at another scale than it was quantized at.
    """
    end = [*quantized("d", "e")]
    if other_scale:
        end[1].input[1] = "f.scale"
    shortcut = [] if ready else [node("Conv", ["a", "u"], ["k"], "k"), *quantized("k", "g")]
    nodes = [
        *quantized("x", "a"), stored("w"), stored("v"), stored("u"),
        node("Conv", ["a", "w"], ["c"], "c", pads=[1] * 4),
        node("Relu", ["c"], ["r"], "r"), *quantized("r", "b"),
        node("Conv", ["b", "v"], ["d"], "d", pads=[1] * 4), *end, *shortcut,
        node("Add", ["b" if ready else "g", "e"], ["s"], "s"),
        node("Relu", ["s"], ["t"], "t"), *quantized("t", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("b", 0.05, 0) | scale("e", 0.07, 130)
    constants |= scale("g", 0.03, 110) | scale("f", 0.14, 130) | scale("y", 0.09, 0)
    constants |= weight("w", (8, 4, 3, 3)) | weight("v", (8, 8, 3, 3), seed=4)
    return onnx_model(nodes, constants | weight("u", (8, 4, 1, 1), seed=5))


def test_quantized_addition_belongs_to_its_convolution() -> None:
    """conv -> Q -> DQ -> Add -> relu -> Q is one kernel of two uint8 inputs."""
    program = lowered(_residual(), AVX2)
    assert [op for op in work(program) if op[1] == "int8"] == [
        ("conv2d", "int8", ()), ("conv2d", "int8", ("add",)),
    ]  # fmt: skip
    call = call_of(program, "d")
    assert call.nodes == ("d", "e.q", "e.dq", "s", "t", "y.q")
    assert [kind.dtype for kind in call.kernel.inputs] == ["uint8", "uint8"]
    assert_same(_residual(), step=0.09)


def test_quantized_addition_is_an_int8_kernel_where_its_residual_is_not_ready() -> None:
    """The operand that is computed last takes the addition in; none is dequantized."""
    program = lowered(_residual(ready=False), AVX2)
    assert [epilogue for op, _, epilogue in work(program) if op == "conv2d"] == [
        (), (), ("add",),
    ]  # fmt: skip
    assert call_of(program, "k").nodes == ("k", "g.q", "g.dq", "s", "t", "y.q")
    assert_same(_residual(ready=False), step=0.09)


def test_value_read_at_another_scale_is_not_fused() -> None:
    """A DequantizeLinear that reads other values than were quantized is no pair with its Q."""
    program = lowered(_residual(other_scale=True), AVX2)
    assert call_of(program, "d").nodes == ("d", "e.q")
    assert_same(_residual(other_scale=True), step=0.09)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool", "GlobalAveragePool"])
def test_pools_of_quantized_maps_are_int8(pool: str) -> None:
    """Pooling between int8 tensors reads and writes uint8."""
    attributes = {} if pool == "GlobalAveragePool" else {"kernel_shape": [3, 3], "strides": [2, 2]}
    nodes = [
        *quantized("x", "a"), node(pool, ["a"], ["p"], "p", **attributes), *quantized("p", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("y", 0.02, 120)
    program = lowered(onnx_model(nodes, constants), AVX2)
    kernel = call_of(program, "p").kernel
    assert (kernel.precision, kernel.inputs[0].dtype, kernel.output.dtype) == (
        "int8", "uint8", "uint8",
    )  # fmt: skip
    assert_same(onnx_model(nodes, constants), step=0.02)


def _dense(op: str, *, trans: int, int8: bool) -> onnx.ModelProto:
    rows = trans == 1
    shape, axis = ((10, 16), 0) if rows else ((16, 10), 1)
    attributes = {"transB": trans} if op == "Gemm" else {}
    inputs = ["x", "w", "bias"] if op == "Gemm" else ["x", "w"]
    constants: dict[str, Array] = {"bias": random(1, 10)} if op == "Gemm" else {}
    if not int8:
        nodes = [node(op, inputs, ["y"], "fc", **attributes)]
        return onnx_model(nodes, constants | {"w": random(2, *shape)}, shape=(1, 16))
    nodes = [
        *quantized("x", "a"), stored("w", axis=axis),
        node(op, ["a", *inputs[1:]], ["y"], "fc", **attributes),
    ]  # fmt: skip
    constants |= scale("a", 0.02, 120) | weight("w", shape, axis=axis)
    return onnx_model(nodes, constants, shape=(1, 16))


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize(("op", "trans"), [("Gemm", 0), ("Gemm", 1), ("MatMul", 0)])
def test_dense_layers_of_either_orientation(op: str, trans: int, int8: bool) -> None:
    """Gemm with transB 0 or 1 and MatMul are dense kernels, quantized per output channel too."""
    model = _dense(op, trans=trans, int8=int8)
    precision = "int8" if int8 else "fp32"
    assert work(lowered(model, AVX2))[-1] == ("dense", precision, ())
    assert_same(model)


def test_weight_quantized_along_its_inputs_stays_fp32() -> None:
    """A scale per input channel cannot leave the sum: the layer is fp32, and right."""
    nodes = [
        *quantized("x", "a"), stored("w", axis=1),
        node("Gemm", ["a", "w"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | weight("w", (10, 16), axis=1)
    model = onnx_model(nodes, constants, shape=(1, 16))
    assert work(lowered(model, AVX2))[-1] == ("dense", "fp32", ())
    assert_same(model)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_depthwise_convolution_has_a_kernel_of_its_own(int8: bool) -> None:
    """One filter per channel is a depthwise kernel; grouped is a convolution with groups."""
    names, first, constants = ["x", "w"], [], {"w": random(0, 4, 1, 3, 3)}
    if int8:
        names, first = ["a", "w"], [*quantized("x", "a"), stored("w")]
        constants = scale("a", 0.02, 120) | weight("w", (4, 1, 3, 3))
    precision = "int8" if int8 else "fp32"
    nodes = [*first, node("Conv", names, ["y"], "c", group=4, pads=[1] * 4, strides=[2, 2])]
    model = onnx_model(nodes, constants)
    assert work(lowered(model, AVX2)) == [("depthwise_conv2d", precision, ())]
    assert_same(model)
    grouped = onnx_model(
        [node("Conv", ["x", "w"], ["y"], "c", group=2)], {"w": random(0, 6, 2, 3, 3)}
    )
    kernel = call_of(lowered(grouped, AVX2), "c").kernel
    assert (kernel.op, kernel.attribute("groups")) == ("conv2d", 2)


@pytest.mark.parametrize(
    ("last", "constants"),
    [
        (node("Softmax", ["c"], ["y"], "odd", axis=1), {}),
        (node("Sin", ["c"], ["y"], "odd"), {}),
        (node("CumSum", ["c", "axis"], ["y"], "odd"), {"axis": integers(2)[0]}),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_operator_without_a_rule_runs_and_is_named(
    last: onnx.NodeProto, constants: dict[str, Array]
) -> None:
    """An operator that has no schedule is reported with its node, and computes the same."""
    model = onnx_model([conv("x", "c"), last], {"w": W, **constants})
    program = lowered(model, AVX2)
    named = [(call.kernel.attribute("operator"), call.nodes) for call in program.without_rule]
    assert named == [(last.op_type, ("odd",))]
    assert_same(model, targets=TARGETS[:1])  # no instruction set is chosen here


def test_equal_operators_without_a_rule_are_one_kernel() -> None:
    """The names of nodes and tensors are no part of a kernel."""
    nodes = [
        node("Sin", ["x"], ["a"], "first"), conv("a", "b", "v"), node("Sin", ["b"], ["y"], "second")
    ]  # fmt: skip
    program = lowered(onnx_model(nodes, {"v": random(0, 4, 4, 3, 3)}), AVX2)
    assert [call.nodes for call in program.without_rule] == [("first",), ("second",)]
    assert len({call.kernel for call in program.without_rule}) == 1


def test_squeeze_and_excite_has_rules_throughout() -> None:
    """A gate per channel multiplies the map without leaving our kernels."""
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"], "p"), node("Conv", ["p", "w"], ["q"], "q"),
        node("Sigmoid", ["q"], ["g"], "g"), node("Mul", ["g", "x"], ["y"], "m"),
    ]  # fmt: skip
    model = onnx_model(nodes, {"w": random(0, 4, 4, 1, 1)})
    assert lowered(model, AVX2).without_rule == ()
    assert_same(model)


def test_unsupported_operator_is_named_with_its_node() -> None:
    """An operator that nothing can run is refused by name, before anything is compiled."""
    model = onnx_model([conv("x", "c"), node("LpNormalization", ["c"], ["y"], "norm_7")], {"w": W})
    with pytest.raises(UnsupportedOperator, match=r"'LpNormalization' of node 'norm_7'") as refused:
        lowered(model, AVX2)
    assert (refused.value.op, refused.value.node) == ("LpNormalization", "norm_7")


def test_several_outputs_are_refused() -> None:
    """A node of which two outputs are needed is a ModelError that names it."""
    nodes = [
        node("TopK", ["x", "k"], ["a", "at"], "largest"), node("Cast", ["at"], ["b"], "b", to=1),
        node("Add", ["a", "b"], ["y"], "s"),
    ]  # fmt: skip
    with pytest.raises(ModelError, match=r"'largest' \(TopK\) has several outputs"):
        lowered(onnx_model(nodes, {"k": integers(2)}), AVX2)


def test_batch_of_two_is_refused() -> None:
    """A map of batch 2 is a ModelError that says how to get batch 1."""
    model = onnx_model([conv("x", "y")], {"w": W}, shape=(2, 4, 8, 8))
    with pytest.raises(ModelError, match=r"'x' has batch 2.*--input-shape 1,"):
        lowered(model, AVX2)


def _deep(depth: int, *, value: int, bias: float = 0.0) -> onnx.ModelProto:
    nodes = [
        *quantized("x", "a"), stored("w"),
        node("Gemm", ["a", "w", "bias"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    constants = scale("a", 0.02, 0) | weight("w", (2, depth))
    constants["w.q"] = np.full((2, depth), value, np.int8)
    constants["bias"] = np.array([bias, -bias], "f4")
    return onnx_model(nodes, constants, shape=(1, depth))


@pytest.mark.parametrize(
    ("depth", "value", "bias", "precision"),
    [
        (66_311, 127, 0.0, "int8"),
        (66_312, 127, 0.0, "fp32"),
        (66_312, 1, 0.0, "fp32"),
        (66_311, -128, 0.0, "fp32"),
        (64, 127, 1e3, "int8"),
        (64, 127, 1e6, "fp32"),
    ],
    ids=["deepest", "too deep", "too deep for any weights", "-128", "bias", "large bias"],
)
def test_sums_that_could_overflow_stay_fp32(
    depth: int, value: int, bias: float, precision: str
) -> None:
    """An int8 layer whose sums could leave int32 runs in fp32; the deepest that cannot is exact."""
    model = _deep(depth, value=value, bias=bias)
    assert work(lowered(model, AVX2))[-1] == ("dense", precision, ())
    x = np.full((1, depth), 255 * 0.02, np.float32)
    (wanted,) = answer(model, x)
    for target in TARGETS:
        (made,) = Compiled(lowered(model, target), target).run(x)
        np.testing.assert_allclose(made, wanted, rtol=1e-3)  # ONNX Runtime sums floats here


def test_large_depthwise_filters_stay_fp32() -> None:
    """Depthwise sums are exact floats up to 518 taps; 23x23 are too many."""
    for size, precision in ((22, "int8"), (23, "fp32")):
        nodes = [*quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["y"], "c", group=2)]
        constants = scale("a", 0.02, 120) | weight("w", (2, 1, size, size))
        model = onnx_model(nodes, constants, shape=(1, 2, 24, 24))
        assert work(lowered(model, AVX2))[-1] == ("depthwise_conv2d", precision, ())


def test_seven_bit_weights_are_recognised_where_they_are_faster() -> None:
    """Weights within -64..64 are w7a8 on avx2; not on others, nor in depthwise layers."""

    def precision(largest: int, target: Target, shape: tuple[int, ...], group: int) -> Precision:
        nodes = [
            *quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["y"], "c", group=group)
        ]  # fmt: skip
        constants = scale("a", 0.02, 120) | weight("w", shape, largest=largest)
        constants["w.q"].flat[0] = largest
        program = lowered(onnx_model(nodes, constants), target)
        return call_of(program, "c").kernel.precision

    dense, depthwise = (8, 4, 3, 3), (4, 1, 3, 3)
    assert precision(64, AVX2, dense, 1) == "w7a8"
    assert precision(65, AVX2, dense, 1) == "int8"
    assert precision(64, VNNI, dense, 1) == "int8"
    assert precision(64, AVX2, depthwise, 4) == "int8"


def test_quantization_that_nothing_reads_as_integers() -> None:
    """Q and DQ alone, and a Q of a quantized tensor at another scale, change values as they say."""
    nodes = [*quantized("x", "a"), *quantized("a", "y")]
    model = onnx_model(nodes, scale("a", 0.02, 120) | scale("y", 0.05, 30))
    assert [op for op, _, _ in work(lowered(model, AVX2))] == ["requantize", "dequantize"]
    assert_same(model, step=0.05)


def test_views_of_maps_keep_onnx_order() -> None:
    """A map that is flattened is read channels first, quantized or not."""
    nodes = [
        *quantized("x", "a"), node("Flatten", ["a"], ["f"], "f"), *quantized("f", "b"),
        stored("w"), node("Gemm", ["b", "w"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | weight("w", (5, 256))
    constants |= {f"b.{part}": constants[f"a.{part}"] for part in ("scale", "zero")}
    model = onnx_model(nodes, constants)
    assert work(lowered(model, AVX2))[-1] == ("dense", "int8", ())
    assert_same(model)
    assert_same(onnx_model([conv("x", "c"), node("Flatten", ["c"], ["y"], "f")], {"w": W}))


def test_kernels_do_not_depend_on_scales() -> None:
    """Two int8 layers of one shape are one kernel: their scales are operands."""
    nodes = [
        *quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["c"], "c", pads=[1] * 4),
        *quantized("c", "b"), stored("v"), node("Conv", ["b", "v"], ["d"], "d", pads=[1] * 4),
        *quantized("d", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("b", 0.05, 90) | scale("y", 0.3, 7)
    constants |= weight("w", (4, 4, 3, 3)) | weight("v", (4, 4, 3, 3), seed=2)
    program = lowered(onnx_model(nodes, constants), AVX2)
    assert call_of(program, "c").kernel == call_of(program, "d").kernel
    assert call_of(program, "c").constants["input_scale"] != 0.05


def _network(seed: int) -> tuple[Network, Floats]:
    """A random network and 200 samples for it."""
    model, shape = random_network(seed)
    return simplify(from_onnx(model, name="random")), random(seed, 200, *shape)


@TARGET
@pytest.mark.parametrize("seed", [3, 6, 16])
def test_random_networks_in_fp32(seed: int, target: Target) -> None:
    """Whole networks agree with ONNX Runtime to a relative error of 1e-4."""
    network, x = _network(seed)
    x = x[:10]
    wanted = outputs(network, x)
    made = Compiled(lower(network, target), target).run_each(x)
    assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max()


@TARGET
@pytest.mark.parametrize(("seed", "precision"), [(1, "int8"), (13, "w7a8"), (16, "int8")])
def test_random_networks_quantized(seed: int, precision: Precision, target: Target) -> None:
    """Quantized here and run as integers, they agree with ONNX Runtime on the same Q/DQ model.

    At least 99 % of the values within 2/255 of the range, top-1 equal on at least 99.5 % of the
    samples; a fifth of the layers stays fp32, so that both precisions meet.
    """
    network, x = _network(seed)
    rng = np.random.default_rng(seed)
    precisions: dict[str, Precision] = {
        n.name: "fp32" if rng.random() < 0.2 else precision for n in network.layers
    }
    ranges = calibrate(network, x[:32], method="min_max")
    compressed = quantize(network, precisions, ranges)
    program = lower(compressed, target)
    assert {"int8", "fp32"} <= {call.kernel.precision for call in program.calls}
    wanted = outputs(compressed, x)
    made = Compiled(program, target).run_each(x)
    within = np.abs(made - wanted) <= 2 / 255 * np.ptp(wanted)
    assert np.mean(within) >= 0.99
    assert np.mean(made.argmax(axis=1) == wanted.argmax(axis=1)) >= 0.995
