"""Simplification: the normal form of every pattern, and that nothing computes anything else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import helper
from onnx_models import Floats, answer, integers, onnx_model, random

from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network

node = helper.make_node


def _simplified(model: onnx.ModelProto) -> Network:
    """The simplified network, shown to be valid, equal to the model, and in its final form."""
    network = from_onnx(model, name="n")
    simple = simplify(network)
    written = to_onnx(simple)
    onnx.checker.check_model(written, full_check=True)
    shape = network.types["x"].shape
    for seed in (1, 2):
        x = random(seed, *shape)
        for wanted, found in zip(answer(model, x), answer(written, x), strict=True):
            assert found.shape == wanted.shape
            scale = max(float(np.abs(wanted).max()), 1e-3)
            np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-5)
    again = simplify(simple)
    assert (again.nodes, again.types) == (simple.nodes, simple.types)
    assert set(again.constants) == set(simple.constants)
    named = {t for n in simple.nodes for t in (*n.inputs, *n.outputs) if t}
    assert set(simple.types) == named | set(simple.inputs)
    return simple


def _ops(network: Network) -> list[str]:
    return [n.op for n in network.nodes]


def _norm(channels: int) -> dict[str, Floats]:
    return {
        "gamma": random(11, channels),
        "beta": random(12, channels),
        "mean": random(13, channels),
        "var": np.abs(random(14, channels)) + np.float32(0.5),
    }


NORM = ["gamma", "beta", "mean", "var"]


def test_a_convolution_states_everything() -> None:
    """Defaults become attributes, and a bias of zeros is added."""
    model = onnx_model([node("Conv", ["x", "w"], ["y"], "conv")], {"w": random(0, 6, 4, 3, 3)})
    simple = _simplified(model)
    conv = simple.nodes[0]
    assert conv.attributes == {
        "kernel_shape": (3, 3),
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "group": 1,
    }
    np.testing.assert_array_equal(simple.constants[conv.inputs[2]], np.zeros(6))


@pytest.mark.parametrize(
    ("rule", "size", "stride", "pads"),
    [
        ("SAME_UPPER", 8, 2, (0, 0, 1, 1)),
        ("SAME_LOWER", 8, 2, (1, 1, 0, 0)),
        ("SAME_UPPER", 7, 2, (1, 1, 1, 1)),
        ("SAME_UPPER", 8, 1, (1, 1, 1, 1)),
        ("VALID", 8, 2, (0, 0, 0, 0)),
    ],
)
def test_automatic_padding_is_resolved(
    rule: str, size: int, stride: int, pads: tuple[int, ...]
) -> None:
    """auto_pad becomes the pads it stands for, in convolutions and pools alike."""
    strides = [stride, stride]
    conv = node("Conv", ["x", "w"], ["c"], "conv", strides=strides, auto_pad=rule)
    pool = node(
        "MaxPool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=strides, auto_pad=rule
    )
    weight = random(0, 6, 4, 3, 3)
    for layer, output in ((conv, "c"), (pool, "y")):
        model = onnx_model([layer], {"w": weight}, shape=(1, 4, size, size), output=output)
        attributes = _simplified(model).nodes[0].attributes
        assert attributes["pads"] == pads
        assert "auto_pad" not in attributes


@pytest.mark.parametrize(
    ("options", "pads"),
    [
        ({"dilations": [2, 2]}, (2, 2, 2, 2)),
        ({"strides": [4, 4]}, (0, 0, 0, 0)),
        ({"strides": [3, 1], "dilations": [1, 3]}, (0, 3, 1, 3)),
    ],
)
def test_automatic_padding_counts_reach_and_stride(
    options: dict[str, list[int]], pads: tuple[int, ...]
) -> None:
    """Padding follows a dilated kernel's reach and is never negative; the runtime has neither."""
    conv = node("Conv", ["x", "w"], ["y"], "c", auto_pad="SAME_UPPER", group=4, **options)
    simple = simplify(from_onnx(onnx_model([conv], {"w": random(0, 4, 1, 3, 3)}), name="n"))
    assert simple.nodes[0].attributes["pads"] == pads
    assert simple.nodes[0].attributes["group"] == 4


