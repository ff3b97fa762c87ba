"""A space of networks like MobileNetV2: inverted residuals of any width, depth and precision.

After MobileNetV2 (arXiv 1801.04381, table 2), with the choices that MnasNet (1807.11626) and
Once-for-All (1908.09791) made usual: resolution, and per stage width, depth, kernel and expansion.
Precision is chosen per stage, too. Widths are rounded to multiples of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import Range
from millifit.search.knapsack import Option
from millifit.search.plan_space import precision_of
from millifit.search.space import Candidate, check_candidate
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Array, Network, Node, TensorType
from millifit.targets.target import Precision

_CLASSES = 1000
_HEAD_CHANNELS = 1280
_STEM_CHANNELS = 32
_OPSET = 18
_RELU6 = Range(low=0.0, high=6.0)
_LINEAR = Range(low=-6.0, high=6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Blocks of one width: channels at full width, blocks at full depth, stride of the first."""

    channels: int
    depth: int
    stride: int


_STAGES = (
    _Stage(channels=24, depth=2, stride=2),
    _Stage(channels=32, depth=3, stride=2),
    _Stage(channels=64, depth=4, stride=2),
    _Stage(channels=96, depth=3, stride=1),
    _Stage(channels=160, depth=3, stride=2),
    _Stage(channels=320, depth=1, stride=1),
)
_FIRST_CHANNELS = 16  # of the block without expansion that follows the stem


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetSpace:
    """Stages ``stage1`` to ``stage6``, each with a width, a depth, a kernel, an expansion and a
    precision; a resolution; and the precision of stem and head.
    """

    name: str = "mobilenet"
    resolutions: tuple[int, ...] = (96, 128, 160, 192, 224)
    widths: tuple[str, ...] = ("0.35", "0.5", "0.75", "1.0", "1.3")
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 4, 6)
    precisions: tuple[Precision, ...] = ("fp32", "int8")

    @property
    def variables(self) -> Mapping[str, tuple[Option, ...]]:
        """The options of every variable, in order."""
        found: dict[str, tuple[Option, ...]] = {
            "resolution": self.resolutions,
            "ends.width": self.widths,
            "ends.precision": self.precisions,
        }
        for number, stage in enumerate(_STAGES, start=1):
            found[f"stage{number}.width"] = self.widths
            found[f"stage{number}.depth"] = tuple(range(1, stage.depth + 1))
            found[f"stage{number}.kernel"] = self.kernels
            found[f"stage{number}.expansion"] = self.expansions
            found[f"stage{number}.precision"] = self.precisions
        return found

    def network(self, candidate: Candidate) -> Network:
        """The network of a candidate, ``(1, 3, R, R)`` to 1000 classes. See `SearchSpace`."""
        check_candidate(self, candidate)
        graph = _Graph(int(candidate["resolution"]))
        ends = precision_of(candidate["ends.precision"])
        width = candidate["ends.width"]
        graph.conv(_scaled(_STEM_CHANNELS, width), kernel=3, stride=2, precision=ends)
        graph.inverted_residual(
            _scaled(_FIRST_CHANNELS, width), expansion=1, kernel=3, stride=1, precision=ends
        )
        for number, stage in enumerate(_STAGES, start=1):
            chosen = {
                key: candidate[f"stage{number}.{key}"]
                for key in ("width", "depth", "kernel", "expansion", "precision")
            }
            for block in range(int(chosen["depth"])):
                graph.inverted_residual(
                    _scaled(stage.channels, chosen["width"]),
                    expansion=int(chosen["expansion"]),
                    kernel=int(chosen["kernel"]),
                    stride=stage.stride if block == 0 else 1,
                    precision=precision_of(chosen["precision"]),
                )
        graph.conv(max(_HEAD_CHANNELS, _scaled(_HEAD_CHANNELS, width)), precision=ends)
        return graph.classifier(_CLASSES, precision=ends, name=self.name)


def _scaled(channels: int, width: Option) -> int:
    """Channels times a width, to the nearest multiple of 8, at least 8."""
    return max(8, round(channels * float(width) / 8) * 8)


