"""Quantization: ranges, placement, weights, biases, and what ONNX Runtime makes of the result."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import conv, images, network, node, residual

from millifit.compress.evaluate import activations, divergence, outputs
from millifit.compress.quantize.bias_correction import correct_bias
from millifit.compress.quantize.placement import place
from millifit.compress.quantize.quantizer import quantizable, quantize, quantize_weight
from millifit.compress.quantize.ranges import Histogram, Range, calibrate, choose_range
from millifit.compress.size import file_bytes, layer_bytes
from millifit.errors import DataError, ModelError
from millifit.targets.importer.onnx_file import to_onnx, write_network
from millifit.targets.network import Network, Node, TensorType
from millifit.targets.target import Precision


def _all_int8(net: Network) -> dict[str, Precision]:
    return {layer.name: "int8" for layer in net.layers}


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 0), st.floats(0, 1e6))
def test_zero_is_exact_in_every_range(low: float, high: float) -> None:
    """The zero point is an integer in 0..255, and a range is off by half a step at most."""
    span = Range(low=low, high=high)
    assert 0 <= span.zero_point <= 255
    assert abs((0 - span.zero_point) * float(span.scale) - low) <= 0.51 * float(span.scale)


def test_range_without_zero_is_refused() -> None:
    """Padding and ReLU need an exact zero."""
    with pytest.raises(ValueError, match="contain 0"):
        Range(low=1.0, high=2.0)


def test_methods_read_a_histogram() -> None:
    """One outlier among 100,000 values: min_max keeps it, percentile cuts it off, mse cuts a bit.

    Clipping it to h costs (10 - h)^2, steps of h/255 cost the others 1e5 (h/255)^2 / 12: h = 8.9.
    """
    counts = np.zeros(1000, dtype=np.int64)
    counts[:100] = 1000
    counts[-1] = 1
    histogram = Histogram(low=0.0, high=10.0, counts=counts)
    assert choose_range(histogram, method="min_max") == Range(low=0.0, high=10.0)
    assert choose_range(histogram, method="percentile", percentile=99.9).high == pytest.approx(1.0)
    mse = choose_range(histogram, method="mse")
    assert mse.low == 0
    assert mse.high == pytest.approx(8.86, rel=0.05)


def test_ranges_are_those_of_the_activations() -> None:
    """min_max of every tensor that can be int8 is what ONNX Runtime shows, widened to contain 0."""
    net, x = residual(), images(90)
    ranges = calibrate(net, x, method="min_max")
    assert set(ranges) == {"x", "relu1.out", "conv2.out", "relu2.out", "clip3.out", "relu4.out"}
    for tensor, span in ranges.items():
        values = np.concatenate([a[tensor] for a in activations(net, x, (tensor,))])
        assert span.low == pytest.approx(min(0.0, float(values.min())))
        assert span.high == pytest.approx(float(values.max()))


def test_calibration_of_infinite_activations_names_the_node() -> None:
    """An overflow in the network is reported with the node that makes it."""
    net = residual()
    huge = {**net.constants, "conv2.w": np.full((8, 8, 3, 3), 3e38, dtype=np.float32)}
    with pytest.raises(ModelError, match="node 'conv2'"):
        calibrate(net.replace(constants=huge), images(2))


def test_calibration_data_must_be_finite_and_present() -> None:
    """NaN in the data and no data at all are the data's fault."""
    x = images(2)
    x[1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        calibrate(residual(), x)
    with pytest.raises(DataError, match="no calibration data"):
        calibrate(residual(), x[:0])


def test_placement_of_all_int8() -> None:
    """8-bit tensors stand behind fused activations; what MaxPool and Flatten hand on keeps its
    scale; the output stays fp32.
    """
    placement = place(residual(), _all_int8(residual()))
    assert placement.range_of == {
        "x": "x",
        "relu1.out": "relu1.out",
        "conv2.out": "conv2.out",
        "relu2.out": "relu2.out",
        "clip3.out": "clip3.out",
        "relu4.out": "relu4.out",
        "pool.out": "relu4.out",
        "flatten.out": "relu4.out",
    }
    assert "fc.out" in placement.int8_made


def test_placement_of_a_mixed_plan() -> None:
    """An Add with one fp32 side is fp32; an int8 layer that only fp32 reads writes fp32."""
    placement = place(residual(), {"conv1": "int8", "conv2": "fp32", "dw3": "int8"})
    assert placement.range_of == {"x": "x", "relu2.out": "relu2.out"}
    assert placement.int8_nodes == {"conv1", "dw3"}


def test_a_layer_behind_fp32_pooling_finds_its_range() -> None:
    """Where only fc is int8, its input uses the range of the tensor that was pooled."""
    net = residual()
    quantized = quantize(net, {"fc": "int8"}, calibrate(net, images(4)))
    assert quantized.node("flatten.out/quantize").inputs[1] == "relu4.out/scale"
    assert [n.op for n in quantized.nodes].count("QuantizeLinear") == 1


def test_readers_of_an_int8_tensor_read_dequantized_values() -> None:
    """What an int8 unit made is read from its 8 bits by fp32 nodes, too; fp32 tensors are not."""
    net = residual()
    ranges = calibrate(net, images(4))
    quantized = quantize(net, {"conv1": "int8", "conv2": "int8", "dw3": "fp32"}, ranges)
    assert quantized.node("dw3").inputs[0] == "relu2.out"
    assert quantized.node("add").inputs == ("conv2.out/dequantized", "relu1.out/dequantized")
    mixed = quantize(net, {"conv2": "int8"}, ranges)
    assert mixed.node("conv2").inputs[0] == "relu1.out/dequantized"
    assert mixed.node("add").inputs == ("conv2.out", "relu1.out")


def test_onnx_runtime_fuses_everything(tmp_path: Path) -> None:
    """All layers, the Add and the pooling run as integer kernels, with conversions at the ends."""
    net = residual()
    quantized = quantize(net, _all_int8(net), calibrate(net, images(8)))
    onnx.checker.check_model(to_onnx(quantized), full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        to_onnx(quantized).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ops = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["QLinearConv"] == 4
    assert ops["QLinearAdd"] == 1
    assert ops["QGemm"] == 1
    assert ops["QuantizeLinear"] == 1
    assert not {"Conv", "Add", "Gemm", "Relu", "Clip", "DequantizeLinear"} & set(ops)


def test_per_channel_is_closer_than_per_layer() -> None:
    """int8 answers are close to fp32's, closer with a scale per channel."""
    net, x = residual(), images(64)
    scaled = net.constants["conv2.w"] * np.geomspace(0.01, 1, 8).reshape(8, 1, 1, 1)
    net = net.replace(constants={**net.constants, "conv2.w": scaled.astype(np.float32)})
    reference, ranges = outputs(net, x), calibrate(net, x)
    losses = [
        divergence(reference, outputs(quantize(net, _all_int8(net), ranges, per_channel=pc), x))
        for pc in (True, False)
    ]
    assert losses[0] < 0.005
    assert losses[0] < losses[1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3), st.floats(0, 1e6), st.booleans())
def test_weights_and_biases_fit(seed: int, scale: float, bias: float, per_channel: bool) -> None:
    """Weights round to within half a step of -127..127, and every bias fits into 32 bits."""
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(4, 9)) * scale).astype(np.float32)
    w[0] = 0
    b = (rng.normal(size=4) * bias).astype(np.float32)
    made = quantize_weight(w, b, input_scale=0.01, layer="l", per_channel=per_channel)
    steps = made.scale.reshape(-1, 1) if per_channel else made.scale
    assert made.integers.min() >= -127
    assert (np.abs(made.integers * steps - w) <= 0.5001 * steps).all()
    assert (np.abs(b / (made.scale.astype(np.float64) * 0.01)) < 2**31).all()