@pytest.mark.parametrize("opset", [13, 18])
def test_zero_padding_joins_the_convolution(opset: int) -> None:
    """Pad with zeros, as TensorFlow exports write it, becomes asymmetric pads."""
    nodes = [
        node("Pad", ["x", "pads"], ["p"], "pad"),
        node("Conv", ["p", "w"], ["y"], "conv", strides=[2, 2], pads=[0, 1, 0, 1]),
    ]
    constants = {"pads": integers(0, 0, 0, 0, 0, 0, 1, 1), "w": random(0, 6, 4, 3, 3)}
    simple = _simplified(onnx_model(nodes, constants, opset=opset))
    assert _ops(simple) == ["Conv"]
    assert simple.nodes[0].attributes["pads"] == (0, 1, 1, 2)


def test_zero_padding_by_axes_joins_the_convolution() -> None:
    """Pad with an axes input pads those axes, negative ones counted from the end."""
    nodes = [
        node("Pad", ["x", "pads", "", "axes"], ["p"], "pad"),
        node("Conv", ["p", "w"], ["y"], "conv"),
    ]
    constants = {"pads": integers(1, 2), "axes": integers(-1), "w": random(0, 6, 4, 3, 3)}
    simple = _simplified(onnx_model(nodes, constants))
    assert _ops(simple) == ["Conv"]
    assert simple.nodes[0].attributes["pads"] == (0, 1, 0, 2)


@pytest.mark.parametrize(
    ("pads", "attributes"),
    [
        ((0, 0, 1, 1, 0, 0, 1, 1), {"mode": "reflect"}),
        ((0, 1, 1, 1, 0, 1, 1, 1), {}),
        ((0, 0, -1, 0, 0, 0, 1, 1), {}),
    ],
)
def test_other_padding_stays(pads: Sequence[int], attributes: dict[str, str]) -> None:
    """Reflection, padded channels and cropping are no convolution padding."""
    nodes = [
        node("Pad", ["x", "pads"], ["p"], "pad", **attributes),
        node("Conv", ["p", "w"], ["y"], "conv"),
    ]
    channels = 4 + pads[1] + pads[5]
    constants = {"pads": integers(*pads), "w": random(0, 6, channels, 3, 3)}
    assert _ops(_simplified(onnx_model(nodes, constants))) == ["Pad", "Conv"]


