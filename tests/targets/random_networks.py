"""Random small networks of the blocks that real ones are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper
from onnx_models import Floats, onnx_model


class _Builder:
    """Appends nodes; `shape` is that of the last tensor, ``(channels, height, width)``."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Floats] = {}
        self.shape = shape
        self.last = "x"

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """A node; `inputs` are the last tensor unless given."""
        made = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs or (self.last,)), [made], made, **attributes)
        )
        self.last = made
        return made

    def weight(self, *shape: int) -> list[str]:
        """A weight of He's size and a bias."""
        names = [f"w{len(self.constants)}", f"b{len(self.constants)}"]
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        self.constants[names[0]] = (self.rng.standard_normal(shape) * deviation).astype(np.float32)
        self.constants[names[1]] = (self.rng.standard_normal(shape[0]) * 0.1).astype(np.float32)
        return names

    def conv(self, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> str:
        """A convolution padded to the size of its input."""
        channels, height, width = self.shape
        names = self.weight(outputs, channels // groups, size, size)
        self.shape = (outputs, -(-height // stride), -(-width // stride))
        return self.add(
            "Conv", self.last, *names, strides=[stride] * 2, group=groups, pads=[size // 2] * 4
        )

    def clip(self) -> str:
        """ReLU6."""
        self.constants |= {"zero": np.zeros((), np.float32), "six": np.full((), 6, np.float32)}
        return self.add("Clip", self.last, "zero", "six")


def _plain(b: _Builder) -> None:
    b.conv(int(b.rng.integers(4, 25)), int(b.rng.choice([1, 3, 5])), int(b.rng.choice([1, 1, 2])))
    b.add("Relu")


def _separable(b: _Builder) -> None:
    b.conv(b.shape[0], int(b.rng.choice([3, 5])), int(b.rng.choice([1, 2])), groups=b.shape[0])
    b.add("Relu")
    b.conv(int(b.rng.integers(4, 25)))
    b.clip()


def _inverted_residual(b: _Builder) -> None:
    source, channels = b.last, b.shape[0]
    b.conv(2 * channels)
    b.clip()
    b.conv(2 * channels, 3, groups=2 * channels)
    b.clip()
    b.add("Add", source, b.conv(channels))


def _residual(b: _Builder) -> None:
    source, channels = b.last, b.shape[0]
    b.conv(channels, 3)
    b.add("Relu")
    b.add("Add", b.conv(channels, 3), source)
    b.add("Relu")


def _two_branches(b: _Builder) -> None:
    source, shape, channels = b.last, b.shape, int(b.rng.integers(4, 17))
    left = b.conv(channels)
    b.last, b.shape = source, shape
    b.add("Add", left, b.conv(channels, 3))
    b.add("Relu")


def _grouped(b: _Builder) -> None:
    b.conv(8)
    b.conv(12, 3, groups=4)
    b.add("Relu")


def _max_pool(b: _Builder) -> None:
    if min(b.shape[1:]) >= 4:
        b.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        b.shape = (b.shape[0], -(-b.shape[1] // 2), -(-b.shape[2] // 2))


def _average_pool(b: _Builder) -> None:
    if min(b.shape[1:]) >= 4:
        b.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
        b.shape = (b.shape[0], b.shape[1] // 2, b.shape[2] // 2)


def _squeeze_excite(b: _Builder) -> None:
    source, shape = b.last, b.shape
    b.add("GlobalAveragePool")
    b.shape = (shape[0], 1, 1)
    b.conv(4)
    b.add("Relu")
    b.conv(shape[0])
    b.add("Mul", source, b.add("Sigmoid"))
    b.shape = shape


def _concatenated(b: _Builder) -> None:
    source, shape = b.last, b.shape
    made = b.conv(int(b.rng.integers(3, 9)), 3)
    b.add("Concat", source, made, axis=1)
    b.shape = (shape[0] + b.shape[0], *shape[1:])


def _hard_swish(b: _Builder) -> None:
    b.conv(int(b.rng.integers(4, 17)))
    b.add("HardSwish")


_BLOCKS: tuple[Callable[[_Builder], None], ...] = (
    _plain, _separable, _inverted_residual, _residual, _two_branches, _grouped, _max_pool,
    _average_pool, _squeeze_excite, _concatenated, _hard_swish,
)  # fmt: skip


def random_network(seed: int) -> tuple[onnx.ModelProto, tuple[int, int, int]]:
    """A classifier of a stem, up to five blocks and a head, and the shape of its samples."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.choice([1, 3, 4])), int(rng.integers(8, 18)), int(rng.integers(8, 18)))
    builder = _Builder(rng, shape)
    _plain(builder)
    for place in rng.choice(len(_BLOCKS), size=int(rng.integers(2, 6))):
        _BLOCKS[place](builder)
    features = int(np.prod(builder.shape))
    if rng.random() < 0.7:
        builder.add("GlobalAveragePool")
        features = builder.shape[0]
    builder.add("Flatten")
    if rng.random() < 0.4:
        builder.add("Gemm", builder.last, *builder.weight(16, features), transB=1)
        builder.add("Relu")
        features = 16
    made = builder.add("Gemm", builder.last, *builder.weight(7, features), transB=1)
    return onnx_model(
        builder.nodes, builder.constants, shape=(1, *shape), output=made, opset=18
    ), shape
