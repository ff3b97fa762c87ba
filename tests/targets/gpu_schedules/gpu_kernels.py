"""Run many kernels on a GPU as one program: starting its compiler takes most of a test's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kernels import tensor

from millifit.targets.build import runnable, tvm_target
from millifit.targets.device import runtime_device
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Gpu, Target

_POISON = 0x5A
_STEP = 64  # bytes: what the arena aligns tensors to


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kernel, what it is given, and what it must give to within `error`, absolute.

    With `step`, one value in twenty may be one step off: a tie that was rounded the other
    way.
    """

    kernel: Kernel
    activations: Sequence[Array]
    wanted: Array
    constants: Mapping[str, Array] = field(default_factory=dict)
    error: float = 0.0
    step: bool = False

    def check(self, made: Array) -> None:
        """Compare what came out."""
        off = np.abs(made.astype(np.float64) - self.wanted.astype(np.float64))
        if self.step:
            assert off.max() <= 1
            assert np.mean(off) <= 0.05
            return
        assert not np.isnan(off).any(), self.kernel
        assert off.max() <= self.error, self.kernel


def kernel_of(
    op: str,
    inputs: Sequence[Array],
    wanted: Array,
    *,
    output: str = "",
    precision: str = "fp32",
    epilogue: tuple[str, ...] = (),
    **attributes: Any,
) -> Kernel:
    """A kernel from arrays and what must come out."""
    return Kernel(
        op=op, inputs=tuple(tensor(x.shape, str(x.dtype)) for x in inputs),
        output=tensor(wanted.shape, output or str(wanted.dtype)), epilogue=epilogue,
        precision=precision,  # type: ignore[arg-type]
        attributes=tuple(sorted(attributes.items())),
    )  # fmt: skip


def check_all(cases: Sequence[Case], target: Target) -> None:
    """Compile the kernels together, run each once, and compare.

    Every tensor lies in the middle of larger memory, as in an arena; none may be written beside.
    """
    import tvm

    codes = [schedule(case.kernel, target) for case in cases]
    module = tvm.IRModule(
        {f"k{i}": c.function.with_attr("global_symbol", f"k{i}") for i, c in enumerate(codes)}
    )
    device = runtime_device(target)
    built = runnable(tvm.compile(module, target=tvm_target(target)), target)
    for i, (case, code) in enumerate(zip(cases, codes, strict=True)):
        operands = code.pack(case.constants)
        assert [(o.shape, str(o.dtype)) for o in operands] == [
            (t.shape, t.dtype) for t in code.operands
        ]
        output = np.full(case.kernel.output.shape, 77, case.kernel.output.dtype)
        placed = [
            _Placed(array, device, before=_STEP * (place % 4))
            for place, array in enumerate((*case.activations, *operands, output))
        ]
        built[f"k{i}"](*(each.view for each in placed))
        case.check(placed[-1].numpy())


class _Placed:
    """An array in the middle of device memory."""

    def __init__(self, array: Array, device: Any, *, before: int) -> None:
        import tvm

        self._before, self._array = before, np.ascontiguousarray(array)
        memory = np.full(before + self._array.nbytes + _STEP, _POISON, np.uint8)
        memory[before:-_STEP] = np.frombuffer(self._array.tobytes(), np.uint8)
        self._memory = tvm.runtime.tensor(memory, device=device)
        self.view = self._memory._create_view(self._array.shape, str(self._array.dtype), before)

    def numpy(self) -> Array:
        """The array as it is now; fails where the memory around it has changed."""
        memory = self._memory.numpy()
        assert (memory[: self._before] == _POISON).all()
        assert (memory[-_STEP:] == _POISON).all()
        raw = memory[self._before : -_STEP].tobytes()
        return np.frombuffer(raw, self._array.dtype).reshape(self._array.shape)


def gpu_target(api: str = "opencl", **facts: Any) -> Target:
    """A target with a GPU; by default one like an Adreno 640."""
    fields: dict[str, Any] = {
        "name": "test", "compute_units": 2, "subgroup": 64, "max_threads": 1024,
        "shared_bytes": 32 << 10, "features": ("fp16",), **facts,
    }  # fmt: skip
    return Target(
        name="test", triple="aarch64-linux-android", mcpu="cortex-a76", vector_bits=128,
        vector_registers=32, dot_product="neon_sdot", cores=4, l1_bytes=32 << 10,
        l2_bytes=256 << 10, l3_bytes=2 << 20, cpu="test", reach="none",
        gpu=Gpu(api=api, **fields),  # type: ignore[arg-type]
    )  # fmt: skip
