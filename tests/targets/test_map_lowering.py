"""Small networks of operators on maps: they have rules, and compute what ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from kernels import TARGETS, x86
from onnx import TensorProto, helper
from onnx_models import answer, integers, onnx_model, random
from programs import Compiled, lowered, quantized, scale, stored, weight

from millifit.compress.evaluate import outputs
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.errors import ModelError
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.network import Array
from millifit.targets.program import Program
from millifit.targets.target import Target

AVX2 = x86("avx2")
node = helper.make_node
LAYOUT = ("to_channels_last", "to_channels_first", "reshape")


def work(program: Program) -> list[str]:
    """The operators of all calls that are no change of layout."""
    return [call.kernel.op for call in program.calls if call.kernel.op not in LAYOUT]


def types(program: Program) -> set[str]:
    """Element types that kernels write."""
    return {call.kernel.output.dtype for call in program.calls}


def assert_same(
    model: onnx.ModelProto, *, step: float = 0.0, targets: Sequence[Target] = TARGETS[:1]
) -> Program:
    """Every operator has a rule, and the program answers as ONNX Runtime does; the program.

    `step` is that of a quantized output, by which few values may be off.
    """
    x = random(3, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim))
    wanted = answer(model, x)
    for target in targets:
        program = lowered(model, target)
        assert program.without_rule == ()
        for found, right in zip(Compiled(program, target).run(x), wanted, strict=True):
            assert found.shape == right.shape
            assert found.dtype == right.dtype
            off = np.abs(found - right)
            assert off.max() <= (1.001 * step if step else 2e-5 * max(1.0, np.abs(right).max()))
            assert not step or np.mean(off > 0.001 * step) <= 0.01
    return program


def conv(source: str, made: str, weights: str = "w", **attributes: object) -> onnx.NodeProto:
    """A 3x3 convolution named after its output."""
    return node("Conv", [source, weights], [made], made, **{"pads": [1] * 4, **attributes})


W = random(0, 8, 4, 3, 3)
Q = np.array([0.02], "f4")


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat_of_maps(axis: int) -> None:
    """Maps are joined along any axis, without leaving channels-last layout."""
    nodes = [conv("x", "a"), conv("x", "b", "v"), node("Concat", ["a", "b"], ["y"], "j", axis=axis)]
    program = assert_same(onnx_model(nodes, {"w": W, "v": random(1, 8, 4, 3, 3)}))
    assert work(program) == ["conv2d", "conv2d", "concat"]
    assert program.calls[-1].kernel.op == "to_channels_first"


def test_concat_of_rows() -> None:
    """Matrices are joined too."""
    nodes = [node("Concat", ["x", "x", "x"], ["y"], "j", axis=1)]
    assert work(assert_same(onnx_model(nodes, shape=(1, 7)))) == ["concat"]


@pytest.mark.parametrize("same", [True, False])
def test_quantized_concat(same: bool) -> None:
    """Quantized parts are joined as bytes; those of another scale are requantized, exactly."""
    nodes = [
        *quantized("x", "a"), node("MaxPool", ["a"], ["m"], "m", kernel_shape=[3, 3], pads=[1] * 4),
        node("Relu", ["x"], ["r"], "r"), *quantized("r", "b"),
        node("Concat", ["m", "b"], ["c"], "c", axis=1), *quantized("c", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("b", 0.02 if same else 0.013, 120 if same else 0)
    model = onnx_model(nodes, constants | scale("y", 0.02, 120))
    program = lowered(model, AVX2)
    joined = next(call.kernel for call in program.calls if call.kernel.op == "concat")
    assert [kind.dtype for kind in joined.inputs] == ["uint8", "uint8"]
    assert dict(joined.attributes).get("requantized", ()) == (() if same else (1,))
    x = random(3, 1, 4, 8, 8)
    np.testing.assert_array_equal(
        Compiled(lowered(model, TARGETS[0]), TARGETS[0]).run(x)[0], answer(model, x)[0]
    )


def test_concat_without_a_common_scale() -> None:
    """Parts of several scales that nothing quantizes afterwards are joined as real values."""
    nodes = [
        *quantized("x", "a"), *quantized("x", "b"), node("Concat", ["a", "b"], ["y"], "c", axis=1),
    ]  # fmt: skip
    assert_same(onnx_model(nodes, scale("a", 0.02, 120) | scale("b", 0.03, 100)))


MOVEMENTS: list[tuple[str, list[onnx.NodeProto], Mapping[str, Array]]] = [
    ("slice", [node("Slice", ["c", "start", "end", "axes", "step"], ["y"], "s")],
     {"start": integers(1, -2), "end": integers(100, 0), "axes": integers(1, 3),
      "step": integers(2, -1)}),
    ("split", [node("Split", ["c", "sizes"], ["p", "q", "r"], "s", axis=1),
               node("Mul", ["p", "r"], ["y"], "m")], {"sizes": integers(3, 2, 3)}),
    ("pad", [node("Pad", ["c", "by"], ["y"], "p")], {"by": integers(0, 1, 2, 0, 0, 2, 1, 3)}),
    ("reflect", [node("Pad", ["c", "by"], ["y"], "p", mode="reflect")],
     {"by": integers(0, 0, 2, 1, 0, 0, 3, 2)}),
    ("edge", [node("Pad", ["c", "by", "", "axes"], ["y"], "p", mode="edge")],
     {"by": integers(2, 1, 0, 3), "axes": integers(2, 3)}),
    ("depth_to_space", [node("DepthToSpace", ["c"], ["y"], "d", blocksize=2)], {}),
    ("pixel shuffle", [node("DepthToSpace", ["c"], ["y"], "d", blocksize=2, mode="CRD")], {}),
    ("space_to_depth", [node("SpaceToDepth", ["c"], ["y"], "d", blocksize=2)], {}),
    ("channel shuffle", [node("Reshape", ["c", "split"], ["g"], "g"),
                         node("Transpose", ["g"], ["t"], "t", perm=[0, 2, 1, 3, 4]),
                         node("Reshape", ["t", "join"], ["y"], "j")],
     {"split": integers(1, 2, 4, 8, 8), "join": integers(1, 8, 8, 8)}),
    ("shuffle by reshapes", [node("Reshape", ["c", "split"], ["g"], "g"),
                             node("Transpose", ["g"], ["t"], "t", perm=[0, 1, 4, 2, 5, 3]),
                             node("Reshape", ["t", "join"], ["y"], "j")],
     {"split": integers(1, 2, 2, 2, 8, 8), "join": integers(1, 2, 16, 16)}),
    ("nearest", [node("Resize", ["c", "", "by"], ["y"], "r", mode="nearest")],
     {"by": np.array([1, 1, 2, 1.5], "f4")}),
    ("transpose", [node("Transpose", ["c"], ["y"], "t", perm=[0, 2, 3, 1])], {}),
    ("reshape", [node("Reshape", ["c", "shape"], ["y"], "t")], {"shape": integers(1, 4, 2, 64)}),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants"), [m[1:] for m in MOVEMENTS],
                         ids=[m[0] for m in MOVEMENTS])  # fmt: skip
def test_movements(nodes: list[onnx.NodeProto], constants: Mapping[str, Array]) -> None:
    """What moves values is exact behind a convolution."""
    assert_same(onnx_model([conv("x", "c"), *nodes], {"w": W, **constants}))


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [m[1:] for m in MOVEMENTS if m[0] not in ("split", "transpose", "reshape")],
    ids=[m[0] for m in MOVEMENTS if m[0] not in ("split", "transpose", "reshape")],
)
def test_quantized_movements(nodes: list[onnx.NodeProto], constants: Mapping[str, Array]) -> None:
    """Between Q/DQ pairs of one scale bytes move, and nothing is dequantized before the end."""
    given = [
        *quantized("x", "a"), stored("w"), conv("a", "d"), *quantized("d", "c"), *nodes[:-1],
        node(nodes[-1].op_type, nodes[-1].input, ["z"], "z",
             **{a.name: helper.get_attribute_value(a) for a in nodes[-1].attribute}),
        *quantized("z", "y"),
    ]  # fmt: skip
    scales = scale("a", 0.02, 120) | scale("c", 0.05, 130) | scale("y", 0.05, 130)
    model = onnx_model(given, {**scales, **weight("w", (8, 4, 3, 3)), **constants})
    program = assert_same(model, step=0.05)
    written = [call.kernel.output.dtype for call in program.calls if call.kernel.op not in LAYOUT]
    assert written == ["uint8"] * (len(written) - 1) + ["float32"]


def test_padding_with_a_value_is_real() -> None:
    """A value that eight bits may not hold is padded in real values."""
    nodes = [*quantized("x", "a"), node("Pad", ["a", "by", "v"], ["y"], "p")]
    constants = {"by": integers(0, 0, 1, 1, 0, 0, 1, 1), "v": np.array(0.333, "f4")}
    assert_same(onnx_model(nodes, {**scale("a", 0.02, 120), **constants}))


RULES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, rule: str) -> None:
    """Every mode and convention, larger and smaller, by scales and by sizes."""
    for amount in ({"by": np.array([1, 1, 2.5, 0.75], "f4")}, {"to": integers(1, 4, 5, 17)}):
        names = ["", "by"] if "by" in amount else ["", "", "to"]
        nodes = [node("Resize", ["x", *names], ["y"], "r", mode=mode,
                      coordinate_transformation_mode=rule)]  # fmt: skip
        program = assert_same(onnx_model(nodes, amount, opset=19))
        assert work(program) == ["resize"]


@pytest.mark.parametrize("rule", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_rounds_as_asked(rule: str) -> None:
    """Positions half way between two take the side that the model says."""
    nodes = [node("Resize", ["x", "", "by"], ["y"], "r", nearest_mode=rule)]
    assert_same(onnx_model(nodes, {"by": np.array([1, 1, 0.5, 1.6], "f4")}))


def test_quantized_linear_resize() -> None:
    """Bytes are mixed and rounded once in one kernel."""
    nodes = [
        *quantized("x", "a"), node("Resize", ["a", "", "by"], ["r"], "r", mode="linear"),
        *quantized("r", "y"),
    ]  # fmt: skip
    constants = {**scale("a", 0.02, 120), **scale("y", 0.0317, 110)}  # no ties
    model = onnx_model(nodes, {**constants, "by": np.array([1, 1, 2, 2], "f4")})
    program = assert_same(model, step=0.0317)
    resized = next(call.kernel for call in program.calls if call.kernel.op == "resize")
    assert (resized.inputs[0].dtype, resized.output.dtype) == ("uint8", "uint8")


def test_old_upsample() -> None:
    """Upsample of opset 9 is read as Resize."""
    nodes = [node("Upsample", ["x", "by"], ["y"], "u", mode="nearest")]
    model = onnx_model(nodes, {"by": np.array([1, 1, 2, 3], "f4")}, opset=9)
    assert work(assert_same(model)) == ["resize"]


TRANSPOSED = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
    {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4},
    {"kernel_shape": [3, 5], "strides": [1, 3], "pads": [0, 2, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "dilations": [2, 3]},
    {"kernel_shape": [1, 1], "strides": [3, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "output_shape": [16, 16]},
    {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [4] * 4},
]


@pytest.mark.parametrize(
    ("attributes", "group"),
    [*((a, 1) for a in TRANSPOSED), *((a, 2) for a in TRANSPOSED[:5]), (TRANSPOSED[1], 4)],
    ids=str,
)
def test_transposed_convolution(attributes: dict[str, object], group: int) -> None:
    """Strides, padding, dilations and groups: a convolution, pixels laid out, nothing else."""
    constants = {"w": random(1, 4, 3, *attributes["kernel_shape"]), "b": random(2, 3 * group)}
    nodes = [
        node("ConvTranspose", ["x", "w", "b"], ["c"], "c", group=group, **attributes),
        node("Relu", ["c"], ["y"], "r"),
    ]
    program = assert_same(onnx_model(nodes, constants, shape=(1, 4, 8, 7)))
    made = next(call.kernel for call in program.calls if "conv" in call.kernel.op)
    assert made.op == ("depthwise_conv2d" if group == 4 else "conv2d")
    assert made.epilogue == ("relu",)


def test_quantized_transposed_convolution() -> None:
    """With Q/DQ it is an integer convolution that moves bytes."""
    nodes = [
        *quantized("x", "a"), stored("w", axis=1),
        node("ConvTranspose", ["a", "w"], ["c"], "c", strides=[2, 2], pads=[1] * 4),
        node("Relu", ["c"], ["r"], "r"), *quantized("r", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("y", 0.05, 0) | weight("w", (4, 8, 4, 4), axis=1)
    program = assert_same(onnx_model(nodes, constants), step=0.05)
    assert work(program) == ["conv2d", "depth_to_space", "dequantize"]
    assert program.calls[1].kernel.precision == "int8"


def test_pixel_shuffle_behind_a_convolution() -> None:
    """The convolution makes the channels in the order in which their pixels are neighbours."""
    nodes = [conv("x", "c"), node("DepthToSpace", ["c"], ["d"], "d", blocksize=2, mode="CRD"),
             node("Relu", ["d"], ["y"], "r")]  # fmt: skip
    program = assert_same(onnx_model(nodes, {"w": W}), targets=TARGETS)
    assert work(program) == ["conv2d", "depth_to_space"]
    kernels = {call.kernel.op: call.kernel for call in program.calls}
    assert kernels["conv2d"].epilogue == ("relu",)
    assert kernels["depth_to_space"].attribute("mode") == "DCR"


def test_channel_multiplier() -> None:
    """A depthwise convolution that makes three channels of each is a depthwise kernel."""
    nodes = [conv("x", "c", group=4, strides=[2, 1]), node("Relu", ["c"], ["y"], "r")]
    program = assert_same(onnx_model(nodes, {"w": random(1, 12, 1, 3, 3)}))
    assert work(program) == ["concat", "channel_shuffle", "depthwise_conv2d"]


def signal(*, shape: tuple[int, ...] = (1, 4, 50)) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """A network of 1-D layers, all kinds."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], "a", strides=[2], pads=[3, 2], dilations=[2]),
        node("Relu", ["a"], ["r"], "r"),
        node("Conv", ["r", "d"], ["e"], "e", group=8, pads=[1, 1]),
        node("Mul", ["e", "m"], ["f"], "f"),
        node("Conv", ["f", "p"], ["g"], "g"),
        node("Add", ["g", "r"], ["h"], "h"),
        node("MaxPool", ["h"], ["i"], "i", kernel_shape=[3], strides=[2]),
        node("Concat", ["i", "i"], ["j"], "j", axis=1),
    ]
    constants = {
        "w": random(1, 8, shape[1], 5), "b": random(2, 8), "d": random(3, 8, 1, 3),
        "m": random(4, 8, 1), "p": random(5, 8, 8, 1),
    }  # fmt: skip
    return nodes, constants