def test_sum_that_overflows_is_refused() -> None:
    """A layer with more products than 32 bits hold is named and told to stay fp32."""
    wide = np.ones((1, 65_794), dtype=np.float32)
    one = np.zeros(1, dtype=np.float32)
    quantize_weight(wide[:, :-1], one, input_scale=1.0, layer="head")
    with pytest.raises(ModelError, match="'head' sums 65794 products"):
        quantize_weight(wide, one, input_scale=1.0, layer="head")


def test_channels_without_weights_keep_their_bias() -> None:
    """A channel of zeros answers its bias exactly."""
    constants = {
        "c.w": np.zeros((2, 3, 1, 1), dtype=np.float32),
        "c.b": np.array([0.7, -3.0], dtype=np.float32),
    }
    net = network([conv("c", "x")], constants, shape=(1, 3, 4, 4))
    quantized = quantize(net, {"c": "int8"}, {"x": Range(low=-1, high=1)})
    answer = outputs(quantized, np.ones((1, 3, 4, 4), dtype=np.float32))
    np.testing.assert_allclose(answer[0, :, 0, 0], [0.7, -3.0], rtol=1e-6)


def test_unknown_layers_and_missing_ranges_are_named() -> None:
    """A plan for another network, and ranges of another network."""
    with pytest.raises(ModelError, match="no layer 'conv9'"):
        quantize(residual(), {"conv9": "int8"}, {})
    with pytest.raises(ModelError, match="'x' has no calibrated range"):
        quantize(residual(), {"conv1": "int8"}, {"y": Range(low=0, high=1)})


def test_quantizing_twice_is_refused() -> None:
    """A quantized network is not quantized again."""
    net = residual()
    ranges = calibrate(net, images(4))
    once = quantize(net, {"conv1": "int8"}, ranges)
    with pytest.raises(ModelError, match="'conv1' is quantized already"):
        quantize(once, {"conv1": "int8"}, ranges)


