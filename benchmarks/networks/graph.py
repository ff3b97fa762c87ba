"""Writing an ONNX graph layer by layer, with random weights that keep activations near 1."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
Activation = Literal["none", "relu", "relu6", "silu", "hard_swish"]

# A unit normal has this root mean square behind the activation; weights make up for it.
_AFTER = {"none": 1.0, "relu": 0.7071, "relu6": 0.7071, "silu": 0.5966, "hard_swish": 0.6079}


class Graph:
    """A graph of one input that grows node by node; every method returns its output's name.

    Batch normalization is taken as folded: layers have a weight and a bias. Weights are normal with
    variance 1 / fan-in, scaled up by what the activation behind takes away.
    """

    def __init__(self, name: str, shape: tuple[int, ...], *, seed: int, opset: int) -> None:
        self.name = name
        self.opset = opset
        self.shapes: dict[str, tuple[int, ...]] = {"input": shape}
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(
        self,
        op: str,
        *inputs: str,
        shape: tuple[int, ...],
        **attributes: int | float | str | list[int],
    ) -> str:
        """One node; `shape` is that of its output."""
        output = f"{op.lower()}_{len(self._nodes)}"
        node = helper.make_node(op, inputs, [output], output)
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self._nodes.append(node)
        self.shapes[output] = shape
        return output

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        """An initializer."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        self.shapes[name] = value.shape
        return name

    def normal(self, shape: tuple[int, ...], deviation: float) -> str:
        """An initializer with normal values."""
        return self.constant(self.values(shape, deviation))

    def values(self, shape: tuple[int, ...], deviation: float) -> Floats:
        """Normal values of the graph's generator."""
        return (deviation * self._rng.standard_normal(shape)).astype(np.float32)

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        group: int = 1,
        padding: int | None = None,
        activation: Activation = "none",
        gain: float = 1.0,
    ) -> str:
        """A square convolution, padded to keep the map's size (before the stride) by default."""
        _, c, h, w = self.shapes[x]
        pad = kernel // 2 if padding is None else padding
        fan_in = c // group * kernel * kernel
        deviation = gain / _AFTER[activation] / math.sqrt(fan_in)
        weight = self.normal((channels, c // group, kernel, kernel), deviation)
        bias = self.normal((channels,), 0.05)
        size = [(extent + 2 * pad - kernel) // stride + 1 for extent in (h, w)]
        y = self.add(
            "Conv", x, weight, bias, shape=(1, channels, *size), kernel_shape=[kernel, kernel],
            strides=[stride, stride], pads=[pad] * 4, group=group,
        )  # fmt: skip
        return self.activate(y, activation)

    def depthwise(
        self, x: str, kernel: int, *, stride: int, activation: Activation = "none"
    ) -> str:
        """A depthwise convolution."""
        c = self.shapes[x][1]
        return self.conv(x, c, kernel, stride=stride, group=c, activation=activation)

    def dense(
        self, x: str, units: int, *, activation: Activation = "none", gain: float = 1.0
    ) -> str:
        """``x @ W + b`` of a matrix ``[1, features]``, with the weight as ``[units, features]``."""
        features = self.shapes[x][1]
        weight = self.normal((units, features), gain / _AFTER[activation] / math.sqrt(features))
        y = self.add("Gemm", x, weight, self.normal((units,), 0.05), shape=(1, units), transB=1)
        return self.activate(y, activation)

    def activate(self, x: str, activation: Activation) -> str:
        """The activation function, in the operators that exporters write."""
        shape = self.shapes[x]
        match activation:
            case "none":
                return x
            case "relu":
                return self.add("Relu", x, shape=shape)
            case "relu6":
                bounds = [self.constant(np.array(v, np.float32)) for v in (0, 6)]
                return self.add("Clip", x, *bounds, shape=shape)
            case "silu":
                return self.add("Mul", x, self.add("Sigmoid", x, shape=shape), shape=shape)
            case "hard_swish":
                return self.add("HardSwish", x, shape=shape)

    def join(self, a: str, b: str) -> str:
        """The sum of two tensors of one shape."""
        return self.add("Add", a, b, shape=self.shapes[a])

    def scale(self, x: str, factors: str) -> str:
        """The product with factors that spread over `x`."""
        return self.add("Mul", x, factors, shape=self.shapes[x])

    def concat(self, *parts: str) -> str:
        """Maps of one size, channels side by side."""
        _, _, h, w = self.shapes[parts[0]]
        channels = sum(self.shapes[part][1] for part in parts)
        return self.add("Concat", *parts, shape=(1, channels, h, w), axis=1)

    def max_pool(self, x: str, kernel: int, *, stride: int, padding: int = 0, ceil: int = 0) -> str:
        """A square pool of maxima; `ceil` keeps a last window that only partly fits."""
        _, c, h, w = self.shapes[x]
        over = stride - 1 if ceil else 0
        size = [(extent + 2 * padding - kernel + over) // stride + 1 for extent in (h, w)]
        return self.add(
            "MaxPool", x, shape=(1, c, *size), kernel_shape=[kernel, kernel],
            strides=[stride, stride], pads=[padding] * 4, ceil_mode=ceil,
        )  # fmt: skip

    def mean(self, x: str) -> str:
        """The mean of every map, ``(1, C, 1, 1)``."""
        return self.add("GlobalAveragePool", x, shape=(1, self.shapes[x][1], 1, 1))

    def pooled(self, x: str) -> str:
        """The mean of every map as a row ``(1, C)``."""
        mean = self.mean(x)
        return self.add("Flatten", mean, shape=(1, self.shapes[x][1]), axis=1)

    def model(self, output: str, *, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """The finished model; `element` is the type of its input."""
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info("input", element, self.shapes["input"])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, self.shapes[output])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        version = helper.find_min_ir_version_for(opsets)
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=version, producer_name="millifit"
        )
