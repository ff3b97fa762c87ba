"""Run kernels of any instruction set this machine has, and compute what they must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from emulator import emulator

from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import runs_here
from millifit.targets.network import Array, TensorType
from millifit.targets.schedules.code import KernelCode
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Target

_CACHES = {"l1_bytes": 32 << 10, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20}


def x86(name: str, **changes: object) -> Target:
    """A target with an x86 instruction set: "avx512_vnni", "avx2" or "sse"."""
    facts = {
        "avx512_vnni": ("x86-64-v4", ("+avx512vnni",), 512, 32, "avx512_vnni"),
        "avx2": ("x86-64-v3", (), 256, 16, "avx2_pmaddwd"),
        "sse": ("x86-64-v2", (), 128, 16, "none"),
    }
    mcpu, features, bits, registers, dot = facts[name]
    fields: dict[str, object] = {
        "name": name, "triple": "x86_64-linux-gnu", "mcpu": mcpu, "features": features,
        "vector_bits": bits, "vector_registers": registers, "dot_product": dot, "cores": 2,
        "cpu": "test", "reach": "local", **_CACHES, **changes,
    }  # fmt: skip
    return Target(**fields)  # type: ignore[arg-type]


def arm(name: str, **changes: object) -> Target:
    """A target with an Arm instruction set, emulated: "neon", "sdot" or "i8mm"."""
    facts = {
        "neon": ("cortex-a72", (), "neon_smull"),
        "sdot": ("cortex-a76", ("+dotprod", "+fullfp16"), "neon_sdot"),
        "i8mm": ("neoverse-n2", ("+dotprod", "+fullfp16", "+i8mm"), "neon_i8mm"),
    }
    mcpu, features, dot = facts[name]
    fields: dict[str, object] = {
        "name": name, "triple": "aarch64-linux-gnu", "mcpu": mcpu, "features": features,
        "vector_bits": 128, "vector_registers": 32, "dot_product": dot, "cores": 4,
        "cpu": "test", "reach": "none", **_CACHES, **changes,
    }  # fmt: skip
    return Target(**fields)  # type: ignore[arg-type]


TARGETS = [t for t in map(x86, ("avx512_vnni", "avx2", "sse")) if runs_here(t) is None]
EVERYWHERE = [*TARGETS, arm("i8mm")]


def tensor(shape: Sequence[int], dtype: str = "float32") -> TensorType:
    """Shorter to write."""
    return TensorType(shape=tuple(shape), dtype=dtype)


def run(
    kernel: Kernel, target: Target, activations: Sequence[Array], constants: Mapping[str, Array]
) -> Array:
    """Compile a kernel and run it once; in an emulator where it is for Arm."""
    return run_code(kernel, schedule(kernel, target), target, activations, constants)


def run_code(
    kernel: Kernel,
    code: KernelCode,
    target: Target,
    activations: Sequence[Array],
    constants: Mapping[str, Array],
) -> Array:
    """Run the code that a rule wrote for a kernel."""
    import tvm

    from millifit.targets.build import tvm_target

    operands = code.pack(constants)
    assert [(o.shape, str(o.dtype)) for o in operands] == [
        (t.shape, t.dtype) for t in code.operands
    ]
    module = tvm.IRModule({"main": code.function.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=tvm_target(target))
    arrays = [np.asarray(a, order="C") for a in (*activations, *operands)]
    # Poisoned, so that an element nobody writes is noticed.
    arrays.append(np.full(kernel.output.shape, 77, kernel.output.dtype))
    if target.triple.startswith("aarch64"):
        return emulator().run(built, arrays)
    given = [tvm.runtime.tensor(a) for a in arrays]
    built.jit()["main"](*given)
    out = given[-1]
    result: Array = out.numpy()
    return result


def convolve(
    x: Array,
    weight: Array,
    *,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    groups: int,
) -> Array:
    """Convolution of ``x: [H, W, C]`` with ``weight: [O, C/groups, KH, KW]``, in x's precision."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)))
    outputs, inputs, kh, kw = weight.shape
    oh = (padded.shape[0] - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    ow = (padded.shape[1] - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    result = np.zeros((oh, ow, outputs), x.dtype)
    per_group = outputs // groups
    for group in range(groups):
        mine = slice(group * per_group, (group + 1) * per_group)
        read = slice(group * inputs, (group + 1) * inputs)
        for ky in range(kh):
            for kx in range(kw):
                y0, x0 = ky * dilations[0], kx * dilations[1]
                part = padded[y0 : y0 + (oh - 1) * strides[0] + 1 : strides[0]]
                part = part[:, x0 : x0 + (ow - 1) * strides[1] + 1 : strides[1], read]
                result[:, :, mine] += part @ weight[mine, :, ky, kx].T.astype(x.dtype)
    return result
