"""A small network with all that decides costs: a residual, a depthwise layer, pooling, Flatten."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from millifit.compress.prune.groups import channel_groups
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import Range
from millifit.search.plan_space import PlanSpace
from millifit.search.problem import plan_space
from millifit.targets.importer.infer import infer_types
from millifit.targets.network import Array, AttributeValue, Network, Node, TensorType
from millifit.targets.target import Precision, Target

TARGET = Target(
    name="fake",
    triple="x86_64-linux-gnu",
    mcpu="x86-64-v3",
    vector_bits=256,
    vector_registers=16,
    dot_product="avx2_pmaddwd",
    cores=4,
    l1_bytes=32768,
    l2_bytes=1 << 20,
    l3_bytes=1 << 24,
    cpu="fake",
    reach="none",
)
LAYERS = ("stem", "body", "dw", "wide", "fc")
WIDTHS = {"stem": (32, 16), "wide": (48, 32, 16)}


def network() -> Network:
    """``x [1, 3, 16, 16] -> stem + Relu -> body -> Add with stem + Relu -> dw + Clip -> wide + Relu
    -> MaxPool -> Flatten -> fc -> [1, 5]``; channels 32, 32, 32, 48.
    """
    shapes = {
        "stem": (32, 3, 3, 3),
        "body": (32, 32, 3, 3),
        "dw": (32, 1, 3, 3),
        "wide": (48, 32, 1, 1),
        "fc": (5, 48 * 4 * 4),
    }
    rng = np.random.default_rng(0)
    constants: dict[str, Array] = {}
    for name, shape in shapes.items():
        constants[f"{name}.w"] = rng.normal(size=shape).astype(np.float32)
        constants[f"{name}.b"] = np.zeros(shape[0], np.float32)
    nodes = [
        _convolution("stem", "x", 3),
        _node("Relu", "stem_relu", "stem.out"),
        _convolution("body", "stem_relu.out", 3),
        _node("Add", "add", "body.out", "stem_relu.out"),
        _node("Relu", "add_relu", "add.out"),
        _convolution("dw", "add_relu.out", 3, stride=2, group=32),
        _node("Clip", "dw_clip", "dw.out", min=0.0, max=6.0),
        _convolution("wide", "dw_clip.out", 1),
        _node("Relu", "wide_relu", "wide.out"),
        _node(
            "MaxPool",
            "pool",
            "wide_relu.out",
            kernel_shape=(2, 2),
            strides=(2, 2),
            pads=(0, 0, 0, 0),
        ),
        _node("Flatten", "flatten", "pool.out", axis=1),
        _node("Gemm", "fc", "flatten.out", "fc.w", "fc.b", transB=1),
    ]
    types = {n.outputs[0]: TensorType(shape=(), dtype="float32") for n in nodes}
    types |= {"x": TensorType(shape=(1, 3, 16, 16), dtype="float32")}
    types |= {n: TensorType(shape=v.shape, dtype="float32") for n, v in constants.items()}
    return infer_types(
        Network(
            name="searched",
            inputs=("x",),
            outputs=("fc.out",),
            nodes=tuple(nodes),
            constants=constants,
            types=types,
            opset=18,
        )
    )


def quantized(net: Network, precisions: Mapping[str, Precision]) -> Network:
    """The network with some layers in int8, at scales that nobody looks at."""
    ranges = {name: Range(low=-1.0, high=1.0) for name in net.types}
    return quantize(net, precisions, ranges)


def space(*, widths: Mapping[str, tuple[int, ...]] | None = None) -> PlanSpace:
    """What can be decided about the network."""
    net = network()
    return plan_space(
        net,
        TARGET,
        variants={"int8": quantized(net, dict.fromkeys(LAYERS, "int8"))},
        groups=channel_groups(net),
        widths=widths,
    )


def _node(op: str, name: str, *inputs: str, **attributes: AttributeValue) -> Node:
    return Node(
        name=name, op=op, inputs=inputs, outputs=(f"{name}.out",), attributes=dict(attributes)
    )


def _convolution(name: str, source: str, size: int, *, stride: int = 1, group: int = 1) -> Node:
    before = (size - 1) // 2
    return _node(
        "Conv",
        name,
        source,
        f"{name}.w",
        f"{name}.b",
        kernel_shape=(size, size),
        strides=(stride, stride),
        dilations=(1, 1),
        pads=(before,) * 4,
        group=group,
    )