@pytest.mark.parametrize("end", ["signal", "mean", "dense", "transposed"])
def test_signals(end: str) -> None:
    """1-D convolutions, pools and what is between them run on the kernels of maps."""
    nodes, constants = signal()
    nodes += {
        "signal": [node("Sigmoid", ["j"], ["y"], "y")],
        "mean": [node("GlobalAveragePool", ["j"], ["y"], "y")],
        "dense": [node("Flatten", ["j"], ["k"], "k"),
                  node("Gemm", ["k", "fc"], ["y"], "y", transB=1)],
        "transposed": [node("ConvTranspose", ["j", "t"], ["y"], "y", strides=[2])],
    }[end]  # fmt: skip
    constants |= {"t": random(7, 16, 3, 4)}
    if end == "dense":
        constants["fc"] = random(6, 5, 16 * 11)
    program = assert_same(onnx_model(nodes, constants, shape=(1, 4, 50)))
    assert {"conv2d", "depthwise_conv2d", "max_pool"} <= set(work(program))
    if end == "dense":
        assert "to_channels_first" not in {call.kernel.op for call in program.calls}


def test_quantized_signals() -> None:
    """Q/DQ around 1-D convolutions gives integer kernels."""
    nodes = [
        *quantized("x", "a"), stored("w"), node("Conv", ["a", "w"], ["c"], "c", pads=[1, 1]),
        node("Relu", ["c"], ["r"], "r"), *quantized("r", "b"), stored("v"),
        node("Conv", ["b", "v"], ["d"], "d", pads=[1, 1], group=8), *quantized("d", "y"),
    ]  # fmt: skip
    constants = scale("a", 0.02, 120) | scale("b", 0.05, 0) | scale("y", 0.02, 130)
    constants |= weight("w", (8, 4, 3)) | weight("v", (8, 1, 3), seed=1)
    program = assert_same(onnx_model(nodes, constants, shape=(1, 4, 30)), step=0.02)
    found = [call.kernel for call in program.calls if "conv" in call.kernel.op]
    assert [(k.op, k.precision) for k in found] == [
        ("conv2d", "int8"), ("depthwise_conv2d", "int8"),
    ]  # fmt: skip


