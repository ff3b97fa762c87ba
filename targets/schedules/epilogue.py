"""What is fused behind a kernel's arithmetic: scale, activation, residual, requantization.

The scalars that depend on a layer's quantization are operands (`Scalars`), so that they are no part
of a kernel's identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules import activation, half, narrow, tir
from millifit.targets.schedules.code import Constants

# Position of each scalar in the operand that carries them all.
_SCALARS = (
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "output_low",  # limits of the quantized output: the activation function, in its units
    "output_high",
    "inner_scale",  # the quantized value between the operator and a fused addition
    "inner_zero_point",
    "inner_low",
    "inner_high",
    "residual_scale",
    "residual_zero_point",
    "clip_low",  # limits of a fused Clip on real values
    "clip_high",
    "input_scale",
    "first_ratio",  # an addition of quantized values, in units of its output
    "residual_ratio",
    "alpha",  # of the one activation function that has parameters
    "beta",
    "gate_scale",  # the quantized sigmoid that a value is multiplied with
    "gate_zero_point",
)
SCALARS_TYPE = TensorType(shape=(len(_SCALARS),), dtype="float32")


def scalar(buffer: tir.Buffer, name: str) -> tir.Expr:
    """Read one scalar from the operand that carries them."""
    return tir.load(buffer, _SCALARS.index(name))


def splat_scalar(buffer: tir.Buffer, name: str, lanes: int) -> tir.Expr:
    """One scalar in all lanes."""
    return tir.splat(scalar(buffer, name), lanes)


def pack_scalars(constants: Constants) -> Array:
    """The operand `Scalars` of a call.

    The limits of a quantized value follow from its scale, its zero point and the limits of the
    activation function in front of it: ``act_low`` / ``act_high`` for the output, ``inner_act_low``
    / ``inner_act_high`` for the value before a fused addition. Absent ones are infinite.
    """
    packed = np.zeros(SCALARS_TYPE.shape, np.float32)

    def put(name: str, value: float) -> None:
        packed[_SCALARS.index(name)] = value

    def get(name: str, default: float) -> float:
        return float(constants[name]) if name in constants else default

    for name in (
        *("input_zero_point", "input_scale", "residual_scale", "residual_zero_point"),
        *("alpha", "beta", "gate_scale", "gate_zero_point"),
    ):
        put(name, get(name, 0.0))
    for prefix, limits in (("output", "act"), ("inner", "inner_act")):
        scale, zero_point = get(f"{prefix}_scale", 1.0), get(f"{prefix}_zero_point", 0.0)
        put(f"{prefix}_scale", scale)
        put(f"{prefix}_zero_point", zero_point)
        low, high = get(f"{limits}_low", -math.inf), get(f"{limits}_high", math.inf)
        put(f"{prefix}_low", _quantized_limit(low, scale, zero_point))
        put(f"{prefix}_high", _quantized_limit(high, scale, zero_point))
    if "residual_scale" in constants:
        first = "inner" if "inner_scale" in constants else "input"
        unit = np.float32(get("output_scale", 1.0))
        put("first_ratio", float(np.float32(get(f"{first}_scale", 1.0)) / unit))
        put("residual_ratio", float(np.float32(get("residual_scale", 1.0)) / unit))
    put("clip_low", get("clip_low", -math.inf))
    put("clip_high", get("clip_high", math.inf))
    return packed


def _quantized_limit(limit: float, scale: float, zero_point: float) -> float:
    if math.isinf(limit):
        return 0.0 if limit < 0 else 255.0
    return float(np.clip(np.rint(np.float32(limit) / np.float32(scale)) + zero_point, 0, 255))


def quantize(value: tir.Expr, scalars: tir.Buffer, lanes: int) -> tir.Expr:
    """Real float32 values to the output's uint8 (ONNX QuantizeLinear: halves to even)."""
    scaled = value / splat_scalar(scalars, "output_scale", lanes)
    return _to_uint8(tir.round_half_even(scaled), "output", scalars, lanes)