def test_bias_correction_finds_a_shift() -> None:
    """A bias that is off by 1000 steps in one channel comes back to within a few steps."""
    net, x = residual(), images(64)
    quantized = quantize(net, _all_int8(net), calibrate(net, x, method="min_max"))
    right = quantized.constants["conv4/bias_quantized"]
    wrong = right.copy()
    wrong[3] += 1000
    spoilt = quantized.replace(constants={**quantized.constants, "conv4/bias_quantized": wrong})
    fixed = correct_bias(net, spoilt, x).constants["conv4/bias_quantized"]
    untouched = correct_bias(net, quantized, x).constants["conv4/bias_quantized"]
    np.testing.assert_allclose(fixed, untouched, atol=2)
    assert abs(int(fixed[3]) - int(right[3])) < 500


def test_bias_correction_leaves_fp32_layers_alone() -> None:
    """Only int32 biases change."""
    net, x = residual(), images(16)
    quantized = quantize(net, {"conv2": "int8"}, calibrate(net, x))
    corrected = correct_bias(net, quantized, x)
    changed = {
        name
        for name, value in quantized.constants.items()
        if not np.array_equal(value, corrected.constants[name])
    }
    assert changed <= {"conv2/bias_quantized"}


def test_sizes(tmp_path: Path) -> None:
    """A layer's bytes are its weights and biases; a network's are its file's."""
    net = residual()
    quantized = quantize(net, {"conv1": "int8"}, calibrate(net, images(4)))
    assert layer_bytes(net)["conv1"] == 4 * (8 * 3 * 9 + 8)
    assert layer_bytes(quantized)["conv1"] == 8 * 3 * 9 + 4 * 8
    assert layer_bytes(quantized)["fc"] == 4 * (5 * 64 + 5)
    write_network(net, tmp_path / "net.onnx")
    assert file_bytes(net) == (tmp_path / "net.onnx").stat().st_size


def test_concatenation_and_fixed_operands() -> None:
    """Concat of int8 tensors has a scale of its own; an Add of a constant stays fp32."""
    rng = np.random.default_rng(0)
    constants = {
        **{f"{n}.w": rng.normal(size=(4, 3, 1, 1)).astype(np.float32) for n in ("a", "b")},
        **{f"{n}.b": np.zeros(4, dtype=np.float32) for n in ("a", "b", "c")},
        "c.w": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "one": np.ones((1, 4, 1, 1), dtype=np.float32),
    }
    nodes = [
        conv("a", "x"),
        conv("b", "x"),
        node("Concat", "join", "a.out", "b.out", axis=1),
        conv("c", "join.out"),
        node("Add", "plus", "c.out", "one"),
    ]
    net = network(nodes, constants, shape=(1, 3, 4, 4))
    placement = place(net, _all_int8(net))
    assert placement.range_of == {t: t for t in ("x", "a.out", "b.out", "join.out")}
    assert "plus" not in placement.int8_nodes
    x = images(8)[:, :, :4, :4]
    reference = outputs(net, x)
    answer = outputs(quantize(net, _all_int8(net), calibrate(net, x, method="min_max")), x)
    assert np.abs(answer - reference).max() < 0.05 * np.abs(reference).max()


def test_gemm_of_another_form_is_refused() -> None:
    """A weight with its output channels last is told to be simplified first."""
    net = residual()
    nodes = tuple(
        dataclasses.replace(n, attributes={"transB": 1, "alpha": 2.0}) if n.name == "fc" else n
        for n in net.nodes
    )
    with pytest.raises(ModelError, match="layer 'fc' is not of the form"):
        quantize(net.replace(nodes=nodes), {"fc": "int8"}, calibrate(net, images(4)))


def test_layers_too_deep_for_int32_are_not_quantizable() -> None:
    """A layer whose sums could leave 32 bits is left out, and the rest can be quantized."""
    rng = np.random.default_rng(0)
    deep = 66_000
    network = Network(
        name="deep", inputs=("x",), outputs=("y",), opset=18,
        nodes=(
            Node(name="wide", op="Gemm", inputs=("x", "w0", "b0"), outputs=("h",),
                 attributes={"transB": 1}),
            Node(name="head", op="Gemm", inputs=("h", "w1", "b1"), outputs=("y",),
                 attributes={"transB": 1}),
        ),
        constants={
            "w0": rng.standard_normal((4, deep)).astype(np.float32), "b0": np.zeros(4, np.float32),
            "w1": rng.standard_normal((3, 4)).astype(np.float32), "b1": np.zeros(3, np.float32),
        },
        types={
            "x": TensorType(shape=(1, deep), dtype="float32"),
            "h": TensorType(shape=(1, 4), dtype="float32"),
            "y": TensorType(shape=(1, 3), dtype="float32"),
            "w0": TensorType(shape=(4, deep), dtype="float32"),
            "b0": TensorType(shape=(4,), dtype="float32"),
            "w1": TensorType(shape=(3, 4), dtype="float32"),
            "b1": TensorType(shape=(3,), dtype="float32"),
        },
    )  # fmt: skip
    assert quantizable(network) == {"head": "int8"}
