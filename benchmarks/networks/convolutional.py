"""Convolutional networks for images and sound.

Layers and sizes as published (the paper is named at each one), batch normalization folded.
"""

from __future__ import annotations

import onnx

from benchmarks.networks.graph import Activation, Graph

_OPSET = 18
_IMAGE = (1, 3, 224, 224)
_CLASSES = 1000


def mobilenet_v1(seed: int) -> onnx.ModelProto:
    """MobileNetV1 1.0-224 (Howard et al., arXiv 1704.04861, table 1)."""
    g = Graph("mobilenet_v1", _IMAGE, seed=seed, opset=_OPSET)
    x = g.conv("input", 32, 3, stride=2, activation="relu")
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for channels, stride in [*plan, (1024, 2), (1024, 1)]:
        x = g.depthwise(x, 3, stride=stride, activation="relu")
        x = g.conv(x, channels, activation="relu")
    return g.model(g.dense(g.pooled(x), _CLASSES))


def mobilenet_v2(seed: int) -> onnx.ModelProto:
    """MobileNetV2 1.0-224 (Sandler et al., arXiv 1801.04381, table 2)."""
    g = Graph("mobilenet_v2", _IMAGE, seed=seed, opset=_OPSET)
    x = g.conv("input", 32, 3, stride=2, activation="relu6")
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    for expansion, channels, repeats, first_stride in [*plan, (6, 160, 3, 2), (6, 320, 1, 1)]:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            wide = g.shapes[x][1] * expansion
            y = x if expansion == 1 else g.conv(x, wide, activation="relu6")
            y = g.depthwise(y, 3, stride=stride, activation="relu6")
            x = _projected(g, x, y, channels)
    x = g.conv(x, 1280, activation="relu6")
    return g.model(g.dense(g.pooled(x), _CLASSES))


def mobilenet_v3_large(seed: int) -> onnx.ModelProto:
    """MobileNetV3-large 1.0 (Howard et al., arXiv 1905.02244, table 1)."""
    g = Graph("mobilenet_v3_large", _IMAGE, seed=seed, opset=_OPSET)
    x = g.conv("input", 16, 3, stride=2, activation="hard_swish")
    for kernel, wide, channels, squeezed, activation, stride in _V3_LARGE:
        y = x if wide == g.shapes[x][1] else g.conv(x, wide, activation=activation)
        y = g.depthwise(y, kernel, stride=stride, activation=activation)
        if squeezed:
            y = _squeezed(g, y, _divisible(wide / 4), activation="relu", gate="HardSigmoid")
        x = _projected(g, x, y, channels, gain=2.0 if squeezed else 1.0)
    x = g.conv(x, 960, activation="hard_swish")
    x = g.dense(g.pooled(x), 1280, activation="hard_swish")
    return g.model(g.dense(x, _CLASSES))


_V3_LARGE: tuple[tuple[int, int, int, bool, Activation, int], ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)


