"""What is generated for GPUs that are not here: phones' and servers', as text."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from gpu_kernels import gpu_target, kernel_of
from kernels import tensor

from millifit.targets.build import tvm_target
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Target

PHONES = {
    "adreno640": gpu_target(),
    "adreno616": gpu_target(compute_units=1, max_threads=512),
    "malig76": gpu_target(compute_units=12, subgroup=8, max_threads=384),
    "storage_only": gpu_target(features=("fp16_storage",)),
    "without": gpu_target(features=()),
}
PHONE = pytest.mark.parametrize("target", PHONES.values(), ids=PHONES)


def convolution(inputs, outputs, size, *, extent=14, groups=1, stride=1, precision="fp32"):
    """A layer of a MobileNetV2, padded, with its Clip."""
    dtype = "float16" if precision == "fp16" else "float32"
    attributes = {
        "kernel": (size, size), "strides": (stride, stride), "dilations": (1, 1),
        "pads": (size // 2,) * 4,
    }  # fmt: skip
    if groups == 1:
        attributes["groups"] = 1
    return Kernel(
        op="conv2d" if groups == 1 else "depthwise_conv2d",
        inputs=(tensor((1, extent, extent, inputs), dtype),),
        output=tensor((1, -(-extent // stride), -(-extent // stride), outputs), dtype),
        precision=precision, attributes=tuple(sorted(attributes.items())), epilogue=("clip",),
    )  # fmt: skip


def layers(precision):
    """Stem, expansion, depthwise, projection, head."""
    dtype = "float16" if precision == "fp16" else "float32"
    x = np.zeros((1, 1280), dtype)
    return [
        convolution(3, 32, 3, extent=112, stride=2, precision=precision),
        convolution(32, 192, 1, extent=28, precision=precision),
        convolution(192, 192, 3, extent=28, groups=192, precision=precision),
        convolution(576, 96, 1, precision=precision),
        convolution(960, 320, 1, extent=7, precision=precision),
        kernel_of("dense", [x], np.zeros((1, 1000), dtype), precision=precision),
    ]


def source_of(kernels, target: Target) -> str:
    """The source of some kernels, compiled as one program."""
    import tvm

    functions = {
        f"k{i}": schedule(kernel, target).function.with_attr("global_symbol", f"k{i}")
        for i, kernel in enumerate(kernels)
    }
    built = tvm.compile(tvm.IRModule(functions), target=tvm_target(target))
    text: str = built.mod.imports[0].inspect_source()
    return text


def sources(kernels, target: Target) -> list[str]:
    """The source of every kernel on its own."""
    return [source_of([kernel], target) for kernel in kernels]


def statements(node) -> Iterator:
    """A statement and all within it."""
    yield node
    inner = [*getattr(node, "seq", ()), getattr(node, "body", None)]
    inner += [getattr(node, "then_case", None), getattr(node, "else_case", None)]
    for each in inner:
        if each is not None:
            yield from statements(each)


def group_of(kernel, target) -> tuple[int, int]:
    """Threads of a work-group, and bytes that it shares."""
    threads, shared = 1, 0
    for node in statements(schedule(kernel, target).function.body):
        if type(node).__name__ == "AttrStmt" and node.node.thread_tag.startswith("threadIdx"):
            threads *= int(node.value)
        elif type(node).__name__ == "AllocBuffer" and node.buffer.scope() == "shared":
            lanes = 4 if str(node.buffer.dtype).endswith("x4") else 1
            shared += int(np.prod([int(extent) for extent in node.buffer.shape])) * 4 * lanes
    return threads, shared


@PHONE
def test_work_groups_are_within_the_device(target: Target):
    """A group has a power of two of threads, no more than the device, and its shared memory."""
    for kernel in layers("fp32"):
        threads, shared = group_of(kernel, target)
        assert threads & (threads - 1) == 0
        assert threads <= target.gpu.max_threads
        assert shared <= target.gpu.shared_bytes


@PHONE
def test_code_reads_vectors(target: Target):
    """Inputs, weights and outputs move 4 at a time; registers hold a tile that does not spill."""
    for kernel, source in zip(layers("fp32"), sources(layers("fp32"), target), strict=True):
        assert "vload4" in source
        assert "vstore4" in source
        assert not re.search(r"\.s0\]", source), "elements gathered one by one"
        accumulators = int(re.search(r"float4 sums_ptr\[(\d+)\]", source)[1])
        assert accumulators <= (4 if target.gpu.subgroup == 8 else 8), kernel


@pytest.mark.parametrize("name", ["adreno640", "storage_only"])
def test_half_precision(name: str):
    """Products are half where the device has them, sums float32; else only memory is half."""
    for source in sources(layers("fp16"), PHONES[name]):
        assert "float4 sums_ptr" in source
        assert "#error" not in source
        if name == "adreno640":
            assert re.search(r"half4 w0(_0)? = vload4", source)
            assert "convert_float4" in source
            assert "vload_half" not in source
        else:
            assert re.search(r"vload_half4?\(0, \(?&?.*weight", source)
            assert "vstore_half4(" in source
            assert not re.search(r"\bhalf4?\s+\w+ =", source)


def test_the_code_of_a_server_gpu_is_accepted_by_its_compiler():
    """The kernels that CUDA has no rule of its own for are CUDA C."""
    from millifit.targets.cuda_compiler import compile_cuda

    target = gpu_target("cuda", arch="sm_90", subgroup=32, compute_units=132,
                        features=("fp16", "dp4a"))  # fmt: skip
    x = np.zeros((1, 4, 3, 8), np.float32)
    q = x.astype(np.uint8)
    others = [
        kernel_of("gelu", [x], x), kernel_of("max", [x, x], x), kernel_of("softmax", [x], x),
        kernel_of("requantize", [q], q, precision="int8"),
        kernel_of("cast", [x], x.astype(np.float16)),
        kernel_of("global_avg_pool", [q], q[:, :1, :1], precision="int8"),
        kernel_of("concat", [q, q], np.concatenate([q, q], 3), axis=3),
    ]  # fmt: skip
    assert compile_cuda(source_of(others, target), "sm_90")


def test_devices_without_half_have_none():
    """A GPU that cannot even hold half precision is asked for fp32 alone."""
    assert PHONES["without"].precisions == ("fp32",)
    assert PHONES["storage_only"].precisions == ("fp32", "fp16")
