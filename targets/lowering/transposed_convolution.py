"""A transposed convolution is a convolution whose channels then become pixels.

With stride s every output belongs to one of s x s phases, and outputs of one phase are a plain
convolution of the input with every s-th tap of the kernel. All phases have ``ceil(k / s)`` taps
(zeros where the kernel has fewer), so they are one convolution with ``s * s`` times the channels;
DepthToSpace lays the phases out, and crops what the padding takes away. For k = 2, s = 2 no
multiplication is wasted, nor for any k that s divides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from millifit.targets.importer.rewrite import Edit, Graph
from millifit.targets.lowering.rewriting import changed
from millifit.targets.network import Array, AttributeValue, Node, TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One spatial axis: taps of a phase, the convolution's padding and size, and what is cropped.

    Output position u - pad (u = stride * q + phase) is the sum over t of input q - t times tap
    ``phase + stride * t`` of the kernel.
    """

    stride: int
    kernel: int  # with the gaps that a dilation leaves
    taps: int
    before: int
    after: int
    made: int
    crop: int


def _axis(*, extent: int, out: int, kernel: int, stride: int, pad: int) -> _Axis:
    taps = math.ceil(kernel / stride)
    # The convolution may not crop, so it makes what the padding takes away; that is cropped later.
    first = min(pad // stride, taps - 1)
    last = max((pad + out - 1) // stride, extent - 1)
    return _Axis(
        stride=stride, kernel=kernel, taps=taps, before=taps - 1 - first, after=last - extent + 1,
        made=last - first + 1, crop=pad - first * stride,
    )  # fmt: skip


def conv_transpose(graph: Graph, node: Node) -> Edit | None:
    """ConvTranspose of maps with a constant weight: Conv, and DepthToSpace where it has strides."""
    if node.op != "ConvTranspose" or len(graph.shape(node.inputs[0])) != 4:
        return None
    source, weight_shape = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    group = int(str(node.attributes.get("group", 1)))
    outputs = weight_shape[1] * group
    vertical, horizontal = axes = _axes(graph, node, weight_shape)
    phases = vertical.stride * horizontal.stride

    def spread(values: Array) -> Array:
        """Per output channel to per phase and channel, in the order of the convolution."""
        values = np.tile(values, group) if values.size == weight_shape[1] else values
        return np.repeat(values, phases) if group > 1 else np.tile(values, phases)

    def convert(values: Array, zero: int) -> Array:
        return _weights(values, zero, node, group, axes)

    weight = changed(graph, node.inputs[1], "convolved", convert, spread, axis=1)
    if weight is None:
        return None
    changes, inputs = [weight], [node.inputs[0], weight.tensor]
    if graph.input(node, 2):
        bias = changed(graph, node.inputs[2], "phases", lambda v, _: spread(v), spread)
        if bias is None:
            return None
        changes.append(bias)
        inputs.append(bias.tensor)
    made = TensorType(
        shape=(source[0], outputs * phases, vertical.made, horizontal.made), dtype="float32"
    )
    moves = phases > 1 or made.shape != graph.shape(node.outputs[0])
    between = graph.fresh_tensor(f"{node.outputs[0]}:phases") if moves else node.outputs[0]
    conv = Node(
        name=node.name, op="Conv", inputs=tuple(inputs), outputs=(between,),
        attributes={
            "kernel_shape": (vertical.taps, horizontal.taps), "strides": (1, 1),
            "dilations": (1, 1), "group": group,
            "pads": (vertical.before, horizontal.before, vertical.after, horizontal.after),
        },
    )  # fmt: skip
    to_space = Node(
        name=graph.fresh_node(f"{node.name}:pixels"), op="DepthToSpace", inputs=(between,),
        outputs=node.outputs,
        attributes={
            "block": (vertical.stride, horizontal.stride), "mode": "CRD" if group > 1 else "DCR",
            "crop": (vertical.crop, horizontal.crop),
        },
    )  # fmt: skip
    return Edit(
        remove=(node,),
        insert=(*(n for c in changes for n in c.nodes), conv, *((to_space,) if moves else ())),
        constants={k: v for c in changes for k, v in c.constants.items()},
        types={between: made} | {k: v for c in changes for k, v in c.types.items()},
    )


def _axes(graph: Graph, node: Node, weight: tuple[int, ...]) -> tuple[_Axis, _Axis]:
    source, out = graph.shape(node.inputs[0])[2:], graph.shape(node.outputs[0])[2:]
    strides, dilations = _ints(node, "strides", (1, 1)), _ints(node, "dilations", (1, 1))
    padding, beyond = _ints(node, "pads", (0, 0, 0, 0)), _ints(node, "output_padding", (0, 0))
    rule = str(node.attributes.get("auto_pad", "NOTSET"))
    chosen = "output_shape" in node.attributes or rule.startswith("SAME")
    made = []
    for i in range(2):
        kernel = (weight[2 + i] - 1) * dilations[i] + 1
        pad = padding[i] if rule == "NOTSET" else 0
        if chosen:
            total = max(0, strides[i] * (source[i] - 1) + beyond[i] + kernel - out[i])
            pad = total // 2 if rule == "SAME_UPPER" else total - total // 2
        made.append(_axis(extent=source[i], out=out[i], kernel=kernel, stride=strides[i], pad=pad))
    return made[0], made[1]


def _weights(values: Array, zero: int, node: Node, group: int, axes: tuple[_Axis, _Axis]) -> Array:
    """[C, O/g, KH, KW] to [phases * O, C/g, taps, taps]; phases outside if there is one group."""
    inputs, outputs, *size = values.shape
    dilations = _ints(node, "dilations", (1, 1))
    wide = [axis.taps * axis.stride for axis in axes]
    full = np.full((inputs, outputs, *wide), zero, values.dtype)
    reach = [slice(0, (k - 1) * d + 1, d) for k, d in zip(size, dilations, strict=True)]
    full[:, :, reach[0], reach[1]] = values
    (ty, sy), (tx, sx) = ((axis.taps, axis.stride) for axis in axes)
    # [g, C/g, O/g, taps, phase, taps, phase], taps reversed as a convolution wants them
    parts = full.reshape(group, inputs // group, outputs, ty, sy, tx, sx)[:, :, :, ::-1, :, ::-1]
    order = (4, 6, 0, 2, 1, 3, 5) if group == 1 else (0, 2, 4, 6, 1, 3, 5)
    return parts.transpose(order).reshape(group * outputs * sy * sx, inputs // group, ty, tx)


def _ints(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value: AttributeValue = node.attributes.get(name, default)
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)
