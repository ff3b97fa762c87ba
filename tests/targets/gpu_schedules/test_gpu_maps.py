"""Movement, windows, resizing and reductions of maps on an OpenCL device."""

from __future__ import annotations

import numpy as np
from gpu_kernels import Case, check_all, kernel_of
from map_references import REDUCE, pooled, to_space

from millifit.targets.target import Target

IN, OUT = (np.float32(0.02), 7), (np.float32(0.03), 100)
SCALES = {
    "input_scale": IN[0], "input_zero_point": np.float32(IN[1]),
    "output_scale": OUT[0], "output_zero_point": np.float32(OUT[1]),
}  # fmt: skip


def values(seed, shape, dtype="float32"):
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 100, shape).astype(dtype)


def exact(op, inputs, wanted, constants=None, *, precision="fp32", **attributes):
    """A case that must give exactly these values."""
    wanted = np.ascontiguousarray(wanted)
    kernel = kernel_of(op, inputs, wanted, precision=precision, **attributes)
    return Case(kernel=kernel, activations=inputs, constants=constants or {}, wanted=wanted)


def test_concat_and_pad(opencl: Target):
    """Parts of any type and scale, padding of every kind."""
    cases = []
    for dtype, channels in [("float32", 8), ("float16", 3), ("uint8", 4), ("int64", 2)]:
        parts = [values(i, (1, 2, 3, channels * (i + 1)), dtype) for i in range(3)]
        cases.append(exact("concat", parts, np.concatenate(parts, 3), axis=3))
    rows = [values(i, (1, 1 + i, 3, 5)) for i in range(2)]
    cases.append(exact("concat", rows, np.concatenate(rows, 1), axis=1))
    parts = [values(i, (1, 3, 5, 8), "uint8") for i in range(2)]
    meant = (parts[1].astype(np.float32) - IN[1]) * IN[0]
    other = np.clip(np.rint(meant / OUT[0]) + OUT[1], 0, 255).astype(np.uint8)
    scales = {
        name: np.float32(value)
        for i, pair in enumerate((OUT, IN))
        for name, value in zip((f"input{i}_scale", f"input{i}_zero_point"), pair, strict=True)
    } | {"output_scale": OUT[0], "output_zero_point": np.float32(OUT[1])}
    wanted = np.concatenate([parts[0], other], 3)
    cases.append(exact("concat", parts, wanted, scales, axis=3, requantized=(1,)))
    amounts = [(0, 0), (2, 1), (1, 2), (0, 0)]
    before = tuple(first for first, _ in amounts)
    for mode, channels, dtype in [
        ("constant", 8, "float32"), ("constant", 5, "float16"), ("reflect", 8, "float32"),
        ("edge", 3, "uint8"), ("wrap", 4, "float32"),
    ]:  # fmt: skip
        x = values(2, (1, 3, 4, channels), dtype)
        options = {"constant_values": 9} if mode == "constant" else {}
        wanted = np.pad(x, amounts, mode, **options)
        constants = {"value": np.array(9, dtype)}
        cases.append(exact("pad", [x], wanted, constants, mode=mode, before=before))
    check_all(cases, opencl)


