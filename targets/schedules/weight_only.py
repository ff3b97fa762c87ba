"""Dense layers on few rows whose weights are integers in memory and floats in registers.

Such a layer takes as long as its weights take to arrive, so fewer bytes are less time. A panel is
`vectors` vectors of output channels; its weights lie as ``[panel][input][channel]``, one byte each,
or, with 4 bits, one byte for two: the lower half of the byte belongs to a channel of the first
vector of a pair, the upper half to one of the second. Within a block of inputs that share a scale
the integers themselves are multiplied and added; then the sum is scaled once::

    y[o] = bias[o] + sum over blocks b of scale[o, b] * sum over k in b of x[k] * w[o, k]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import epilogue, tir
from millifit.targets.schedules.code import Constants, KernelCode, number, signature
from millifit.targets.target import Target

_PARALLEL_WEIGHTS = 1 << 18
# What the 16 patterns of 4 bits stand for: two's complement.
_VALUES = np.asarray([*range(8), *range(-8, 0)], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    kernel: Kernel
    rows: int
    inputs: int
    outputs: int
    block: int
    lanes: int
    vectors: int
    parallel: bool
    looks_up: bool  # whether a register of 16 floats can be indexed by the lower 4 bits of lanes

    @property
    def width(self) -> int:
        """Channels of a panel."""
        return self.lanes * self.vectors

    @property
    def panels(self) -> int:
        return math.ceil(self.outputs / self.width)

    @property
    def blocks(self) -> int:
        return math.ceil(self.inputs / self.block)

    @property
    def nibbles(self) -> bool:
        return self.kernel.precision == "w4"

    @property
    def step_bytes(self) -> int:
        """Bytes of a panel's weights for one input."""
        return self.width // 2 if self.nibbles else self.width


def weight_only(kernel: Kernel, target: Target) -> KernelCode:
    """Code and operands of a dense kernel of precision w8 or w4.

    ``weight: [O, I]`` are the integers, ``weight_scale: [O, blocks]`` their scales; the attribute
    ``block`` is the inputs that share one, absent where all do.
    """
    plan = _design(kernel, target)
    packed = plan.panels * plan.width
    operands = {
        "weight": TensorType(shape=(plan.panels * plan.inputs * plan.step_bytes,), dtype="int8"),
        "scale": TensorType(shape=(packed * plan.blocks,), dtype="float32"),
        "bias": TensorType(shape=(packed,), dtype="float32"),
        "values": TensorType(shape=_VALUES.shape, dtype="float32"),
        "scalars": epilogue.SCALARS_TYPE,
    }
    if not plan.looks_up:
        del operands["values"]
    parameters = signature(kernel, operands)
    body = tir.loop(
        plan.panels,
        lambda panel: _panel(plan, parameters.views, panel),
        name="panel",
        parallel=plan.parallel,
    )
    return KernelCode(
        function=parameters.function(body),
        operands=tuple(operands.values()),
        pack=lambda constants: _pack(plan, constants),
    )