def test_padding_with_ones_and_padding_that_others_read_stays() -> None:
    """A fill other than zero, or a second reader, keeps the Pad."""
    constants = {
        "pads": integers(0, 0, 1, 1, 0, 0, 1, 1),
        "one": np.array(1, dtype=np.float32),
        "w": random(0, 6, 4, 3, 3),
        "v": random(1, 6, 4, 3, 3),
    }
    ones = [node("Pad", ["x", "pads", "one"], ["p"]), node("Conv", ["p", "w"], ["y"])]
    assert _ops(_simplified(onnx_model(ones, constants))) == ["Pad", "Conv"]
    two = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["a"]),
        node("Conv", ["p", "v"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    assert _ops(_simplified(onnx_model(two, constants))) == ["Pad", "Conv", "Conv", "Add"]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_batch_normalization_joins_a_convolution(group: int, bias: bool) -> None:
    """Scale and shift become weight and bias, grouped and depthwise convolutions included."""
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        node("Conv", inputs, ["c"], "conv", group=group),
        node("BatchNormalization", ["c", *NORM], ["y"], "norm", epsilon=1e-3),
    ]
    constants = {"w": random(0, 8, 4 // group, 3, 3), **_norm(8)}
    constants |= {"b": random(5, 8)} if bias else {}
    simple = _simplified(onnx_model(nodes, constants))
    assert _ops(simple) == ["Conv"]
    assert simple.nodes[0].name == "conv"
    assert len(simple.constants) == 2


def test_batch_normalization_joins_a_linear_layer() -> None:
    """MatMul, Add and BatchNormalization are one Gemm."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"], "fc"),
        node("Add", ["b", "m"], ["a"], "bias"),
        node("BatchNormalization", ["a", *NORM], ["y"], "norm"),
    ]
    constants = {"w": random(0, 5, 7), "b": random(1, 7), **_norm(7)}
    simple = _simplified(onnx_model(nodes, constants, shape=(3, 5)))
    assert _ops(simple) == ["Gemm"]
    assert simple.nodes[0].name == "fc"


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4), (1, 4, 6)])
def test_batch_normalization_alone_is_multiply_and_add(shape: tuple[int, ...]) -> None:
    """Behind an activation, BatchNormalization becomes Mul and Add of constants per channel."""
    nodes = [
        node("Relu", ["x"], ["r"], "relu"),
        node("BatchNormalization", ["r", *NORM], ["y"], "norm"),
    ]
    simple = _simplified(onnx_model(nodes, _norm(4), shape=shape))
    assert _ops(simple) == ["Relu", "Mul", "Add"]
    factor = simple.constants[simple.nodes[1].inputs[1]]
    assert factor.shape == (4, *[1] * (len(shape) - 2))


def test_a_convolution_that_others_read_keeps_its_weight() -> None:
    """BatchNormalization does not change a convolution whose plain output is read, too."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("BatchNormalization", ["c", *NORM], ["n"], "norm"),
        node("Add", ["c", "n"], ["y"], "sum"),
    ]
    simple = _simplified(onnx_model(nodes, {"w": random(0, 8, 4, 1, 1), **_norm(8)}))
    assert _ops(simple) == ["Conv", "Mul", "Add", "Add"]


def test_a_convolution_that_is_an_output_keeps_its_weight() -> None:
    """A tensor that is a network output is never merged away."""
    nodes = [
        node("Conv", ["x", "w"], ["y"], "conv"),
        node("BatchNormalization", ["y", *NORM], ["n"], "norm"),
    ]
    model = onnx_model(nodes, {"w": random(0, 8, 4, 1, 1), **_norm(8)})
    model.graph.output.append(helper.make_tensor_value_info("n", 1, [1, 8, 8, 8]))
    simple = _simplified(model)
    assert (_ops(simple), simple.outputs) == (["Conv", "Mul", "Add"], ("y", "n"))


def test_layers_that_share_a_weight_are_folded_apart() -> None:
    """Folding one of two layers that read one weight leaves the other's weight as it was."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], "first"),
        node("BatchNormalization", ["a", *NORM], ["n"], "norm"),
        node("Conv", ["n", "w"], ["y"], "second"),
    ]
    simple = _simplified(onnx_model(nodes, {"w": random(0, 4, 4, 1, 1), **_norm(4)}))
    assert _ops(simple) == ["Conv", "Conv"]
    np.testing.assert_array_equal(
        simple.constants[simple.node("second").inputs[1]], random(0, 4, 4, 1, 1)
    )


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_a_constant_per_channel_joins_the_bias(shape: tuple[int, ...]) -> None:
    """Add of one number per channel, or of one number, behind a convolution is its bias."""
    nodes = [node("Conv", ["x", "w"], ["c"], "conv"), node("Add", ["c", "b"], ["y"], "add")]
    constants = {"w": random(0, 6, 4, 3, 3), "b": random(1, *shape)}
    simple = _simplified(onnx_model(nodes, constants))
    assert _ops(simple) == ["Conv"]


@pytest.mark.parametrize("shape", [(6,), (6, 6, 1), (2, 6, 6, 6)])
def test_a_constant_that_is_no_bias_stays(shape: tuple[int, ...]) -> None:
    """Constants that differ along a map, or that widen the batch, are no bias."""
    nodes = [node("Conv", ["x", "w"], ["c"], "conv"), node("Add", ["c", "b"], ["y"], "add")]
    constants = {"w": random(0, 6, 4, 3, 3), "b": random(1, *shape)}
    assert _ops(_simplified(onnx_model(nodes, constants))) == ["Conv", "Add"]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (7,), (1, 7), (), (3, 1), (3, 7)])
def test_every_gemm_comes_to_one_form(
    alpha: float, beta: float, trans_a: int, trans_b: int, bias: tuple[int, ...] | None
) -> None:
    """Factors and transpositions go into the constants; what cannot gets a node of its own."""
    inputs = ["x", "w"] if bias is None else ["x", "w", "b"]
    options = {"alpha": alpha, "beta": beta, "transA": trans_a, "transB": trans_b}
    constants = {"w": random(0, 7, 5) if trans_b else random(0, 5, 7)}
    if bias is not None:
        constants["b"] = random(1, *bias)
    shape = (5, 3) if trans_a else (3, 5)
    model = onnx_model([node("Gemm", inputs, ["y"], "fc", **options)], constants, shape=shape)
    simple = _simplified(model)
    gemm = next(n for n in simple.nodes if n.op == "Gemm")
    assert gemm.attributes == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    assert simple.constants[gemm.inputs[1]].shape == (7, 5)
    assert simple.constants[gemm.inputs[2]].shape == (7,)
    others = [n.op for n in simple.nodes if n.op != "Gemm"]
    added = bias in ((3, 1), (3, 7))
    assert others == [*["Transpose"] * trans_a, *["Add"] * added]


def test_a_gemm_that_adds_an_activation_keeps_it() -> None:
    """A summand that is computed is scaled and added by nodes of their own."""
    nodes = [
        node("Relu", ["x"], ["r"], "relu"),
        node("Gemm", ["x", "w", "r"], ["y"], "fc", beta=3.0),
    ]
    simple = _simplified(onnx_model(nodes, {"w": random(0, 5, 5)}, shape=(3, 5)))
    assert _ops(simple) == ["Relu", "Gemm", "Mul", "Add"]


def test_only_matrices_become_gemm() -> None:
    """MatMul of a batch of matrices is that of all their rows; of two activations, it stays."""
    batch = onnx_model([node("MatMul", ["x", "w"], ["y"])], {"w": random(0, 5, 7)}, shape=(2, 3, 5))
    assert _ops(_simplified(batch)) == ["Reshape", "Gemm", "Reshape"]
    square = onnx_model([node("MatMul", ["x", "x"], ["y"])], shape=(3, 3))
    assert _ops(_simplified(square)) == ["MatMul"]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("keep", [True, False])
def test_a_mean_over_the_map_is_a_pool(opset: int, keep: bool) -> None:
    """ReduceMean over height and width is GlobalAveragePool; without keepdims, Flatten follows."""
    if opset < 18:
        mean = node("ReduceMean", ["x"], ["y"], "mean", axes=[-1, 2], keepdims=int(keep))
    else:
        mean = node("ReduceMean", ["x", "axes"], ["y"], "mean", keepdims=int(keep))
    axes = {} if opset < 18 else {"axes": integers(3, 2)}
    simple = _simplified(onnx_model([mean], axes, opset=opset))
    assert _ops(simple) == ["GlobalAveragePool"] if keep else ["GlobalAveragePool", "Flatten"]
    assert simple.types["y"].shape == ((1, 4, 1, 1) if keep else (1, 4))


def test_a_mean_over_channels_stays() -> None:
    """ReduceMean over other axes is no pool."""
    mean = node("ReduceMean", ["x", "axes"], ["y"], "mean")
    assert _ops(_simplified(onnx_model([mean], {"axes": integers(1)}))) == ["ReduceMean"]


def test_a_pool_of_the_whole_map_is_global() -> None:
    """AveragePool with one window is GlobalAveragePool; a smaller window stays, all explicit."""
    whole = node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[8, 8])
    assert _ops(_simplified(onnx_model([whole]))) == ["GlobalAveragePool"]
    part = node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    assert _simplified(onnx_model([part])).nodes[0].attributes == {
        "kernel_shape": (3, 3),
        "strides": (1, 1),
        "pads": (1, 1, 1, 1),
        "ceil_mode": 0,
        "count_include_pad": 0,
    }


def test_a_max_pool_states_everything() -> None:
    """MaxPool has strides, pads, dilations and ceil_mode, also where it rounds up."""
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    simple = _simplified(onnx_model([pool]))
    assert simple.nodes[0].attributes == {
        "kernel_shape": (3, 3),
        "strides": (2, 2),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
        "ceil_mode": 1,
    }
    assert simple.types["y"].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("op", "constants"),
    [
        ("Reshape", {"s": integers(1, 256)}),
        ("Reshape", {"s": integers(0, -1)}),
        ("Flatten", {}),
    ],
)
def test_joining_all_but_the_batch_is_flatten(
    op: str, constants: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]
) -> None:
    """Reshape to (N, C*H*W), however it says so, is Flatten with axis=1."""
    model = onnx_model([node(op, ["x", *constants], ["y"], "flat")], constants)
    simple = _simplified(model)
    assert [(n.op, dict(n.attributes)) for n in simple.nodes] == [("Flatten", {"axis": 1})]
    assert not simple.constants


def test_squeezing_a_pooled_map_is_flatten() -> None:
    """Squeeze of the map's axes behind a global pool is Flatten."""
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"], "pool"),
        node("Squeeze", ["p", "axes"], ["y"], "squeeze"),
    ]
    simple = _simplified(onnx_model(nodes, {"axes": integers(2, 3)}, shape=(2, 4, 8, 8)))
    assert _ops(simple) == ["GlobalAveragePool", "Flatten"]


def test_a_reshape_that_mixes_channels_stays() -> None:
    """A channel shuffle is no Flatten."""
    nodes = [
        node("Reshape", ["x", "a"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "b"], ["y"]),
    ]
    constants = {"a": integers(1, 2, 2, 8, 8), "b": integers(1, 4, 8, 8)}
    assert _ops(_simplified(onnx_model(nodes, constants))) == ["Reshape", "Transpose", "Reshape"]


def test_nodes_without_effect_go() -> None:
    """Identity, Dropout, casts to the same type, empty pads and reshapes to the same shape go."""
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Dropout", ["a"], ["b"]),
        node("Cast", ["b"], ["c"], to=1),
        node("Pad", ["c", "zeros"], ["d"]),
        node("Reshape", ["d", "same"], ["e"]),
        node("Relu", ["e"], ["f"], "relu"),
        node("Clip", ["f"], ["g"]),
        node("Dropout", ["g"], ["y"]),
    ]
    constants = {"zeros": integers(*[0] * 8), "same": integers(1, 4, 8, 8)}
    simple = _simplified(onnx_model(nodes, constants))
    assert [(n.name, n.inputs, n.outputs) for n in simple.nodes] == [("relu", ("x",), ("y",))]