def _to_uint8(rounded: tir.Expr, prefix: str, scalars: tir.Buffer, lanes: int) -> tir.Expr:
    shifted = rounded + splat_scalar(scalars, f"{prefix}_zero_point", lanes)
    return tir.cast(_limited(shifted, prefix, scalars, lanes), "uint8", lanes)


def _limited(value: tir.Expr, prefix: str, scalars: tir.Buffer, lanes: int) -> tir.Expr:
    low = splat_scalar(scalars, f"{prefix}_low", lanes)
    high = splat_scalar(scalars, f"{prefix}_high", lanes)
    return tir.cast(tir.clamp(value, low, high), "int32", lanes)


def add_quantized(
    first: tir.Expr, residual: tir.Expr, prefix: str, scalars: tir.Buffer, lanes: int
) -> tir.Expr:
    """The sum of two quantized values, quantized: `first` (float32, of `prefix`) and a uint8 one.

    Computed in units of the output with its zero point, rounded once, as ONNX Runtime's
    QLinearAdd does, so that both agree on ties.
    """
    total = _sum_of_quantized(first, residual, prefix, scalars, lanes)
    rounded = tir.round_half_even(total)
    return tir.cast(_limited(rounded, "output", scalars, lanes), "uint8", lanes)


def _sum_of_quantized(
    first: tir.Expr, residual: tir.Expr, prefix: str, scalars: tir.Buffer, lanes: int
) -> tir.Expr:
    """`add_quantized` before it is rounded; the output's zero point is in it."""
    second = tir.cast(tir.cast(residual, "int32", lanes), "float32", lanes)
    ratio, residual_ratio = scalar(scalars, "first_ratio"), scalar(scalars, "residual_ratio")
    offset = scalar(scalars, "output_zero_point")
    offset = offset - ratio * scalar(scalars, f"{prefix}_zero_point")
    offset = offset - residual_ratio * scalar(scalars, "residual_zero_point")
    total = second * tir.splat(residual_ratio, lanes) + tir.splat(offset, lanes)
    return first * tir.splat(ratio, lanes) + total


def multiply_quantized(
    first: tir.Expr, second: tir.Expr, scalars: tir.Buffer, lanes: int
) -> tir.Expr:
    """The product of two quantized values, quantized: `first` (float32, of input) and a uint8 one.

    Rounded as ONNX Runtime's QLinearMul does, so that both agree on ties.
    """
    other = tir.cast(tir.cast(second, "int32", lanes), "float32", lanes)
    product = first - splat_scalar(scalars, "input_zero_point", lanes)
    product = product * (other - splat_scalar(scalars, "residual_zero_point", lanes))
    ratio = scalar(scalars, "input_scale") * scalar(scalars, "residual_scale")
    ratio = ratio / scalar(scalars, "output_scale")
    rounded = tir.round_half_even(product * tir.splat(ratio, lanes))
    return _to_uint8(rounded, "output", scalars, lanes)


def activate(value: tir.Expr, step: str, scalars: tir.Buffer, lanes: int) -> tir.Expr:
    """One of `activation.ACTIVATIONS` on float32 values."""
    return activation.activate(value, step, lambda name: splat_scalar(scalars, name, lanes), lanes)


def finish(
    accumulator: tir.Expr,
    *,
    kernel: Kernel,
    multiplier: tir.Expr | None,
    residual: tir.Expr | None,
    scalars: tir.Buffer,
    lanes: int,
) -> tir.Expr:
    """From an accumulator (bias included) to the output's element type.

    int8 kernels: `accumulator` is int32 and `multiplier` its scale per channel; the scale of what
    the accumulator is rounded to first (output, or inner value) is divided into it.
    """
    if kernel.output.dtype == "uint8":
        value, shift = _unrounded(accumulator, kernel, multiplier, residual, scalars, lanes)
        rounded = tir.round_half_even(value)
        if shift:
            return _to_uint8(rounded, "output", scalars, lanes)
        return tir.cast(_limited(rounded, "output", scalars, lanes), "uint8", lanes)
    value = _real(accumulator, kernel, multiplier, residual, scalars, lanes)
    return half.narrow(value, kernel.output.dtype, lanes)


