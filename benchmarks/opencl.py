"""Our OpenCL code and TVM's dlight on the same layers: interleaved ratios of device time.

Layers are those of MobileNetV2 and ResNet-18, in fp32: every distinct kernel of the networks that
TVM has an operator for. dlight's is the same operator in the same layout (channels-last), with its
bias, activation function and residual fused by TVM and scheduled by `tvm.s_tir.dlight.gpu`: as
`relax.build` does by default, and by its last rule alone, a thread for every output, which does not
split short sums between threads. The faster of the two counts. All run in one process, in turn,
timed by OpenCL's events; a ratio is the median of the rounds' ratios.

**This measures PoCL, which is a processor.** It tells that the code is right and that nothing is
absurdly slow, and nothing of a phone: there, threads run in step, memory is shared and slow, and
half precision is twice as fast. dlight has no code for half precision that a device without
``cl_khr_fp16`` compiles, so there is no such comparison.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import load
from benchmarks.setting import setting, write_result
from millifit.targets.build import build_kernel, runnable, tvm_target
from millifit.targets.detect_gpu import detect_gpu_target
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.runner.clock import clock_for
from millifit.targets.schedules.code import number, pads_of, pair
from millifit.targets.target import Target

_SEED = 0
_MODELS = ("MobileNetV2", "ResNet-18")
_FAMILIES = {
    "conv2d": "convolution", "depthwise_conv2d": "depthwise", "dense": "dense",
    "add": "elementwise", "relu": "elementwise", "max_pool": "pooling",
    "global_avg_pool": "reduction", "reduce_mean": "reduction",
}  # fmt: skip
_STEPS = ("relu", "clip", "add")


def kernels_of(names: Sequence[str], target: Target) -> list[tuple[Kernel, str]]:
    """The distinct kernels of some models that both sides can be asked for, with the model."""
    found: dict[Kernel, str] = {}
    for name in names:
        program = lower(simplify(from_onnx(load(name, _SEED), name=name)), target)
        for kernel in program.kernels:
            if kernel.op in _FAMILIES and all(step in _STEPS for step in kernel.epilogue):
                found.setdefault(kernel, name)
    return list(found.items())


def dlight(
    kernel: Kernel, target: Target, device: Any, *, plain: bool = False
) -> Callable[[], object]:
    """The kernel as TVM makes it by default for GPUs, or by a `plain` rule, ready to be called."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    shapes = [kind.shape for kind in kernel.inputs]
    inputs = [
        relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)
    ]
    weights = [
        relax.Var(f"w{i}", relax.TensorType(shape, "float32"))
        for i, shape in enumerate(_weights(kernel))
    ]
    with builder.function("main", [*inputs, *weights]):
        with builder.dataflow():
            value = builder.emit(_operator(kernel, inputs, weights))
            if len(weights) > 1:
                value = builder.emit(relax.op.add(value, weights[1]))
            for step in kernel.epilogue:
                value = builder.emit(_step(step, value, inputs))
            value = builder.emit_output(value)
        builder.emit_func_output(value)
    module = builder.get()
    if plain:
        module = _thread_per_output(module, target)
    executable = runnable(relax.build(module, target=tvm_target(target)), target)
    main = relax.VirtualMachine(executable, device)["main"]
    rng = np.random.default_rng(_SEED)
    given = [
        tvm.runtime.tensor(rng.uniform(0.5, 1.5, shape).astype(np.float32), device=device)
        for shape in (*shapes, *_weights(kernel))
    ]
    return lambda: main(*given)


def _thread_per_output(module: Any, target: Target) -> Any:
    """Operators fused as `relax.build` does it, and scheduled by dlight's last rule."""
    import tvm
    from tvm.relax import transform
    from tvm.s_tir import dlight as rules

    passes = [
        transform.LegalizeOps(), transform.AnnotateTIROpPattern(), transform.FoldConstant(),
        transform.FuseOps(), transform.FuseTIR(), rules.ApplyDefaultSchedule(rules.gpu.Fallback()),
    ]  # fmt: skip
    with tvm_target(target):
        return tvm.transform.Sequential(passes)(module)


def _weights(kernel: Kernel) -> list[tuple[int, ...]]:
    """Shapes of weight and bias, in the layout that TVM's operators take for channels-last maps."""
    channels = kernel.output.shape[-1]
    match kernel.op:
        case "dense":
            return [(kernel.inputs[0].shape[1], channels), (channels,)]
        case "conv2d":
            groups = int(number(kernel, "groups", 1))
            inputs = kernel.inputs[0].shape[3] // groups
            return [(*pair(kernel, "kernel"), inputs, channels), (channels,)]
        case "depthwise_conv2d":
            return [(*pair(kernel, "kernel"), channels, 1), (channels,)]
    return []


