"""Attention, products, normalization, softmax, embedding and strided copies against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import EVERYWHERE, run, tensor
from sequence_references import attended, attention_kernel, probabilities

from millifit.targets.kernel import Kernel

TARGET = pytest.mark.parametrize("target", EVERYWHERE, ids=lambda t: t.name)
FEW = settings(
    max_examples=8, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
OUTPUT = {"output_scale": np.asarray(np.float32(0.02)), "output_zero_point": np.float32(100)}


def close(made, wanted):
    """fp32 to 1e-5 of the largest value."""
    assert np.abs(made - wanted).max() <= 1e-5 * np.abs(wanted).max()


def quantized(wanted):
    """The uint8 values that `OUTPUT` says."""
    return np.clip(np.rint(wanted / OUTPUT["output_scale"]) + 100, 0, 255)


@TARGET
@FEW
@given(
    queries=st.integers(1, 40), keys=st.integers(1, 70), heads=st.integers(1, 3),
    depth=st.integers(1, 40), width=st.integers(1, 40), masked=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_attention(target, queries, keys, heads, depth, width, masked, seed):
    """Attention of any size is right to 1e-5, without a mask, with one row of it, or a matrix."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal((rows, heads, channels)).astype(np.float32)
        for rows, channels in ((queries, depth), (keys, depth), (keys, width))
    )
    mask = None
    values = np.zeros((1, keys), np.float32)
    if masked is not None:
        values = rng.standard_normal((queries if masked else 1, keys)).astype(np.float32) * 3
        values[:, keys // 2 + 1 :] = -1e4
        mask = values.shape, (0, keys if masked else 0, 1)
    kernel = attention_kernel(q.shape, v.shape, mask=mask)
    given_ = [q.reshape(queries, -1), k.reshape(keys, -1), v.reshape(keys, -1)]
    given_ += [values] if mask else []
    made = run(kernel, target, given_, {"scale": np.float32(0.3)})
    close(made, attended(q, k, v, np.float32(0.3), values))


@TARGET
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_attention_of_one_packed_tensor_on_several_threads(target, threads):
    """Queries, keys and values beside each other in one tensor; heads are split among threads."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((67, 3, 1, 64)).astype(np.float32)
    kernel = attention_kernel((67, 1, 64), (67, 1, 64), packed=True)
    wanted = attended(x[:, 0], x[:, 1], x[:, 2], np.float32(0.125))
    flat = x.reshape(67, -1)
    made = run(kernel, target.with_threads(threads), [flat] * 3, {"scale": np.float32(0.125)})
    close(made, wanted)


@TARGET
def test_attention_that_is_quantized(target):
    """Attention that feeds an int8 layer writes uint8."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 19, 2, 20)).astype(np.float32)
    kernel = attention_kernel(q.shape, v.shape, output="uint8")
    made = run(
        kernel, target, [x.reshape(19, 40) for x in (q, k, v)], {"scale": np.float32(1), **OUTPUT}
    )
    off = np.abs(made - quantized(attended(q, k, v, 1.0)))
    assert off.max() <= 1  # float32 and float64 may round a tie apart
    assert np.mean(off) < 0.01


@TARGET
@FEW
@given(
    batch=st.integers(1, 3), rows=st.integers(1, 20), depth=st.integers(1, 40),
    columns=st.integers(1, 70), turned=st.tuples(st.booleans(), st.booleans()),
    threads=st.sampled_from([1, 2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_matmul(target, batch, rows, depth, columns, turned, threads, seed):
    """A batched product is right to 1e-5 with either operand in either order of its axes."""
    rng = np.random.default_rng(seed)
    shapes = ((rows, depth), (depth, columns))
    held, layouts, operands = [], [], []
    for shape, swapped in zip(shapes, turned, strict=True):
        order = shape[::-1] if swapped else shape
        x = rng.standard_normal((batch, *order)).astype(np.float32)
        held.append(x)
        operands.append((x.swapaxes(1, 2) if swapped else x).astype(np.float64))
        strides = (1, order[1]) if swapped else (order[1], 1)
        layouts.append((0, math.prod(shape), *strides))
    kernel = Kernel(
        op="matmul", inputs=tuple(tensor(x.shape) for x in held),
        output=tensor((batch, rows, columns)), precision="fp32",
        attributes=tuple(sorted({
            "batch": batch, "rows": rows, "depth": depth, "columns": columns,
            "left": layouts[0], "right": layouts[1],
        }.items())),
    )  # fmt: skip
    made = run(kernel, target.with_threads(threads), held, {"scale": np.float32(0.5)})
    close(made, operands[0] @ operands[1] * 0.5)


@TARGET
@pytest.mark.parametrize("output", ["float32", "uint8"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 16), (2, 3, 83), (2, 256)])
def test_softmax(target, shape, output):
    """Probabilities are right for rows of any length, also of large values."""
    x = (np.random.default_rng(1).standard_normal(shape) * 30).astype(np.float32)
    x[0, 0] += 1e4
    kernel = Kernel(
        op="softmax", inputs=(tensor(shape),), output=tensor(shape, output), precision="fp32"
    )
    made = run(kernel, target, [x], OUTPUT)
    wanted = probabilities(x.astype(np.float64))
    if output == "float32":
        close(made, wanted)
    else:
        assert np.abs(made - quantized(wanted)).max() <= 1


@TARGET
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("shape", [(3, 1), (5, 7), (2, 16), (2, 3, 83), (130, 192)])
def test_normalization(target, shape, op):
    """Rows of any length are normalized to 1e-5, also far from zero."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(shape) + (3 if op == "layer_norm" else 0)).astype(np.float32)
    weight, bias = rng.standard_normal((2, shape[-1])).astype(np.float32)
    kernel = Kernel(op=op, inputs=(tensor(shape),), output=tensor(shape), precision="fp32")
    constants = {"weight": weight, "epsilon": np.float32(1e-3)}
    if op == "layer_norm":
        constants["bias"] = bias
    wide = x.astype(np.float64)
    if op == "layer_norm":
        wide = wide - wide.mean(axis=-1, keepdims=True)
    wanted = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + np.float32(1e-3)) * weight
    wanted = wanted + (bias if op == "layer_norm" else 0)
    close(run(kernel, target.with_threads(2), [x], constants), wanted)


@TARGET
@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("channels", [1, 5, 48])
def test_embedding(target, kind, channels):
    """Rows are picked by ids; negative ones count from the end, others stay inside the table."""
    table = np.random.default_rng(3).standard_normal((9, channels)).astype(np.float32)
    ids = np.array([[0, 8, 3, -1, -9, 9, 10**6, -(10**6)]], kind)
    kernel = Kernel(
        op="embedding", inputs=(tensor(ids.shape, kind),), output=tensor((1, 8, channels)),
        precision="fp32", attributes=(("rows", 9),),
    )  # fmt: skip
    made = run(kernel, target, [ids], {"table": table})
    np.testing.assert_array_equal(made[0], table[[0, 8, 3, 8, 0, 8, 8, 0]])


@TARGET
@FEW
@given(
    shape=st.lists(st.integers(1, 21), min_size=1, max_size=4), seed=st.integers(0, 99),
    kind=st.sampled_from(["float32", "int64", "uint8"]),
)  # fmt: skip
def test_strided(target, shape, seed, kind):
    """Any order of axes, every second element of one, one repeated: exact for any type."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 200, shape).astype(kind)
    seen = x.transpose(rng.permutation(len(shape)))
    seen = seen[(*[slice(None)] * int(rng.integers(len(shape))), slice(None, None, 2))]
    if rng.random() < 0.3:
        seen = np.broadcast_to(seen[:, None], (seen.shape[0], 3, *seen.shape[1:]))
    strides = tuple(s // x.itemsize for s in seen.strides)
    kernel = Kernel(
        op="strided", inputs=(tensor(shape, kind),), output=tensor(seen.shape, kind),
        precision="fp32", attributes=(("offset", 0), ("strides", strides)),
    )  # fmt: skip
    np.testing.assert_array_equal(run(kernel, target.with_threads(2), [x], {}), seen)