def test_layouts_and_rearrangements(opencl: Target):
    """Channels first and last, pixels and channels, shuffles and strided copies."""
    cases = []
    x = values(0, (1, 5, 4, 7))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    cases += [exact("to_channels_last", [x], last), exact("to_channels_first", [last], x)]
    steps = np.clip(np.rint(last / OUT[0]) + OUT[1], 0, 255).astype(np.uint8)
    cases.append(exact("to_channels_last", [x], steps, SCALES))
    for block, channels, mode in [((2, 2), 8, "DCR"), ((3, 2), 3, "CRD"), ((2, 3), 4, "DCR")]:
        x = values(3, (1, 3, 5, block[0] * block[1] * channels))
        full = to_space(x, block, mode == "CRD")
        cut = full[:, 1:-1, 2:-1]
        names = {"block": block, "mode": mode}
        cases.append(exact("depth_to_space", [x], full, **names))
        cases.append(exact("depth_to_space", [x], cut, **names, crop=(1, 2)))
        if mode == "DCR":
            cases.append(exact("space_to_depth", [full], x, block=block))
    x = values(4, (1, 2, 3, 12))
    mixed = x.reshape(1, 2, 3, 3, 4).swapaxes(3, 4).reshape(x.shape)
    cases.append(exact("channel_shuffle", [x], mixed, groups=3))
    for dtype in ("float32", "int64", "float16"):
        x = values(5, (6, 4, 8), dtype)
        for seen in (x.transpose(2, 0, 1), x[1::2, :, ::2], x[:, 1:3], x[2:, None, 1]):
            offset = (seen.ctypes.data - x.ctypes.data) // x.itemsize
            strides = tuple(step // x.itemsize for step in seen.strides)
            cases.append(exact("strided", [x], seen, offset=offset, strides=strides))
    check_all(cases, opencl)


def test_embedding(opencl: Target):
    """Rows of a table by ids; none outside is read."""
    cases = []
    for kind, channels in [("int32", 8), ("int64", 5)]:
        table = values(6, (9, channels))
        ids = np.array([[0, 8, 3, -1, -9, 9, 10**6, -(10**6)]], kind)
        wanted = table[[0, 8, 3, 8, 0, 8, 8, 0]][None]
        cases.append(exact("embedding", [ids], wanted, {"table": table}, rows=9))
    check_all(cases, opencl)


# Extents of the input and the output, window, strides, dilations, pads.
WINDOWS = [
    ((7, 6), 8, (4, 3), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    ((5, 9), 5, (5, 4), (2, 3), (1, 2), (1, 2), (0, 1, 1, 1)),
    ((6, 6), 4, (3, 3), (2, 2), (2, 2), (1, 1), (0, 0, 0, 0)),
    ((4, 7), 3, (3, 4), (3, 2), (2, 2), (1, 1), (1, 0, 1, 0)),
]


def test_pooling(opencl: Target):
    """Maxima are exact; averages count what they should, of bytes, too."""
    cases = []
    for number, (extents, channels, out, *window) in enumerate(WINDOWS):
        names = dict(zip(("kernel", "strides", "dilations", "pads"), window, strict=True))
        for dtype in ("float32", "uint8"):
            x = values(7, (1, *extents, channels), dtype)
            largest = pooled(x, out, *window, lambda found, _: found.max(axis=0)).astype(dtype)
            cases.append(exact("max_pool", [x], largest, **names))
            real = x.astype(np.float64)
            real = (real - IN[1]) * np.float64(IN[0]) if dtype == "uint8" else real
            include = number % 2
            wanted = pooled(
                real, out, *window,
                lambda found, counted, all_=include: found.sum(0) / (counted if all_
                                                                     else len(found)),
            )  # fmt: skip
            kernel = kernel_of(
                "avg_pool", [x], wanted, output="float32", count_include_pad=include, **names
            )
            cases.append(
                Case(kernel=kernel, activations=[x], constants=SCALES, wanted=wanted, error=1e-5)
            )
    check_all(cases, opencl)


def test_resize(opencl: Target):
    """Any mixture of rows and columns; copies are exact, bytes rounded once."""
    cases = []
    for taps, channels, dtype in [
        ((1, 1), 8, "float32"), ((2, 2), 8, "float32"), ((4, 4), 3, "float32"),
        ((1, 1), 3, "uint8"), ((2, 2), 4, "uint8"),
    ]:  # fmt: skip
        x, made = values(8, (1, 4, 5, channels), dtype), (7, 6)
        rng, tables = np.random.default_rng(9), dict(SCALES)
        for axis, extent, size, count in zip(("row", "column"), (4, 5), made, taps, strict=True):
            tables[f"{axis}_index"] = rng.integers(0, extent, (size, count)).astype(np.int32)
            weight = rng.random((size, count)) if count > 1 else np.ones((size, 1))
            tables[f"{axis}_weight"] = weight.astype(np.float32)
        real = x.astype(np.float64)
        if dtype == "uint8" and taps != (1, 1):
            real = (real - IN[1]) * np.float64(IN[0])
        rows = np.einsum("yt,nytwc->nywc", tables["row_weight"], real[:, tables["row_index"]])
        mixed = rows[:, :, tables["column_index"]]
        wanted = np.einsum("xt,nyxtc->nyxc", tables["column_weight"], mixed)
        if dtype == "uint8" and taps != (1, 1):
            wanted = np.clip(np.rint(wanted / OUT[0]) + OUT[1], 0, 255)
        kernel = kernel_of("resize", [x], wanted, output=dtype, taps=taps)
        cases.append(
            Case(kernel=kernel, activations=[x], constants=tables, wanted=wanted, error=1e-5,
                 step=dtype == "uint8")
        )  # fmt: skip
    check_all(cases, opencl)


def test_reductions(opencl: Target):
    """Every reduction, over rows, columns, both and scattered axes, long and short."""
    cases = []
    axes_of = [(3,), (1, 2), (1,), (1, 3), (0, 1, 2, 3), (2, 3), (2,), (3,)]
    for number, (op, axes) in enumerate(zip(sorted(REDUCE), axes_of, strict=True)):
        x = values(number, (1, 5, 6, 37 if number % 2 else 140))
        x = 1 + 0.01 * x if op == "prod" else x
        wanted = REDUCE[op](x.astype(np.float64), axis=axes, keepdims=True)
        size = np.abs(x).astype(np.float64).sum(axis=axes, keepdims=True).max()
        kernel = kernel_of(f"reduce_{op}", [x.astype(np.float32)], wanted, output="float32",
                           axes=axes)  # fmt: skip
        cases.append(
            Case(kernel=kernel, activations=[x.astype(np.float32)], wanted=wanted,
                 error=1e-5 * max(size, np.abs(wanted).max()))
        )  # fmt: skip
    for shape in [(1, 5, 7, 70), (1, 49, 1, 8)]:
        x = values(9, shape, "uint8")
        cases.append(exact("global_max_pool", [x], x.max((1, 2), keepdims=True)))
        mean = (x.astype(np.float64) - IN[1]).mean((1, 2), keepdims=True) * np.float64(IN[0])
        steps = np.clip(np.rint(mean / OUT[0]) + OUT[1], 0, 255)
        kernel = kernel_of("global_avg_pool", [x], steps, output="uint8", precision="int8")
        cases.append(
            Case(kernel=kernel, activations=[x], constants=SCALES, wanted=steps, step=True)
        )
    check_all(cases, opencl)


def test_arguments(opencl: Target):
    """The first or last place of the largest and the smallest value, ties included."""
    cases = []
    x = np.round(values(10, (1, 6, 4, 21)))
    for axis, last in [(1, 0), (3, 1)]:
        turned = np.flip(x, axis) if last else x
        for op, find in (("arg_max", np.argmax), ("arg_min", np.argmin)):
            wanted = find(turned, axis=axis, keepdims=True)
            wanted = x.shape[axis] - 1 - wanted if last else wanted
            cases.append(exact(op, [x], wanted.astype(np.int64), axis=axis, last=last))
    check_all(cases, opencl)