def test_an_output_keeps_a_node_that_makes_it() -> None:
    """A network of Identity alone stays one; so does a second name of one tensor."""
    assert _ops(_simplified(onnx_model([node("Identity", ["x"], ["y"])]))) == ["Identity"]
    model = onnx_model([node("Relu", ["x"], ["y"]), node("Identity", ["y"], ["z"])])
    model.graph.output.append(helper.make_tensor_value_info("z", 1, [1, 4, 8, 8]))
    assert _ops(_simplified(model)) == ["Relu", "Identity"]


def test_dropout_whose_mask_is_read_stays() -> None:
    """Who reads the mask needs the Dropout."""
    nodes = [
        node("Dropout", ["x"], ["d", "mask"], "drop"),
        node("Cast", ["mask"], ["m"], to=1),
        node("Mul", ["d", "m"], ["y"]),
    ]
    assert _ops(_simplified(onnx_model(nodes))) == ["Dropout", "Cast", "Mul"]


@pytest.mark.parametrize(
    ("low", "high", "op", "attributes"),
    [
        (0, 6, "Clip", {"min": 0.0, "max": 6.0}),
        (-1, None, "Clip", {"min": -1.0}),
        (None, 0.5, "Clip", {"max": 0.5}),
        (-np.inf, 0.5, "Clip", {"max": 0.5}),
        (0, None, "Relu", {}),
        (0, np.inf, "Relu", {}),
    ],
)
def test_bounds_of_clip_are_attributes(
    low: float | None, high: float | None, op: str, attributes: dict[str, float]
) -> None:
    """Constant bounds are floats on the node, infinite ones none, and a Clip from 0 is Relu."""
    bounds = {"low": low, "high": high}
    constants = {k: np.array(v, dtype=np.float32) for k, v in bounds.items() if v is not None}
    inputs = ["x", *(k if v is not None else "" for k, v in bounds.items())]
    simple = _simplified(onnx_model([node("Clip", inputs, ["y"], "clip")], constants))
    assert [(n.op, n.inputs, dict(n.attributes)) for n in simple.nodes] == [
        (op, ("x",), attributes)
    ]
    assert not simple.constants