def _unrounded(
    accumulator: tir.Expr,
    kernel: Kernel,
    multiplier: tir.Expr | None,
    residual: tir.Expr | None,
    scalars: tir.Buffer,
    lanes: int,
) -> tuple[tir.Expr, bool]:
    """A quantized output in its own units, and whether its zero point is added after rounding."""
    if kernel.integer and not kernel.epilogue:
        return tir.cast(accumulator, "float32", lanes) * multiplier, True
    if kernel.integer and kernel.epilogue[0] == "add":
        inner = _inner(accumulator, multiplier, scalars, lanes)
        return _sum_of_quantized(inner, residual, "inner", scalars, lanes), False
    value = _real(accumulator, kernel, multiplier, residual, scalars, lanes)
    return value / splat_scalar(scalars, "output_scale", lanes), True


def _inner(
    accumulator: tir.Expr, multiplier: tir.Expr | None, scalars: tir.Buffer, lanes: int
) -> tir.Expr:
    """The quantized value that an int8 layer is rounded to before anything else, as float32."""
    value = tir.round_half_even(tir.cast(accumulator, "float32", lanes) * multiplier)
    shifted = value + splat_scalar(scalars, "inner_zero_point", lanes)
    low, high = (splat_scalar(scalars, f"inner_{end}", lanes) for end in ("low", "high"))
    return tir.clamp(shifted, low, high)


def _real(
    accumulator: tir.Expr,
    kernel: Kernel,
    multiplier: tir.Expr | None,
    residual: tir.Expr | None,
    scalars: tir.Buffer,
    lanes: int,
) -> tir.Expr:
    """Real values: scaled, with the epilogue's additions and activation functions."""
    value = accumulator
    if kernel.integer and _rounds_first(kernel):
        value = _inner(accumulator, multiplier, scalars, lanes)
        value = value - splat_scalar(scalars, "inner_zero_point", lanes)
        value = value * splat_scalar(scalars, "inner_scale", lanes)
    elif kernel.integer:
        value = tir.cast(value, "float32", lanes) * multiplier
    for step in kernel.epilogue:
        if step == "add":
            value = value + residual
        elif step != "round":
            value = activate(value, step, scalars, lanes)
    return value


def dequantize(value: tir.Expr, prefix: str, scalars: tir.Buffer, lanes: int) -> tir.Expr:
    """uint8 to real float32 values (ONNX DequantizeLinear)."""
    real = tir.cast(tir.cast(value, "int32", lanes), "float32", lanes)
    real = real - splat_scalar(scalars, f"{prefix}_zero_point", lanes)
    return real * splat_scalar(scalars, f"{prefix}_scale", lanes)


def channel_multiplier(constants: Constants, kernel: Kernel) -> Array:
    """Scale of an int8 layer's accumulator, [O] float32.

    ``input_scale * weight_scale[o]``, over the scale of the quantized value that comes next.
    """
    scale = np.float32(constants["input_scale"]) * constants["weight_scale"].astype(np.float32)
    if _rounds_first(kernel):
        scale = scale / np.float32(constants["inner_scale"])
    elif kernel.output.dtype == "uint8" and not kernel.epilogue:
        scale = scale / np.float32(constants["output_scale"])
    return np.asarray(scale, np.float32)


def _rounds_first(kernel: Kernel) -> bool:
    """Whether an int8 layer's sums are rounded to a quantized inner value before anything else."""
    first = kernel.epilogue[:1]
    return first == ("round",) or (first == ("add",) and kernel.output.dtype == "uint8")


