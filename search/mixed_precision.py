"""Kernels at the border of precisions: what a call of a uniform program becomes for its neighbours.

A kernel of the fp32 program that int8 layers read, and one of the int8 program that fp32 layers
read, differ from those of the uniform programs just as `millifit.targets.lower` lowers the mixed
network:

    readers                  of an fp32 kernel                   of an int8 kernel
    all int8                 it quantizes while it writes        as in the int8 program
    all fp32                 as in the fp32 program              it writes float32
    some of each             float32, and a quantize kernel      uint8, and a dequantize kernel

Operators that cannot convert while they write get the extra kernel in every case, as do outputs
that are flattened in between.
"""

from __future__ import annotations

from dataclasses import replace

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

_FIXED_OUTPUT = (
    *("dequantize", "max_pool", "onnx"),
    *("quantize", "requantize", "reshape", "to_channels_first"),
)
_LIMITS = ("relu", "clip")  # activations that become the limits of a uint8 output


def for_int8_readers(kernel: Kernel, *, fused: bool) -> tuple[Kernel, ...]:
    """An fp32 kernel whose output int8 layers read.

    `fused` says that the output is quantized on the way, since all readers are int8.
    """
    if kernel.output.dtype != "float32":
        return (kernel,)
    if not fused or kernel.op in _FIXED_OUTPUT:
        return kernel, _conversion(kernel.output, "uint8")
    steps = list(kernel.epilogue)
    while steps and steps[-1] in _LIMITS:
        steps.pop()
    return (replace(kernel, output=_as(kernel.output, "uint8"), epilogue=tuple(steps)),)


def for_fp32_readers(kernel: Kernel, real: Kernel | None, *, fused: bool) -> tuple[Kernel, ...]:
    """An int8 kernel whose output fp32 layers read.

    `fused` says that it writes real values itself, since all readers are fp32. `real` is the
    kernel that the fp32 program has in its place, whose activation it takes over.
    """
    if kernel.output.dtype != "uint8":
        return (kernel,)
    if kernel.op == "quantize":  # the real values that it reads are there for the others
        return () if fused else (kernel,)
    if not fused or kernel.op in _FIXED_OUTPUT:
        return kernel, _conversion(kernel.output, "float32")
    if kernel.precision == "int8" and "add" in (kernel.op, *kernel.epilogue):
        return _real_addition(kernel, real)
    output = _as(kernel.output, "float32")
    return (replace(kernel, output=output, epilogue=_before_addition(real)),)


def with_real_residual(kernel: Kernel, real: Kernel | None) -> Kernel:
    """An int8 layer whose fused addition has an fp32 operand: it adds and writes real values."""
    output = _as(kernel.output, "float32")
    fused = real is not None and "add" in real.epilogue
    residual = tuple(_as(t, "float32") for t in kernel.inputs[1:]) if fused else ()
    epilogue = real.epilogue if real is not None else ()
    return replace(kernel, inputs=(kernel.inputs[0], *residual), output=output, epilogue=epilogue)


def _real_addition(kernel: Kernel, real: Kernel | None) -> tuple[Kernel, ...]:
    """An int8 addition, or a layer with one fused, of which nobody wants the uint8 form.

    The sum has no scale then, so both operands are dequantized and added as float32.
    """
    output = _as(kernel.output, "float32")
    steps = real.epilogue if real is not None else kernel.epilogue
    added = Kernel(
        op="add",
        inputs=(output, output),
        output=output,
        precision="fp32",
        epilogue=steps[steps.index("add") + 1 :] if "add" in steps else steps,
    )
    if kernel.op == "add":
        return (*(_conversion(t, "float32") for t in kernel.inputs), added)
    layer = replace(kernel, inputs=kernel.inputs[:1], epilogue=())
    return (layer, *(_conversion(t, "float32") for t in (layer.output, *kernel.inputs[1:])), added)


def _before_addition(real: Kernel | None) -> tuple[str, ...]:
    if real is None:
        return ()
    steps = real.epilogue
    return steps[: steps.index("add")] if "add" in steps else steps


def _conversion(tensor: TensorType, dtype: str) -> Kernel:
    return Kernel(
        op="quantize" if dtype == "uint8" else "dequantize",
        inputs=(tensor,),
        output=_as(tensor, dtype),
        precision="fp32",
    )


def _as(tensor: TensorType, dtype: str) -> TensorType:
    return replace(tensor, dtype=dtype)
