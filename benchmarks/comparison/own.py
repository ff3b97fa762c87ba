"""A look into a run of a bundle: the memory it works in, and the seconds of every kernel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from millifit.targets.loaded_bundle import LoadedBundle
from millifit.targets.program import Program
from millifit.targets.schedules.rules import schedule
from millifit.targets.schedules.tir import in_registers
from millifit.targets.target import Target

_RUNS = 12


def workspace_bytes(bundle: LoadedBundle, program: Program, target: Target) -> int:
    """Bytes that one inference works in, its output included, input and weights left out.

    All buffers the program asks the runtime for in a run, as the runtime hears it (the plan reuses
    them, so that their sum is the peak), and the largest scratch memory of a kernel: kernels run
    one after the other, and the runtime keeps what the largest needed. Scratch inside a parallel
    loop counts once for every thread.
    """
    asked = 0

    def hear(name: str, begins: bool, arguments: tuple[Any, ...]) -> None:
        nonlocal asked
        if begins and name == "vm.builtin.alloc_storage":
            size = arguments[1]
            asked += int(size[0] if isinstance(size, tuple) or hasattr(size, "__len__") else size)

    bundle.observe(hear)
    scratch = [
        sum(_scratch(schedule(kernel, target).function.body, target.threads))
        for kernel in program.kernels
        if kernel.op not in ("onnx", "reshape")
    ]
    return asked + max(scratch, default=0)


def _scratch(statement: Any, threads: int) -> Iterator[int]:
    """Bytes of every allocation in a kernel that is not of registers."""
    from tvm.tirx import stmt

    if isinstance(statement, stmt.AllocBuffer) and not in_registers(statement):
        import numpy as np

        size = int(np.prod([int(extent) for extent in statement.buffer.shape], dtype=np.int64))
        yield size * _element_bytes(str(statement.buffer.dtype))
    parallel = isinstance(statement, stmt.For) and statement.kind == stmt.ForKind.PARALLEL
    copies = threads if parallel else 1
    inner = list(getattr(statement, "seq", ()))
    inner += [getattr(statement, part, None) for part in ("body", "then_case", "else_case")]
    for each in inner:
        if each is not None:
            yield from (copies * size for size in _scratch(each, threads))


def _element_bytes(dtype: str) -> int:
    bits = "".join(c for c in dtype.split("x")[0] if c.isdigit())
    return max(1, int(bits or 8) // 8)


def kernel_seconds(bundle: LoadedBundle, program: Program) -> list[float] | None:
    """Median seconds of every call of the program, in order, in whole runs of the bundle.

    None where the runtime's calls are not the program's, so that they cannot be told apart. The
    time includes some 2 microseconds of being looked at.
    """
    runs: list[list[float]] = []
    began = 0.0

    def hear(name: str, begins: bool, _arguments: tuple[Any, ...]) -> None:
        nonlocal began
        now = time.perf_counter()
        if not begins and name.startswith("k") and name[1:2].isdigit():
            runs[-1].append(now - began)
        began = time.perf_counter()

    for _ in range(_RUNS):
        runs.append([])
        bundle.observe(hear)
    expected = sum(call.kernel.op != "reshape" for call in program.calls)
    if any(len(run) != expected for run in runs):
        return None
    medians = iter([statistics.median(each) for each in zip(*runs[2:], strict=True)])
    return [0.0 if call.kernel.op == "reshape" else next(medians) for call in program.calls]
