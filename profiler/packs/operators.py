"""From a row of numbers, as tables list operators, to the kernel that it describes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from millifit.targets.kernel import Kernel, KernelAttribute
from millifit.targets.network import TensorType
from millifit.targets.target import Precision, activation_dtype

_Pair = tuple[int, int]
_Shape = tuple[int, ...]
_Attributes = tuple[tuple[str, KernelAttribute], ...]

_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("conv", "convolution", "convolution2d", "conv2dgroup", "groupconv2d", "conv1x1"),
    "depthwise_conv2d": (
        "depthwise", "depthwiseconv", "depthwiseconvolution", "dwconv", "dwconv2d", "dw",
    ),
    "dense": ("fullyconnected", "fc", "linear", "gemm"),
    "max_pool": ("maxpool2d", "maxpooling", "maxpooling2d"),
    "avg_pool": ("avgpool2d", "averagepool", "averagepool2d", "averagepooling2d"),
    "global_avg_pool": ("mean", "globalaveragepool", "globalavgpool2d", "globalaveragepooling2d"),
    "global_max_pool": ("globalmaxpool2d", "globalmaxpooling2d"),
    "concat": ("concatenation", "concatenate"),
}  # fmt: skip
_BINARY = ("add", "sub", "mul", "div", "min", "max", "pow")
_OPERATORS = {
    re.sub(r"[^a-z0-9]", "", spelling): op
    for op, others in (*_SPELLINGS.items(), *((op, ()) for op in _BINARY))
    for spelling in (op, *others)
}
_PRECISIONS: Mapping[str, Precision] = {
    "fp32": "fp32", "float32": "fp32", "f32": "fp32", "float": "fp32",
    "fp16": "fp16", "float16": "fp16", "f16": "fp16", "half": "fp16",
    "bf16": "bf16", "bfloat16": "bf16",
    "int8": "int8", "uint8": "int8", "i8": "int8", "quant": "int8",
    "w7a8": "w7a8", "w8": "w8", "w4": "w4",
}  # fmt: skip


class Operator(NamedTuple):
    """One operator as tables list them: channels-last maps of height, width and channels.

    `op` and `precision` are names of `operator_name` and `precision_name`. An `out_h` or `out_w` of
    0 is not stated: it follows from `padding`, which is a number of pixels on each side, or -1 for
    what keeps ``ceil(in / stride)`` positions. `epilogue` holds what is fused, "+" between.
    """

    op: str
    in_h: int
    in_w: int
    in_ch: int
    out_ch: int
    precision: Precision
    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    out_h: int = 0
    out_w: int = 0
    batch: int = 1
    groups: int = 1
    dilation: int = 1
    padding: int = -1
    n_inputs: int = 1
    epilogue: str = ""

    @property
    def kernel(self) -> Kernel:
        """The kernel: 'conv_2d' of 58 x 58 x 64 to 56 x 56 x 32 by 3 x 3 has no padding left.

        Raises ValueError where the numbers describe no operator.
        """
        op = self._op
        height, width = self._output
        inputs: list[_Shape] = [(self.batch, self.in_h, self.in_w, self.in_ch)]
        output: _Shape = (self.batch, height, width, self.out_ch)
        attributes: _Attributes = ()
        match op:
            case "conv2d" | "depthwise_conv2d" | "max_pool" | "avg_pool":
                attributes = self._window(op, (height, width))
            case "global_avg_pool" | "global_max_pool":
                output = (self.batch, 1, 1, self.in_ch)
            case "dense":
                inputs = [(self.batch, self.in_h * self.in_w * self.in_ch)]
                output = (self.batch, self.out_ch)
            case "concat":
                inputs, attributes = self._parts(), (("axis", 3),)
            case _:
                parts = max(self.n_inputs, 2 if op in _BINARY else 1)
                inputs = inputs * parts
                if (self.kernel_h, self.kernel_w, self.stride_h, self.stride_w) != (1, 1, 1, 1):
                    attributes = self._window(op, (height, width))
        steps, operands = _epilogue(self.epilogue)
        inputs += [output] * operands
        return Kernel(
            op=op,
            inputs=tuple([_map(shape, self.precision) for shape in inputs]),
            output=_map(output, self.precision),
            precision=self.precision,
            attributes=attributes,
            epilogue=steps,
        )

    @property
    def _op(self) -> str:
        """A convolution of as many groups as channels is depthwise, whatever the table says."""
        if self.op == "conv2d" and self.groups > 1 and self.groups == self.in_ch == self.out_ch:
            return "depthwise_conv2d"
        if self.op == "conv2d" and (self.in_ch % self.groups or self.out_ch % self.groups):
            raise ValueError(
                f"{self.in_ch} input and {self.out_ch} output channels have no {self.groups} groups"
            )
        return self.op

    @property
    def _output(self) -> _Pair:
        height = self.out_h or self._extent(self.in_h, self.kernel_h, self.stride_h)
        width = self.out_w or self._extent(self.in_w, self.kernel_w, self.stride_w)
        if height < 1 or width < 1:
            raise ValueError(
                f"a kernel of {self.kernel_h} x {self.kernel_w} is larger than its "
                f"{self.in_h} x {self.in_w} input"
            )
        return height, width

    def _extent(self, extent: int, kernel: int, stride: int) -> int:
        if self.padding < 0:
            return -(-extent // stride)
        reach = self.dilation * (kernel - 1) + 1
        return (extent + 2 * self.padding - reach) // stride + 1

    def _window(self, op: str, output: _Pair) -> _Attributes:
        size = ((self.in_h, self.in_w), output)
        window = ((self.kernel_h, self.kernel_w), (self.stride_h, self.stride_w), self.dilation)
        return _window(op, self.groups, *size, *window)

    def _parts(self) -> list[_Shape]:
        """The first input has `in_ch`; the others share the rest of the output's channels."""
        others = self.n_inputs - 1
        rest = self.out_ch - self.in_ch
        if others < 1 or rest < others:
            raise ValueError(
                f"{self.n_inputs} inputs, the first of {self.in_ch} channels, do not make "
                f"{self.out_ch} channels"
            )
        shares = [rest // others + (i < rest % others) for i in range(others)]
        return [(self.batch, self.in_h, self.in_w, share) for share in (self.in_ch, *shares)]


def operator_name(name: str) -> tuple[str, bool]:
    """What an operator is called here, and whether that is known: 'Conv_2D' -> conv2d, True.

    One that is not known keeps its name.
    """
    known = _OPERATORS.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    return (name, False) if known is None else (known, True)


def precision_name(name: str) -> Precision:
    """What a precision is called here: 'float16' -> fp16. Raises ValueError for an unknown one."""
    known = _PRECISIONS.get(name.strip().lower())
    if known is None:
        raise ValueError(f"precision '{name}' is unknown; known are fp32, fp16, bf16, int8")
    return known


def kernels_of(operators: Iterable[Operator]) -> list[Kernel]:
    """The kernel of every operator; equal operators share one. Raises ValueError naming the row."""
    made: dict[Operator, Kernel] = {}
    found: list[Kernel] = []
    for row, operator in enumerate(operators, start=1):
        kernel = made.get(operator)
        if kernel is None:
            try:
                kernel = made[operator] = operator.kernel
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
        found.append(kernel)
    return found


# Tables have few windows, shapes and epilogues in many rows.
@lru_cache(maxsize=2**16)
def _window(
    op: str, groups: int, size: _Pair, out: _Pair, kernel: _Pair, stride: _Pair, dilation: int
) -> _Attributes:
    """Attributes of what slides over a map, in order; the odd pixel of padding comes last."""
    reach = [(out[i] - 1) * stride[i] + dilation * (kernel[i] - 1) + 1 for i in (0, 1)]
    over = [max(0, reach[i] - size[i]) for i in (0, 1)]
    first = [pixels // 2 for pixels in over]
    found: dict[str, KernelAttribute] = {
        "kernel": kernel,
        "strides": stride,
        "pads": (first[0], first[1], over[0] - first[0], over[1] - first[1]),
    }
    if "conv" in op or dilation != 1:
        found["dilations"] = (dilation, dilation)
    if op == "conv2d":
        found["groups"] = groups
    if op == "avg_pool":
        found["count_include_pad"] = 0
    return tuple(sorted(found.items()))


@lru_cache(maxsize=2**16)
def _map(shape: _Shape, precision: Precision) -> TensorType:
    return TensorType(shape=shape, dtype=activation_dtype(precision))


@lru_cache
def _epilogue(text: str) -> tuple[tuple[str, ...], int]:
    """The steps of an epilogue, and how many maps they read: one per addition.

    That of a folded normalization, a multiplication and an addition, reads one value per channel.
    """
    steps = tuple(step.strip() for step in text.split("+") if step.strip())
    pairs = zip(("", *steps), steps, strict=False)
    return steps, sum(step == "add" and before != "mul" for before, step in pairs)