@pytest.mark.parametrize(
    ("op", "bound", "found", "attributes"),
    [
        ("Max", 0.0, "Relu", {}),
        ("Max", 0.25, "Clip", {"min": 0.25}),
        ("Min", 0.5, "Clip", {"max": 0.5}),
    ],
)
def test_maximum_and_minimum_with_a_number_are_clip(
    op: str, bound: float, found: str, attributes: dict[str, float]
) -> None:
    """Max and Min with a constant number, on either side, are Clip or Relu."""
    for inputs in (["x", "b"], ["b", "x"]):
        model = onnx_model([node(op, inputs, ["y"])], {"b": np.array(bound, dtype=np.float32)})
        simple = _simplified(model)
        assert [(n.op, dict(n.attributes)) for n in simple.nodes] == [(found, attributes)]


def test_maximum_with_a_vector_stays() -> None:
    """Max with a constant per column is no Clip."""
    model = onnx_model([node("Max", ["x", "b"], ["y"])], {"b": random(0, 8)})
    assert _ops(_simplified(model)) == ["Max"]


def test_what_is_constant_is_folded() -> None:
    """A weight that is transposed and scaled by nodes is one constant in the end."""
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("Mul", ["t", "scale"], ["s"]),
        node("Gemm", ["x", "s"], ["y"], "fc"),
    ]
    constants = {"w": random(0, 7, 5), "scale": np.array(0.5, dtype=np.float32)}
    simple = _simplified(onnx_model(nodes, constants, shape=(3, 5)))
    assert _ops(simple) == ["Gemm"]
    assert len(simple.constants) == 2


