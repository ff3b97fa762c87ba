"""Small networks in the normal form that simplification gives, and data for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from millifit.targets.importer.infer import infer_types
from millifit.targets.network import Array, AttributeValue, Network, Node, TensorType


def node(op: str, name: str, *inputs: str, **attributes: AttributeValue) -> Node:
    """A node whose output is called ``name.out``."""
    return Node(
        name=name, op=op, inputs=inputs, outputs=(f"{name}.out",), attributes=dict(attributes)
    )


def network(
    nodes: list[Node],
    constants: Mapping[str, Array],
    *,
    shape: tuple[int, ...],
    output: str | None = None,
) -> Network:
    """A network that reads ``x`` of `shape` and answers `output`, or its last node's output."""
    # A Clip's bounds have the type of its input, which must be known before shapes are inferred.
    types = {n.outputs[0]: TensorType(shape=(), dtype="float32") for n in nodes}
    types |= {"x": TensorType(shape=shape, dtype="float32")} | {
        name: TensorType(shape=value.shape, dtype=value.dtype.name)
        for name, value in constants.items()
    }
    return infer_types(
        Network(
            name="small",
            inputs=("x",),
            outputs=(output or nodes[-1].outputs[0],),
            nodes=tuple(nodes),
            constants=constants,
            types=types,
            opset=18,
        )
    )


def conv(
    name: str,
    source: str,
    *,
    kernel: int = 1,
    stride: int = 1,
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    group: int = 1,
) -> Node:
    """A convolution with the constants ``name.w`` and ``name.b``."""
    return node(
        "Conv",
        name,
        source,
        f"{name}.w",
        f"{name}.b",
        kernel_shape=(kernel, kernel),
        strides=(stride, stride),
        dilations=(1, 1),
        pads=pads,
        group=group,
    )


def residual(seed: int = 0) -> Network:
    """All that matters in 8 layers: a residual, a depthwise layer, pooling, Flatten, a Gemm.

    ``[1, 3, 16, 16] -> conv1 + Relu -> conv2 -> Add + Relu -> dw3 + Clip -> conv4 + Relu
    -> MaxPool -> Flatten -> fc -> [1, 5]``
    """
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Array:
        fan_in = int(np.prod(shape[1:]))
        return (rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    def bias(size: int) -> Array:
        return (rng.normal(size=size) * 0.1).astype(np.float32)

    constants: dict[str, Array] = {}
    for name, shape in (
        ("conv1", (8, 3, 3, 3)),
        ("conv2", (8, 8, 3, 3)),
        ("dw3", (8, 1, 3, 3)),
        ("conv4", (16, 8, 1, 1)),
        ("fc", (5, 64)),
    ):
        constants[f"{name}.w"], constants[f"{name}.b"] = weight(*shape), bias(shape[0])
    nodes = [
        conv("conv1", "x", kernel=3, stride=2, pads=(0, 0, 1, 1)),
        node("Relu", "relu1", "conv1.out"),
        conv("conv2", "relu1.out", kernel=3, pads=(1, 1, 1, 1)),
        node("Add", "add", "conv2.out", "relu1.out"),
        node("Relu", "relu2", "add.out"),
        conv("dw3", "relu2.out", kernel=3, stride=2, pads=(0, 0, 1, 1), group=8),
        node("Clip", "clip3", "dw3.out", min=0.0, max=6.0),
        conv("conv4", "clip3.out"),
        node("Relu", "relu4", "conv4.out"),
        node(
            "MaxPool",
            "pool",
            "relu4.out",
            kernel_shape=(2, 2),
            strides=(2, 2),
            pads=(0, 0, 0, 0),
            dilations=(1, 1),
            ceil_mode=0,
        ),
        node("Flatten", "flatten", "pool.out", axis=1),
        node("Gemm", "fc", "flatten.out", "fc.w", "fc.b", transB=1),
    ]
    return network(nodes, constants, shape=(1, 3, 16, 16))


def images(count: int, seed: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Smooth random images ``[count, 3, 16, 16]``."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, 4, 4)).astype(np.float32)
    return np.kron(coarse, np.ones((1, 1, 4, 4), dtype=np.float32))
