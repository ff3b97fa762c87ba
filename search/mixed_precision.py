"""Kernels at the border of precisions: what a call of a uniform program becomes for its neighbours.

A value exists in a form: float32, uint8, or one of 16 bits. Where the readers of a kernel want
other forms than those of its own uniform program, it differs just as `millifit.targets.lower`
lowers the mixed network:

    readers want             a kernel of real values             a quantized kernel
    its own form             as in its program                   as in its program
    one other form           it converts while it writes         it converts while it writes
    float32 and 16 bits      16 bits, and a cast                 16 bits, and a cast
    several others           float32, and a conversion each      its own, a dequantize, conversions

Operators that cannot convert while they write get the extra kernel in every case, as do outputs
that are flattened in between.
"""

from __future__ import annotations

from dataclasses import replace

from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

REAL = "float32"
"""The form of real values."""

_QUANTIZED = "uint8"
_FIXED_OUTPUT = (
    *("cast", "dequantize", "max_pool", "onnx"),
    *("quantize", "requantize", "reshape", "to_channels_first"),
)
# These can write 16 bits; others can only write uint8 in place of float32.
_WRITES_HALF = ("conv2d", "depthwise_conv2d", "dense")
_LIMITS = ("relu", "clip")  # activations that become the limits of a uint8 output


def for_readers(
    kernel: Kernel,
    real: Kernel | None,
    *,
    own: str,
    operands: str,
    readers: frozenset[str],
    reshaped: bool,
) -> tuple[Kernel, ...]:
    """What runs in place of a kernel from the uniform program of the form `own`.

    `operands` is the form of all that it reads, `readers` are the forms wanted of its output,
    `reshaped` says that one of them sees it in another shape. `real` is the kernel that the fp32
    program has in its place.
    """
    if own == REAL:
        return _converted((kernel,), readers, fused=not reshaped)
    if own != _QUANTIZED:
        return _half_for_readers(kernel, own, operands, readers, fused=not reshaped)
    if operands != own:
        return _converted((_with_real_residual(kernel, real),), readers, fused=False)
    if readers == {own}:
        return (kernel,)
    if own in readers:
        kernels = _for_real_readers(kernel, real, fused=False)
        return _converted(kernels, readers - {own}, fused=False)
    if kernel.op == "quantize":  # the real values that it reads are there for the others
        kept = () if not reshaped else (kernel,)
        return (*kept, *_conversions(kernel.inputs[0], readers))
    kernels = _for_real_readers(kernel, real, fused=not reshaped)
    return _converted(kernels, readers, fused=not reshaped and len(kernels) == 1)


def _half_for_readers(
    kernel: Kernel, own: str, operands: str, readers: frozenset[str], *, fused: bool
) -> tuple[Kernel, ...]:
    """The same of a kernel on 16-bit operands, which is fused as that of the fp32 program is."""
    if operands == own and readers == {own}:
        return (kernel,)
    if kernel.op == "cast":
        kept = (kernel,) if own in readers else ()
        return (*kept, *_conversions(kernel.inputs[0], readers - {own}))
    if operands != own:  # an operand to be added that exists as float32
        residual = tuple(_as(t, REAL) for t in kernel.inputs[1:])
        kernel = replace(kernel, inputs=(kernel.inputs[0], *residual))
    return _converted((replace(kernel, output=_as(kernel.output, REAL)),), readers, fused=fused)


def _converted(
    kernels: tuple[Kernel, ...], readers: frozenset[str], *, fused: bool
) -> tuple[Kernel, ...]:
    """Kernels of which the last writes real values, with what makes the forms of `readers`.

    `fused` says that it may write another form itself.
    """
    last = kernels[-1]
    wanted = readers - {REAL}
    if last.output.dtype != REAL or not wanted:
        return kernels
    (form, *others) = sorted(wanted)
    half = form != _QUANTIZED
    able = last.op in _WRITES_HALF if half else last.op not in _FIXED_OUTPUT
    if not fused or not able or others or (REAL in readers and not half):
        return (*kernels, *_conversions(last.output, wanted))
    if not half:
        return (*kernels[:-1], _quantizing(last))
    written = replace(last, output=_as(last.output, form))
    widened = (_conversion(written.output, REAL),) if REAL in readers else ()
    return (*kernels[:-1], written, *widened)


def _quantizing(kernel: Kernel) -> Kernel:
    steps = list(kernel.epilogue)
    while steps and steps[-1] in _LIMITS:
        steps.pop()
    return replace(kernel, output=_as(kernel.output, _QUANTIZED), epilogue=tuple(steps))


def _for_real_readers(kernel: Kernel, real: Kernel | None, *, fused: bool) -> tuple[Kernel, ...]:
    """A quantized kernel of whose output somebody wants the real values.

    `fused` says that nobody else wants anything, so that it writes them itself. `real` is the
    kernel that the fp32 program has in its place, whose activation it takes over.
    """
    if kernel.output.dtype != _QUANTIZED:
        return (kernel,)
    if not fused or kernel.op in _FIXED_OUTPUT:
        return kernel, _conversion(kernel.output, REAL)
    if kernel.integer and "add" in (kernel.op, *kernel.epilogue):
        return _real_addition(kernel, real)
    output = _as(kernel.output, REAL)
    return (replace(kernel, output=output, epilogue=_before_addition(real)),)


def _with_real_residual(kernel: Kernel, real: Kernel | None) -> Kernel:
    """An integer layer whose fused addition has a real operand: it adds and writes real values."""
    output = _as(kernel.output, REAL)
    fused = real is not None and "add" in real.epilogue
    residual = tuple(_as(t, REAL) for t in kernel.inputs[1:]) if fused else ()
    epilogue = real.epilogue if real is not None else ()
    return replace(kernel, inputs=(kernel.inputs[0], *residual), output=output, epilogue=epilogue)


def _real_addition(kernel: Kernel, real: Kernel | None) -> tuple[Kernel, ...]:
    """An integer addition, or a layer with one fused, of which nobody wants the uint8 form.

    The sum has no scale then: what is added are the real values of both operands.
    """
    layer = replace(kernel, inputs=kernel.inputs[:1], epilogue=())
    first = kernel.inputs[0] if kernel.op == "add" else layer.output
    steps = real.epilogue if real is not None else kernel.epilogue
    added = Kernel(
        op="add",
        inputs=(first, *kernel.inputs[1:]),
        output=_as(kernel.output, REAL),
        precision="fp32",
        epilogue=steps[steps.index("add") + 1 :] if "add" in steps else steps,
    )
    return (added,) if kernel.op == "add" else (layer, added)


def _before_addition(real: Kernel | None) -> tuple[str, ...]:
    if real is None:
        return ()
    steps = real.epilogue
    return steps[: steps.index("add")] if "add" in steps else steps


def _conversions(tensor: TensorType, forms: frozenset[str]) -> tuple[Kernel, ...]:
    """A kernel for each form that real values are converted to."""
    return tuple(_conversion(tensor, form) for form in sorted(forms - {REAL}))


def _conversion(tensor: TensorType, dtype: str) -> Kernel:
    op = "cast"
    if _QUANTIZED in (tensor.dtype, dtype):
        op = "quantize" if dtype == _QUANTIZED else "dequantize"
    return Kernel(op=op, inputs=(tensor,), output=_as(tensor, dtype), precision="fp32")


def _as(tensor: TensorType, dtype: str) -> TensorType:
    return replace(tensor, dtype=dtype)