def test_constants_beyond_the_cap_are_not_made() -> None:
    """A small constant that would expand to over a million elements stays a node."""
    nodes = [
        node("Expand", ["c", "shape"], ["e"], "expand"),
        node("ReduceSum", ["e", "axes"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["y"]),
    ]
    constants = {
        "c": random(0, 1),
        "shape": integers(1100, 1000),
        "axes": integers(0, 1),
    }
    assert _ops(_simplified(onnx_model(nodes, constants, shape=(1, 2))))[0] == "Expand"


def test_random_nodes_are_not_folded() -> None:
    """A node that differs from run to run is no constant although it reads nothing."""
    nodes = [node("RandomNormal", [], ["r"], shape=[2], seed=1.0), node("Add", ["x", "r"], ["y"])]
    simple = simplify(from_onnx(onnx_model(nodes, shape=(1, 2)), name="n"))
    assert _ops(simple) == ["RandomNormal", "Add"]


def test_what_nobody_reads_goes() -> None:
    """Nodes and constants that no output depends on are dropped."""
    nodes = [
        node("Relu", ["x"], ["y"], "relu"),
        node("Conv", ["x", "w"], ["unused"], "conv"),
    ]
    simple = _simplified(onnx_model(nodes, {"w": random(0, 6, 4, 3, 3)}))
    assert _ops(simple) == ["Relu"]
    assert not simple.constants


def test_quantized_layers_pass_through() -> None:
    """Weights and biases behind DequantizeLinear stay; the convolution's attributes are stated."""
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], "q"),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], "dq"),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], "dqw", axis=0),
        node("DequantizeLinear", ["b", "sb"], ["bd"], "dqb", axis=0),
        node("Conv", ["xd", "wd", "bd"], ["c"], "conv"),
        node("BatchNormalization", ["c", *NORM], ["y"], "norm"),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "sx": np.array(0.02, dtype=np.float32),
        "zx": np.array(128, dtype=np.uint8),
        "w": rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "sw": np.abs(random(1, 6)) + np.float32(0.01),
        "zw": np.zeros(6, dtype=np.int8),
        "b": rng.integers(-500, 500, 6).astype(np.int32),
        "sb": np.abs(random(2, 6)) * np.float32(0.02),
        **_norm(6),
    }
    simple = _simplified(onnx_model(nodes, constants))
    assert _ops(simple)[:5] == [n.op_type for n in nodes[:5]]
    assert _ops(simple)[5:] == ["Mul", "Add"]
    assert simple.constants["w"].dtype == np.int8
    assert simple.node("conv").attributes["pads"] == (0, 0, 0, 0)
    assert [n.name for n in simple.layers] == ["conv"]


