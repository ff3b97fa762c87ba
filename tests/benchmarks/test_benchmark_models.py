"""The networks of the benchmarks are the published ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.comparison.subject import with_signed_activations
from benchmarks.comparison.work import macs_by_node
from benchmarks.models import MODELS, samples
from benchmarks.networks.graph import Graph
from millifit.targets.importer.onnx_file import from_onnx

TOLERANCE = 0.02
# Parameters and multiply-adds. Of networks with batch normalization the papers count its
# parameters, too, of which folding leaves one of two per channel.
PUBLISHED = {
    "MobileNetV1": (4.2e6, 569e6),  # arXiv 1704.04861, table 4
    "MobileNetV2": (3504872, 0.301e9),  # torchvision, MobileNet_V2_Weights
    "MobileNetV3-large": (5483032, 0.217e9),  # torchvision, MobileNet_V3_Large_Weights
    "EfficientNet-B0": (5288548, 0.386e9),  # torchvision, EfficientNet_B0_Weights
    "ResNet-18": (11689512, 1.814e9),  # torchvision, ResNet18_Weights
    "ResNet-50": (25557032, 4.089e9),  # torchvision, ResNet50_Weights
    "SqueezeNet": (1235496, 0.349e9),  # torchvision, SqueezeNet1_1_Weights
    "ResNet-8": (77.7e3, 12.5e6),  # README of the converted MLPerf Tiny v1 models
    "DS-CNN": (22.6e3, 2.66e6),  # the same
    "BERT-mini": (11.3e6, None),  # arXiv 1908.08962, table 1; the paper counts no multiply-adds
    "ViT-tiny": (5.7e6, None),  # timm, vit_tiny_patch16_224
}


def built(name: str) -> onnx.ModelProto:
    return MODELS[name].build(0)


@pytest.mark.parametrize("name", MODELS)
def test_model_is_valid_and_of_the_published_size(name: str) -> None:
    """Every builder gives a valid model with the parameters and multiply-adds of the paper."""
    model = built(name)
    onnx.checker.check_model(model, full_check=True)
    if name not in PUBLISHED:
        return
    parameters, macs = PUBLISHED[name]
    found = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert sum(int(np.prod(t.dims)) for t in found) == pytest.approx(parameters, rel=TOLERANCE)
    if macs is not None:
        counted = sum(macs_by_node(from_onnx(model, name=name)).values())
        assert counted == pytest.approx(macs, rel=TOLERANCE)


def test_transformers_compute_what_their_sizes_say() -> None:
    """Multiply-adds of a transformer: four projections, the perceptron, and attention itself."""

    def layers(depth: int, tokens: int, width: int, wide: int) -> int:
        return depth * tokens * (4 * width**2 + 2 * width * wide + 2 * tokens * width)

    expected = {
        "BERT-mini": layers(4, 128, 256, 1024) + 256**2,
        "ViT-tiny": layers(12, 197, 192, 768) + 196 * 192 * 3 * 16**2 + 192 * 1000,
    }
    for name, macs in expected.items():
        assert sum(macs_by_node(from_onnx(built(name), name=name)).values()) == macs


def test_super_resolution_doubles_its_patch() -> None:
    """The network that has no published size: 1x96x96 luminance in, 1x192x192 out."""
    network = from_onnx(built("SR"), name="SR")
    assert network.types[network.inputs[0]].shape == (1, 1, 96, 96)
    assert network.types[network.outputs[0]].shape == (1, 1, 192, 192)


def test_same_seed_gives_the_same_model() -> None:
    """Models differ by their seed and by nothing else."""
    build = MODELS["DS-CNN"].build
    assert build(3).SerializeToString() == build(3).SerializeToString()
    assert build(3).SerializeToString() != build(4).SerializeToString()


def test_samples_are_of_their_kind() -> None:
    """Token ids lie in the vocabulary; maps are smooth, with a deviation of 1."""
    tokens = samples("BERT-mini", (1, 128), 3, 0)
    assert tokens.shape == (3, 128)
    assert tokens.dtype == np.int64
    assert 0 <= tokens.min() <= tokens.max() < 30522
    maps = samples("ResNet-18", (1, 3, 64, 64), 2, 0)
    assert maps.shape == (2, 3, 64, 64)
    assert maps.std(axis=(1, 2, 3)) == pytest.approx(1, rel=1e-5)
    neighbours = np.corrcoef(maps[..., 1:].ravel(), maps[..., :-1].ravel())[0, 1]
    assert neighbours > 0.6  # of white noise it is 0


def test_activations_keep_their_size() -> None:
    """Weights are so scaled that a deep network neither explodes nor fades."""
    import onnxruntime

    g = Graph("deep", (1, 8, 16, 16), seed=0, opset=18)
    x = "input"
    for activation in ("relu", "relu6", "silu", "hard_swish") * 5:
        x = g.conv(x, 64, activation=activation)  # type: ignore[arg-type]  # a literal by name
    model = g.model(x).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = np.random.default_rng(0).standard_normal((1, 8, 16, 16)).astype(np.float32)
    (made,) = session.run(None, {"input": given})
    assert 0.1 < np.sqrt((made**2).mean()) < 10


def test_signed_activations_stand_for_the_same_values() -> None:
    """uint8 with zero point 5 and int8 with zero point -123 dequantize to the same values."""
    points = [numpy_helper.from_array(np.array(5, np.uint8), "point")]
    points += [numpy_helper.from_array(np.array(0.5, np.float32), "scale")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], points)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    signed = with_signed_activations(model)
    stored = numpy_helper.to_array(signed.graph.initializer[0])
    assert (stored.dtype, int(stored)) == (np.int8, -123)
    assert numpy_helper.to_array(model.graph.initializer[0]).dtype == np.uint8