def _design(kernel: Kernel, target: Target) -> _Design:
    rows, inputs = kernel.inputs[0].shape
    outputs = kernel.output.shape[1]
    block = int(number(kernel, "block", inputs))
    # Sums of a block and of the whole, one register each, in half of the registers.
    per_vector = rows * (2 if block < inputs else 1)
    vectors = 8
    while vectors > 2 and (
        vectors * per_vector > target.vector_registers // 2
        or (vectors // 2) * target.fp32_lanes >= outputs
    ):
        vectors //= 2
    return _Design(
        kernel=kernel, rows=rows, inputs=inputs, outputs=outputs, block=block,
        lanes=target.fp32_lanes, vectors=vectors,
        parallel=target.threads > 1 and inputs * outputs >= _PARALLEL_WEIGHTS,
        looks_up=target.triple.startswith("x86_64") and target.vector_bits == 512
        and kernel.precision == "w4",
    )  # fmt: skip


def _panel(plan: _Design, views: Mapping[str, tir.Buffer], panel: tir.Expr) -> list[tir.Statement]:
    """One panel of channels for all rows; the full panels and the ragged last one alike."""
    allocation, sums = tir.scratch("sums", plan.rows * plan.width, "float32", registers=True)
    partly, partial = tir.scratch("partial", plan.rows * plan.width, "float32", registers=True)
    written = [allocation, partly]
    values = None
    if plan.looks_up:
        loaded = tir.load(views["values"], 0, plan.lanes)
        named, values = tir.bind("values", loaded, "float32", plan.lanes)
        written.append(named)
    for vector in range(plan.vectors):
        at = panel * plan.width + vector * plan.lanes
        bias = tir.load(views["bias"], at, plan.lanes)
        named, start = tir.bind(f"bias{vector}", bias, "float32", plan.lanes)
        written.append(named)
        written += [
            tir.store(sums, _at(plan, row, vector), start, plan.lanes) for row in range(plan.rows)
        ]
    whole, rest = divmod(plan.inputs, plan.block)
    written += tir.loop(
        whole,
        lambda b: _block(plan, views, values, panel, b, plan.block, sums, partial),
        name="block",
    )
    if rest:
        written += _block(plan, views, values, panel, tir.const(whole), rest, sums, partial)
    return [*written, *_finish(plan, views, panel, sums)]


def _at(plan: _Design, row: int, vector: int) -> int:
    return (row * plan.vectors + vector) * plan.lanes


def _block(
    plan: _Design,
    views: Mapping[str, tir.Buffer],
    values: tir.Expr | None,
    panel: tir.Expr,
    block: tir.Expr,
    extent: int,
    sums: tir.Buffer,
    partial: tir.Buffer,
) -> list[tir.Statement]:
    """Multiply and add the inputs of one block, then scale the sum."""
    spots = [(row, vector) for row in range(plan.rows) for vector in range(plan.vectors)]
    zero = tir.const(0.0, "float32", plan.lanes)
    written = [tir.store(partial, _at(plan, *spot), zero, plan.lanes) for spot in spots]

    def step(k: tir.Expr) -> list[tir.Statement]:
        k = block * plan.block + k
        bindings, weights = _weights(plan, views["weight"], values, panel, k)
        made = list(bindings)
        for row in range(plan.rows):
            x = tir.load(views["input"], row * plan.inputs + k)
            named, activation = tir.bind(f"x{row}", x, "float32")
            made.append(named)
            spread = tir.splat(activation, plan.lanes)
            for vector, weight in enumerate(weights):
                at = _at(plan, row, vector)
                total = tir.load(partial, at, plan.lanes) + spread * weight
                made.append(tir.store(partial, at, total, plan.lanes))
        return made

    written += tir.loop(extent, step, name="k")
    scales = (panel * plan.blocks + block) * plan.width
    for row, vector in spots:
        at = _at(plan, row, vector)
        scale = tir.load(views["scale"], scales + vector * plan.lanes, plan.lanes)
        scaled = tir.load(sums, at, plan.lanes) + tir.load(partial, at, plan.lanes) * scale
        written.append(tir.store(sums, at, scaled, plan.lanes))
    return written


def _weights(
    plan: _Design, buffer: tir.Buffer, values: tir.Expr | None, panel: tir.Expr, k: tir.Expr
) -> tuple[list[tir.Statement], list[tir.Expr]]:
    """One input's weights of a panel as floats: what binds them, and each vector's variable.

    Where the target can, 4 bits look their float up in the register `values`; else they are shifted
    to the ends of a lane, to keep their sign, and converted.
    """
    lanes = plan.lanes
    base = (panel * plan.inputs + k) * plan.step_bytes
    bindings: list[tir.Statement] = []
    weights: list[tir.Expr] = []

    def bind(value: tir.Expr) -> None:
        named, variable = tir.bind(f"w{len(weights)}", value, "float32", lanes)
        bindings.append(named)
        weights.append(variable)

    if not plan.nibbles:
        for vector in range(plan.vectors):
            loaded = tir.load(buffer, base + vector * lanes, lanes)
            bind(tir.cast(tir.cast(loaded, "int32", lanes), "float32", lanes))
        return bindings, weights
    for pair in range(plan.vectors // 2):
        loaded = tir.cast(tir.load(buffer, base + pair * lanes, lanes), "int32", lanes)
        named, both = tir.bind(f"pair{pair}", loaded, "int32", lanes)
        bindings.append(named)
        upper = both >> tir.const(4, "int32", lanes)
        if values is not None:
            look_up = "llvm.x86.avx512.permvar.sf.512"
            bind(tir.llvm(look_up, "float32", lanes, values, both))
            bind(tir.llvm(look_up, "float32", lanes, values, upper))
            continue
        top = tir.const(28, "int32", lanes)
        bind(tir.cast((both << top) >> top, "float32", lanes))
        bind(tir.cast(upper, "float32", lanes))
    return bindings, weights


def _finish(
    plan: _Design, views: Mapping[str, tir.Buffer], panel: tir.Expr, sums: tir.Buffer
) -> list[tir.Statement]:
    from tvm.tirx import stmt

    def vectors(valid: int) -> list[tir.Statement]:
        written: list[tir.Statement] = []
        for row in range(plan.rows):
            for vector in range(math.ceil(valid / plan.lanes)):
                channel = panel * plan.width + vector * plan.lanes
                written += epilogue.write(
                    tir.load(sums, _at(plan, row, vector), plan.lanes),
                    kernel=plan.kernel,
                    channel=channel,
                    buffers=views,
                    out=row * plan.outputs + channel,
                    lanes=plan.lanes,
                    valid=min(plan.lanes, valid - vector * plan.lanes),
                )
        return written

    rest = plan.outputs % plan.width
    if not rest:
        return vectors(plan.width)
    if plan.panels == 1:
        return vectors(rest)
    last = panel == plan.panels - 1
    return [stmt.IfThenElse(last, tir.sequence(vectors(rest)), tir.sequence(vectors(plan.width)))]


def _pack(plan: _Design, constants: Constants) -> tuple[Array, ...]:
    packed = plan.panels * plan.width
    full = np.zeros((packed, plan.inputs), np.int8)
    full[: plan.outputs] = constants["weight"].astype(np.int8)
    panels = full.reshape(plan.panels, plan.vectors, plan.lanes, plan.inputs)
    panels = panels.transpose(0, 3, 1, 2)  # [panel, input, vector, lane]
    if plan.nibbles:
        low, high = panels[:, :, 0::2], panels[:, :, 1::2]
        panels = (low & 15) | (high << 4)
    scales = np.zeros((packed, plan.blocks), np.float32)
    scales[: plan.outputs] = constants["weight_scale"]
    ordered = scales.reshape(plan.panels, plan.width, plan.blocks).transpose(0, 2, 1)
    bias = np.zeros(packed, np.float32)
    bias[: plan.outputs] = constants["bias"]
    weight = np.ascontiguousarray(panels).ravel()
    table = (_VALUES,) if plan.looks_up else ()
    scale = np.ascontiguousarray(ordered).ravel()
    return weight, scale, bias, *table, epilogue.pack_scalars(constants)