def test_a_whole_network_in_another_s_dialect() -> None:
    """A residual network as an exporter writes it becomes Conv, Clip, Add, pool and Gemm."""
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w1"], ["c1"], "stem", strides=[2, 2]),
        node("BatchNormalization", ["c1", *NORM], ["n1"]),
        node("Clip", ["n1", "zero", "six"], ["a1"], "act1"),
        node("Conv", ["a1", "w2"], ["c2"], "depthwise", group=4, auto_pad="SAME_UPPER"),
        node("BatchNormalization", ["c2", *NORM], ["n2"]),
        node("Clip", ["n2", "zero", "six"], ["a2"], "act2"),
        node("Conv", ["a2", "w3"], ["c3"], "project"),
        node("BatchNormalization", ["c3", *NORM], ["n3"]),
        node("Add", ["a1", "n3"], ["s"], "sum"),
        node("Dropout", ["s"], ["d"]),
        node("ReduceMean", ["d", "axes"], ["m"], keepdims=0),
        node("MatMul", ["m", "w4"], ["l"], "head"),
        node("Add", ["l", "b4"], ["y"]),
    ]
    constants = {
        "pads": integers(0, 0, 0, 0, 0, 0, 1, 1),
        "zero": np.array(0, dtype=np.float32),
        "six": np.array(6, dtype=np.float32),
        "axes": integers(2, 3),
        "w1": random(1, 4, 3, 3, 3),
        "w2": random(2, 4, 1, 3, 3),
        "w3": random(3, 4, 4, 1, 1),
        "w4": random(4, 4, 10),
        "b4": random(5, 10),
        **_norm(4),
    }
    simple = _simplified(onnx_model(nodes, constants, shape=(1, 3, 16, 16)))
    assert _ops(simple) == [
        *("Conv", "Clip", "Conv", "Clip", "Conv", "Add"),
        *("GlobalAveragePool", "Flatten", "Gemm"),
    ]
    names = [n.name for n in simple.layers]
    assert names == ["stem", "depthwise", "project", "head"]