def write_packed(
    tile: Sequence[tuple[tir.Expr, tir.Expr, tir.Expr]],
    *,
    kernel: Kernel,
    buffers: Mapping[str, tir.Buffer],
    lanes: int,
    adjacent: int,
) -> list[tir.Statement]:
    """Finish whole vectors of a layer with a uint8 output, several at a time (see `narrow`).

    `tile` has accumulator, channel and place in the output of each; of every `adjacent` vectors
    from the first on, one follows the other in the output.
    """
    scalars = buffers["scalars"]
    written: list[tir.Statement] = []
    for start in range(0, len(tile), narrow.TOGETHER):
        group = tile[start : start + narrow.TOGETHER]
        values = []
        shift = True
        for accumulator, channel, out in group:
            multiplier = _multiplier(kernel, buffers, channel, lanes)
            residual = None
            if "add" in kernel.epilogue:
                residual = _residual(kernel, buffers["residual"], out, lanes)
            value, shift = _unrounded(accumulator, kernel, multiplier, residual, scalars, lanes)
            values.append(value)
        packed = narrow.narrowed(
            values,
            zero_point=scalar(scalars, "output_zero_point") if shift else None,
            low=scalar(scalars, "output_low"),
            high=scalar(scalars, "output_high"),
            lanes=lanes,
        )
        named, variable = tir.bind("packed", packed, "int32", lanes)
        written.append(named)
        at = 0
        while at < len(group):
            run = _run(len(group) - at, adjacent - (start + at) % adjacent)
            chosen = narrow.stored_lanes(at, run, lanes)
            value = tir.reinterpret(tir.shuffle([variable], chosen), "uint8", run * lanes)
            written.append(tir.store(buffers["output"], group[at][2], value, run * lanes))
            at += run
    return written


def _multiplier(
    kernel: Kernel, buffers: Mapping[str, tir.Buffer], channel: tir.Expr, lanes: int
) -> tir.Expr | None:
    """Scales of an int8 layer's sums; none for other layers."""
    return tir.load(buffers["multiplier"], channel, lanes) if kernel.integer else None


def _residual(kernel: Kernel, source: tir.Buffer, at: tir.Expr, lanes: int) -> tir.Expr:
    """What is added, in float32 or as the bytes it is."""
    residual, dtype = tir.load(source, at, lanes), kernel.inputs[1].dtype
    return residual if dtype == "uint8" else half.widen(residual, dtype, lanes)


def _run(left: int, adjacent: int) -> int:
    """Vectors that are stored at once: a power of two."""
    most = min(left, adjacent)
    return 1 << (most.bit_length() - 1)


def write(
    accumulator: tir.Expr,
    *,
    kernel: Kernel,
    channel: tir.Expr,
    buffers: Mapping[str, tir.Buffer],
    out: tir.Expr,
    lanes: int,
    valid: int,
) -> list[tir.Statement]:
    """Finish one vector of a layer and store the `valid` lanes of it that exist.

    `channel` is its place in the per-channel operands, `out` its place in the output.
    """
    written: list[tir.Statement] = []
    multiplier = _multiplier(kernel, buffers, channel, lanes)
    residual = None
    if "add" in kernel.epilogue:
        source, at = buffers["residual"], out
        if valid < lanes:
            allocation, source = tir.scratch(
                "ragged_residual", lanes, half.storage(kernel.inputs[1].dtype), registers=True
            )
            written.append(allocation)
            for lane in range(lanes):
                value = tir.load(buffers["residual"], out + min(lane, valid - 1))
                written.append(tir.store(source, lane, value))
            at = tir.const(0)
        residual = _residual(kernel, source, at, lanes)
    value = finish(
        accumulator, kernel=kernel, multiplier=multiplier, residual=residual,
        scalars=buffers["scalars"], lanes=lanes,
    )  # fmt: skip
    if valid == lanes:
        return [*written, tir.store(buffers["output"], out, value, lanes)]
    dtype = half.storage(kernel.output.dtype)
    allocation, ragged = tir.scratch("ragged", lanes, dtype, registers=True)
    written += [allocation, tir.store(ragged, 0, value, lanes)]
    for lane in range(valid):
        written.append(tir.store(buffers["output"], out + lane, tir.load(ragged, lane)))
    return written
