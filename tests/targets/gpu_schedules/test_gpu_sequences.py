"""Attention, products, softmax and normalization on an OpenCL device."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from gpu_kernels import Case, check_all, kernel_of
from sequence_references import attended, attention_kernel, probabilities

from millifit.targets.target import Target

OUTPUT = {"output_scale": np.asarray(np.float32(0.02)), "output_zero_point": np.float32(100)}


def quantized(wanted):
    return np.clip(np.rint(wanted / OUTPUT["output_scale"]) + 100, 0, 255)


def close(kernel, activations, constants, wanted):
    return Case(
        kernel=kernel, activations=activations, constants=constants, wanted=wanted,
        error=1e-5 * np.abs(wanted).max(),
    )  # fmt: skip


def attention_case(queries, keys, heads, depth, width, masked, seed):
    """Attention with no mask, a row of one, or a matrix."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal((rows, heads, channels)).astype(np.float32)
        for rows, channels in ((queries, depth), (keys, depth), (keys, width))
    )
    mask, values = None, np.zeros((1, keys), np.float32)
    if masked is not None:
        values = rng.standard_normal((queries if masked else 1, keys)).astype(np.float32) * 3
        values[:, keys // 2 + 1 :] = -1e4
        mask = values.shape, (0, keys if masked else 0, 1)
    kernel = attention_kernel(q.shape, v.shape, mask=mask)
    activations = [q.reshape(queries, -1), k.reshape(keys, -1), v.reshape(keys, -1)]
    activations += [values] if mask else []
    wanted = attended(q, k, v, np.float32(0.3), values)
    return close(kernel, activations, {"scale": np.float32(0.3)}, wanted)


def test_attention(opencl: Target):
    """Attention of odd sizes, with every kind of mask, packed, and quantized."""
    cases = [
        attention_case(1, 1, 1, 1, 1, None, 0),
        attention_case(7, 13, 3, 8, 12, 0, 1),
        attention_case(5, 70, 2, 5, 67, 1, 2),
    ]
    x = np.random.default_rng(3).standard_normal((19, 3, 1, 16)).astype(np.float32)
    wanted = attended(x[:, 0], x[:, 1], x[:, 2], np.float32(0.25))
    kernel = attention_kernel((19, 1, 16), (19, 1, 16), packed=True)
    cases.append(close(kernel, [x.reshape(19, -1)] * 3, {"scale": np.float32(0.25)}, wanted))
    q, k, v = np.random.default_rng(4).standard_normal((3, 9, 2, 8)).astype(np.float32)
    kernel = attention_kernel(q.shape, v.shape, output="uint8")
    wanted = quantized(attended(q, k, v, 1.0))
    constants = {"scale": np.float32(1), **OUTPUT}
    activations = [part.reshape(9, 16) for part in (q, k, v)]
    cases.append(
        Case(kernel=kernel, activations=activations, constants=constants, wanted=wanted, step=True)
    )
    check_all(cases, opencl)


def test_attention_in_turns(opencl: Target):
    """Keys that do not fit into shared memory come in turns, the last of them short."""
    assert opencl.gpu is not None
    small = replace(opencl, gpu=replace(opencl.gpu, shared_bytes=2048))
    check_all([attention_case(6, 77, 2, 8, 8, 1, 5)], small)


def test_matmul(opencl: Target):
    """Either operand in either order of its axes, ragged and whole."""
    cases = []
    for number, (batch, rows, depth, columns) in enumerate(
        [(1, 1, 1, 1), (2, 5, 7, 9), (3, 8, 12, 16), (1, 20, 4, 8)]
    ):
        rng = np.random.default_rng(number)
        held, layouts, operands = [], [], []
        for place, shape in enumerate(((rows, depth), (depth, columns))):
            swapped = bool(number >> place & 1)
            order = shape[::-1] if swapped else shape
            x = rng.standard_normal((batch, *order)).astype(np.float32)
            held.append(x)
            operands.append((x.swapaxes(1, 2) if swapped else x).astype(np.float64))
            strides = (1, order[1]) if swapped else (order[1], 1)
            layouts.append((0, math.prod(shape), *strides))
        wanted = operands[0] @ operands[1] * 0.5
        kernel = kernel_of(
            "matmul", held, wanted, output="float32", batch=batch, rows=rows, depth=depth,
            columns=columns, left=layouts[0], right=layouts[1],
        )  # fmt: skip
        cases.append(close(kernel, held, {"scale": np.float32(0.5)}, wanted))
    check_all(cases, opencl)


def test_softmax_and_normalization(opencl: Target):
    """Rows of any length, for one thread and for many, also of large values."""
    cases = []
    for shape in [(5, 7), (2, 3, 83), (2, 700)]:
        rng = np.random.default_rng(shape[-1])
        x = (rng.standard_normal(shape) * 30).astype(np.float32)
        x[0, 0] += 1e4
        wanted = probabilities(x.astype(np.float64))
        kernel = kernel_of("softmax", [x], x)
        cases.append(close(kernel, [x], {}, wanted))
        x = (rng.standard_normal(shape) + 3).astype(np.float32)
        weight, bias = rng.standard_normal((2, shape[-1])).astype(np.float32)
        constants = {"weight": weight, "bias": bias, "epsilon": np.float32(1e-3)}
        wide = x.astype(np.float64)
        wide = wide - wide.mean(axis=-1, keepdims=True)
        wanted = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + 1e-3) * weight + bias
        cases.append(close(kernel_of("layer_norm", [x], x), [x], constants, wanted))
    x = np.random.default_rng(0).standard_normal((4, 40)).astype(np.float32)
    wanted = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-3)
    cases.append(close(kernel_of("rms_norm", [x], x), [x], {"epsilon": np.float32(1e-3)}, wanted))
    steps = quantized(probabilities(x.astype(np.float64)))
    kernel = kernel_of("softmax", [x], steps, output="uint8")
    cases.append(Case(kernel=kernel, activations=[x], constants=OUTPUT, wanted=steps, step=True))
    check_all(cases, opencl)