def efficientnet_b0(seed: int) -> onnx.ModelProto:
    """EfficientNet-B0 (Tan and Le, arXiv 1905.11946, table 1)."""
    g = Graph("efficientnet_b0", _IMAGE, seed=seed, opset=_OPSET)
    x = g.conv("input", 32, 3, stride=2, activation="silu")
    plan = [(1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)]
    plan += [(6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)]
    for expansion, kernel, channels, repeats, first_stride in plan:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            narrow = g.shapes[x][1]
            y = x if expansion == 1 else g.conv(x, narrow * expansion, activation="silu")
            y = g.depthwise(y, kernel, stride=stride, activation="silu")
            y = _squeezed(g, y, narrow // 4, activation="silu", gate="Sigmoid")
            x = _projected(g, x, y, channels, gain=1.4)
    x = g.conv(x, 1280, activation="silu")
    return g.model(g.dense(g.pooled(x), _CLASSES))


def _divisible(channels: float) -> int:
    """Channels rounded to a multiple of 8, as the MobileNets do."""
    return max(8, int(channels + 4) // 8 * 8)


def _squeezed(g: Graph, x: str, narrow: int, *, activation: Activation, gate: str) -> str:
    """Squeeze and excitation: every channel scaled by a gate that sees all channels' means."""
    y = g.conv(g.mean(x), narrow, activation=activation)
    y = g.conv(y, g.shapes[x][1])
    attributes = {"alpha": 1 / 6, "beta": 0.5} if gate == "HardSigmoid" else {}
    return g.scale(x, g.add(gate, y, shape=g.shapes[y], **attributes))


def _projected(g: Graph, x: str, y: str, channels: int, *, gain: float = 1.0) -> str:
    """The end of an inverted residual block that started at `x`."""
    if g.shapes[x] != (1, channels, *g.shapes[y][2:]):
        return g.conv(y, channels, gain=gain)
    return g.join(x, g.conv(y, channels, gain=gain * 0.5))


def resnet18(seed: int) -> onnx.ModelProto:
    """ResNet-18 (He et al., arXiv 1512.03385, table 1)."""
    return _resnet("resnet18", (2, 2, 2, 2), bottleneck=False, seed=seed)


def resnet50(seed: int) -> onnx.ModelProto:
    """ResNet-50 with the stride in the 3x3 convolutions ("v1.5"), as it is deployed today."""
    return _resnet("resnet50", (3, 4, 6, 3), bottleneck=True, seed=seed)


def _resnet(
    name: str, depths: tuple[int, int, int, int], *, bottleneck: bool, seed: int
) -> onnx.ModelProto:
    g = Graph(name, _IMAGE, seed=seed, opset=_OPSET)
    x = g.conv("input", 64, 7, stride=2, activation="relu")
    x = g.max_pool(x, 3, stride=2, padding=1)
    for stage, depth in enumerate(depths):
        narrow = 64 << stage
        for block in range(depth):
            stride = 2 if block == 0 and stage > 0 else 1
            x = _residual(g, x, narrow, stride, bottleneck)
    return g.model(g.dense(g.pooled(x), _CLASSES))


def _residual(g: Graph, x: str, narrow: int, stride: int, bottleneck: bool) -> str:
    wide = narrow * 4 if bottleneck else narrow
    if bottleneck:
        y = g.conv(x, narrow, activation="relu")
        y = g.conv(y, narrow, 3, stride=stride, activation="relu")
        y = g.conv(y, wide, gain=0.5)
    else:
        y = g.conv(x, narrow, 3, stride=stride, activation="relu")
        y = g.conv(y, wide, 3, gain=0.5)
    kept = stride == 1 and g.shapes[x][1] == wide
    return g.activate(g.join(y, x if kept else g.conv(x, wide, stride=stride)), "relu")


def squeezenet(seed: int) -> onnx.ModelProto:
    """SqueezeNet 1.1 (Iandola et al., arXiv 1602.07360; 1.1 is in the authors' repository)."""
    g = Graph("squeezenet", _IMAGE, seed=seed, opset=_OPSET)
    x = g.conv("input", 64, 3, stride=2, padding=0, activation="relu")
    stages = [[(16, 64)] * 2, [(32, 128)] * 2, [(48, 192)] * 2 + [(64, 256)] * 2]
    for fires in stages:
        x = g.max_pool(x, 3, stride=2, ceil=1)
        for narrow, wide in fires:
            y = g.conv(x, narrow, activation="relu")
            pair = g.conv(y, wide, activation="relu"), g.conv(y, wide, 3, activation="relu")
            x = g.concat(*pair)
    return g.model(g.pooled(g.conv(x, _CLASSES, activation="relu")))


def super_resolution(seed: int) -> onnx.ModelProto:
    """A network of the form of FALSR (Chu et al., arXiv 1901.07261): x2 on a luminance patch.

    Cells of two 3x3 convolutions; every cell reads the outputs of all before it, squeezed by a 1x1
    convolution; a pixel shuffle doubles the patch of 96x96 at the end.
    """
    g = Graph("super_resolution", (1, 1, 96, 96), seed=seed, opset=_OPSET)
    outputs = [g.conv("input", 32, 3, activation="relu")]
    for _ in range(6):
        joined = outputs[0] if len(outputs) == 1 else g.concat(*outputs)
        x = g.conv(joined, 32, activation="relu")
        x = g.conv(x, 48, 3, activation="relu")
        outputs.append(g.conv(x, 32, 3, activation="relu"))
    x = g.conv(g.concat(*outputs), 64, activation="relu")
    x = g.conv(x, 4, 3, gain=0.5)
    _, _, h, w = g.shapes[x]
    shuffled = g.add("DepthToSpace", x, shape=(1, 1, 2 * h, 2 * w), blocksize=2, mode="CRD")
    return g.model(shuffled)


def resnet8(seed: int) -> onnx.ModelProto:
    """MLPerf Tiny's ResNet for CIFAR-10 images (Banbury et al., arXiv 2106.07597)."""
    g = Graph("resnet8", (1, 3, 32, 32), seed=seed, opset=_OPSET)
    x = g.conv("input", 16, 3, activation="relu")
    for stage in range(3):
        x = _residual(g, x, 16 << stage, 1 if stage == 0 else 2, False)
    return g.model(g.dense(g.pooled(x), 10))


def ds_cnn(seed: int) -> onnx.ModelProto:
    """MLPerf Tiny's DS-CNN for keyword spotting (Zhang et al., arXiv 1711.07128)."""
    g = Graph("ds_cnn", (1, 1, 49, 10), seed=seed, opset=_OPSET)
    weight, bias = g.normal((64, 1, 10, 4), 0.22), g.normal((64,), 0.05)
    x = g.add(
        "Conv", "input", weight, bias, shape=(1, 64, 25, 5), kernel_shape=[10, 4],
        strides=[2, 2], pads=[4, 1, 5, 1],
    )  # fmt: skip
    x = g.activate(x, "relu")
    for _ in range(4):
        x = g.depthwise(x, 3, stride=1, activation="relu")
        x = g.conv(x, 64, activation="relu")
    return g.model(g.dense(g.pooled(x), 12))