class _Graph:
    """A network in the making: every method continues at the last tensor, ``[1, C, H, W]``."""

    def __init__(self, resolution: int) -> None:
        self._types = {"input": _float32((1, 3, resolution, resolution))}
        self._constants: dict[str, Array] = {}
        self._nodes: list[Node] = []
        self._precisions: dict[str, Precision] = {}
        self._ranges: dict[str, Range] = {"input": _LINEAR}
        self._last = "input"

    def conv(
        self,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        precision: Precision,
        depthwise: bool = False,
        activation: bool = True,
    ) -> None:
        """A convolution that keeps the size before the stride, and ReLU6 behind it."""
        _, inputs, height, width = self._types[self._last].shape
        name = f"conv{len(self._precisions)}"
        self._weights(name, (channels, 1 if depthwise else inputs, kernel, kernel))
        self._precisions[name] = precision
        pad = kernel // 2
        shape = (
            1,
            channels,
            *(1 + (size + 2 * pad - kernel) // stride for size in (height, width)),
        )
        self._add(
            Node(
                name=name,
                op="Conv",
                inputs=(self._last, f"{name}.weight", f"{name}.bias"),
                outputs=(name,),
                attributes={
                    "kernel_shape": (kernel, kernel),
                    "strides": (stride, stride),
                    "dilations": (1, 1),
                    "pads": (pad, pad, pad, pad),
                    "group": inputs if depthwise else 1,
                },
            ),
            shape,
            _LINEAR,
        )
        if activation:
            relu6 = f"{name}.relu6"
            limits = {"min": 0.0, "max": 6.0}
            node = Node(name=relu6, op="Clip", inputs=(name,), outputs=(relu6,), attributes=limits)
            self._add(node, shape, _RELU6)

    def inverted_residual(
        self, channels: int, *, expansion: int, kernel: int, stride: int, precision: Precision
    ) -> None:
        """Expand, filter, project; the input is added where shapes agree (1801.04381, fig. 4)."""
        before = self._last
        inputs = self._types[before].shape[1]
        if expansion > 1:
            self.conv(inputs * expansion, precision=precision)
        self.conv(
            self._types[self._last].shape[1],
            kernel=kernel,
            stride=stride,
            precision=precision,
            depthwise=True,
        )
        self.conv(channels, precision=precision, activation=False)
        if self._types[before] == self._types[self._last]:
            name = f"{self._last}.sum"
            node = Node(name=name, op="Add", inputs=(self._last, before), outputs=(name,))
            self._add(node, self._types[before].shape, _LINEAR)

    def classifier(self, classes: int, *, precision: Precision, name: str) -> Network:
        """Pool, flatten and a dense layer end the network, which is then in its precisions."""
        channels = self._types[self._last].shape[1]
        pool = Node(name="pool", op="GlobalAveragePool", inputs=(self._last,), outputs=("pool",))
        self._add(pool, (1, channels, 1, 1), _RELU6)
        flat = Node(
            name="flat", op="Flatten", inputs=("pool",), outputs=("flat",), attributes={"axis": 1}
        )
        self._add(flat, (1, channels), _RELU6)
        self._weights("classes", (classes, channels))
        self._precisions["classes"] = precision
        dense = Node(
            name="classes",
            op="Gemm",
            inputs=("flat", "classes.weight", "classes.bias"),
            outputs=("classes",),
            attributes={"transB": 1, "transA": 0, "alpha": 1.0, "beta": 1.0},
        )
        self._add(dense, (1, classes), _LINEAR)
        network = Network(
            name=name,
            inputs=("input",),
            outputs=("classes",),
            nodes=tuple(self._nodes),
            constants=self._constants,
            types=self._types,
            opset=_OPSET,
        )
        return simplify(quantize(network, self._precisions, self._ranges))

    def _add(self, node: Node, shape: tuple[int, ...], seen: Range) -> None:
        (self._last,) = node.outputs
        self._nodes.append(node)
        self._types[self._last] = _float32(shape)
        self._ranges[self._last] = seen

    def _weights(self, name: str, shape: tuple[int, ...]) -> None:
        """A weight and a bias: a wave around zero, so that no value is tiny and none alike."""
        fan_in = int(np.prod(shape[1:]))
        wave = np.sin(np.arange(int(np.prod(shape)), dtype=np.float32)) / np.float32(fan_in**0.5)
        for part, value in (("weight", wave.reshape(shape)), ("bias", wave[: shape[0]])):
            self._constants[f"{name}.{part}"] = value
            self._types[f"{name}.{part}"] = _float32(value.shape)


def _float32(shape: tuple[int, ...]) -> TensorType:
    return TensorType(shape=shape, dtype="float32")