POOLS = [
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 0, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4,
                     "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 1, 0, 1]}),
    ("GlobalMaxPool", {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes"), POOLS, ids=str)
def test_pools(op: str, attributes: dict[str, object]) -> None:
    """Pools that round up, dilated ones and whole maps."""
    nodes = [node(op, ["x"], ["y"], "p", **attributes)]
    assert_same(onnx_model(nodes, shape=(1, 5, 10, 12), opset=19))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceProd"])
@pytest.mark.parametrize("axes", [[1], [3], [1, 2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(op: str, axes: list[int], keep: int) -> None:
    """Over any axes of a map, which are kept or dropped."""
    nodes = [conv("x", "c"), node(op, ["c", "axes"], ["y"], "r", keepdims=keep)]
    constants = {"w": W * 0.02 if op == "ReduceProd" else W, "axes": integers(*axes)}
    assert_same(onnx_model(nodes, constants))


@pytest.mark.parametrize("axis", [1, 2])
def test_place_of_the_largest(axis: int) -> None:
    """ArgMax over channels, as segmentation ends, and over rows."""
    nodes = [conv("x", "c"), node("ArgMax", ["c"], ["y"], "m", axis=axis, keepdims=0)]
    model = onnx_model(nodes, {"w": W})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert work(assert_same(model)) == ["conv2d", "arg_max"]


@pytest.mark.parametrize("bits", [32, 8])
def test_dense_layers_behind_maps_take_their_order(bits: int) -> None:
    """No map is converted before a dense layer; its weights are packed in the map's order."""
    if bits == 32:
        nodes = [conv("x", "c"), node("Flatten", ["c"], ["f"], "f"),
                 node("Relu", ["f"], ["r"], "r"),
                 node("Gemm", ["r", "fc"], ["y"], "y", transB=1)]  # fmt: skip
        program = assert_same(onnx_model(nodes, {"w": W, "fc": random(1, 5, 512)}))
        assert work(program) == ["conv2d", "relu", "dense"]
    else:
        nodes = [*quantized("x", "a"), stored("w"), conv("a", "c"), *quantized("c", "b"),
                 node("Flatten", ["b"], ["f"], "f"), *quantized("f", "r"), stored("fc"),
                 node("Gemm", ["r", "fc"], ["y"], "y", transB=1)]  # fmt: skip
        constants = scale("a", 0.02, 120) | scale("b", 0.05, 130) | scale("r", 0.05, 130)
        constants |= weight("w", (8, 4, 3, 3)) | weight("fc", (5, 512), seed=1)
        program = lowered(onnx_model(nodes, constants), AVX2)
        assert work(program) == ["conv2d", "dense"]
        assert_same(onnx_model(nodes, constants), step=0.5)
    assert "to_channels_first" not in {call.kernel.op for call in program.calls}


def test_shuffled_network_stays_in_bytes() -> None:
    """Split, convolution, concat and channel shuffle, quantized here, never leave 8 bits."""
    nodes = [
        conv("x", "c"), node("Relu", ["c"], ["r"], "r"),
        node("Split", ["r", "halves"], ["a", "b"], "s", axis=1), conv("b", "d", "v"),
        node("Relu", ["d"], ["e"], "e"), node("Concat", ["a", "e"], ["f"], "f", axis=1),
        node("Reshape", ["f", "split"], ["g"], "g"),
        node("Transpose", ["g"], ["t"], "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "join"], ["h"], "h"), conv("h", "i", "u"),
        node("GlobalAveragePool", ["i"], ["y"], "y"),
    ]  # fmt: skip
    constants = {
        "w": W, "v": random(1, 4, 4, 3, 3), "u": random(2, 8, 8, 3, 3), "halves": integers(4, 4),
        "split": integers(1, 2, 4, 8, 8), "join": integers(1, 8, 8, 8),
    }  # fmt: skip
    model = onnx_model(nodes, constants)
    assert "channel_shuffle" in work(assert_same(model))
    network, x = simplify(from_onnx(model, name="small")), random(5, 64, 4, 8, 8)
    made = quantize(network, {n.name: "int8" for n in network.layers}, calibrate(network, x))
    program = lower(made, TARGETS[0])
    kernels = [call.kernel for call in program.calls]
    inner = [k for k in kernels if k.op not in ("global_avg_pool", "reshape")]
    assert {k.output.dtype for k in inner} == {"uint8"}
    assert "channel_shuffle" in [k.op for k in inner]
    wanted = outputs(made, x)
    found = Compiled(program, TARGETS[0]).run_each(x)
    assert np.abs(found - wanted).max() <= 0.02 * np.ptp(wanted)


def test_volumes_run_without_a_rule() -> None:
    """A 3-D convolution compiles, is named, and computes the same."""
    model = onnx_model([node("Conv", ["x", "w"], ["y"], "volume")],
                       {"w": random(1, 3, 2, 2, 2, 2)}, shape=(1, 2, 4, 5, 6))  # fmt: skip
    program = lowered(model, TARGETS[0])
    assert [call.nodes for call in program.without_rule] == [("volume",)]
    x = random(3, 1, 2, 4, 5, 6)
    made, wanted = Compiled(program, TARGETS[0]).run(x)[0], answer(model, x)[0]
    assert np.abs(made - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("Slice", ["x", "at", "at", "axis"], ["y"], "nothing")],
         {"at": integers(2), "axis": integers(1)}, "'nothing'.*no elements"),
        ([node("Resize", ["x", "", "", "to"], ["y"], "huge")],
         {"to": integers(1, 4, 65536, 65536)}, "'huge'.*elements"),
    ],
    ids=["empty", "too large"],
)  # fmt: skip
def test_impossible_sizes_are_refused(
    nodes: list[onnx.NodeProto], constants: Mapping[str, Array], reason: str
) -> None:
    """Tensors without elements, and those that 32 bits cannot index, name their node."""
    with pytest.raises(ModelError, match=reason):
        lowered(onnx_model(nodes, constants), AVX2)