def _operator(kernel: Kernel, inputs: list[Any], weights: list[Any]) -> Any:
    from tvm import relax

    match kernel.op:
        case "dense":
            return relax.op.matmul(inputs[0], weights[0])
        case "conv2d" | "depthwise_conv2d":
            depthwise = kernel.op == "depthwise_conv2d"
            groups = kernel.output.shape[3] if depthwise else int(number(kernel, "groups", 1))
            return relax.op.nn.conv2d(
                inputs[0], weights[0], strides=pair(kernel, "strides"), padding=pads_of(kernel),
                dilation=pair(kernel, "dilations"), groups=groups, data_layout="NHWC",
                kernel_layout="HWOI" if depthwise else "HWIO",
            )  # fmt: skip
        case "max_pool":
            return relax.op.nn.max_pool2d(
                inputs[0], pool_size=pair(kernel, "kernel"), strides=pair(kernel, "strides"),
                padding=pads_of(kernel), layout="NHWC",
            )  # fmt: skip
        case "add":
            return relax.op.add(inputs[0], inputs[1])
        case "relu":
            return relax.op.nn.relu(inputs[0])
    return relax.op.mean(inputs[0], axis=[1, 2], keepdims=True)


def _step(step: str, value: Any, inputs: list[Any]) -> Any:
    from tvm import relax

    match step:
        case "add":
            return relax.op.add(value, inputs[1])
        case "relu":
            return relax.op.nn.relu(value)
    return relax.op.clip(value, relax.prim_value(0.0), relax.prim_value(6.0))


def compare(
    kernels: Sequence[tuple[Kernel, str]], target: Target, *, rounds: int
) -> Iterator[dict[str, Any]]:
    """A row for each kernel."""
    clock = clock_for(target)
    for kernel, model in kernels:
        built = build_kernel(kernel, target)
        operands = built.operands(np.random.default_rng(_SEED), 0)[0]

        def ours(run: Any = built.function, given: Any = operands) -> object:
            return run(*given)

        row: dict[str, Any] = {
            "model": model, "family": _FAMILIES[kernel.op], "op": kernel.op,
            "input": kernel.inputs[0].shape, "output": kernel.output.shape,
            "attributes": dict(kernel.attributes), "epilogue": kernel.epilogue, "error": "",
        }  # fmt: skip
        try:
            theirs = [dlight(kernel, target, built.device, plain=plain) for plain in (False, True)]
            for each in theirs:
                each()
        except Exception as error:  # whatever TVM cannot do, the others are still compared
            yield row | {"error": f"{type(error).__name__}: {str(error).splitlines()[-1][:160]}"}
            continue
        ours()
        timed = [[clock.seconds(run) for run in (ours, *theirs)] for _ in range(rounds)]
        ratios = [[each[0] / each[rule] for each in timed] for rule in (1, 2)]
        medians = [statistics.median(column) for column in zip(*timed, strict=True)]
        faster = max(ratios, key=statistics.median)
        yield row | {
            "ours_s": medians[0], "dlight_s": medians[1], "dlight_thread_per_output_s": medians[2],
            "ratio": statistics.median(faster), "ratios": faster,
        }  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric mean, best and worst ratio of every family."""
    made = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        ratios = [row["ratio"] for row in rows if row["family"] == family and not row["error"]]
        if ratios:
            mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
            made[family] = {
                "geomean": mean, "best": min(ratios), "worst": max(ratios), "kernels": len(ratios),
            }  # fmt: skip
    return made


def main() -> None:
    """Compare all layers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--models", default=",".join(_MODELS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ops", default=",".join(_FAMILIES), help="comma-separated")
    given = parser.parse_args()
    target = detect_gpu_target("pocl-opencl")
    kernels = [
        (kernel, model)
        for kernel, model in kernels_of(given.models.split(","), target)
        if kernel.op in given.ops.split(",")
    ]
    rows = []
    for row in compare(kernels, target, rounds=given.rounds):
        rows.append(row)
        read, made = ("x".join(map(str, row[end])) for end in ("input", "output"))
        shape = f"{row['op']:17}{read:>15} ->{made:>15}"
        print(
            f"{shape} ERROR {row['error']}" if row["error"] else
            f"{shape} ours {row['ours_s'] * 1e3:8.3f} ms  dlight {row['dlight_s'] * 1e3:8.3f} or "
            f"{row['dlight_thread_per_output_s'] * 1e3:8.3f} ms  ratio {row['ratio']:.2f}",
            flush=True,
        )  # fmt: skip
    found = summary(rows)
    for family, figures in found.items():
        print(f"{family}: {figures['geomean']:.2f} ({figures['best']:.2f}-{figures['worst']:.2f})")
    device = {"opencl_device": target.gpu.name if target.gpu else "", "is_gpu": False}
    write_result(given.json, {**setting(_SEED), **device, "rows": rows, "summary": found})


if __name__ == "__main__":
    main()
