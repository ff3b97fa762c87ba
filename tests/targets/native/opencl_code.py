"""Small OpenCL modules for tests: TIR bound to threads, compiled and made runnable."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.script import ir as I  # noqa: N812
from tvm.script import tirx as T  # noqa: N812

from millifit.targets.build import tvm_target
from millifit.targets.target import Target


@I.ir_module
class TwiceAndOne:
    """output = 2 * input + 1 for 256 values, wherever in memory they lie."""

    @T.prim_func
    def main(a: T.handle, b: T.handle) -> None:  # noqa: N805 - a function of TIR
        """In work-groups of four, each work-item four values."""
        from_element = T.int32()
        to_element = T.int32()
        A = T.match_buffer(a, (64, 4), "float32", elem_offset=from_element)
        B = T.match_buffer(b, (64, 4), "float32", elem_offset=to_element)
        for i in T.thread_binding(16, thread="blockIdx.x"):
            for j in T.thread_binding(4, thread="threadIdx.x"):
                for k in T.vectorized(4):
                    B[i * 4 + j, k] = A[i * 4 + j, k] * T.float32(2) + T.float32(1)


def compiled(target: Target, module: Any = TwiceAndOne) -> Any:
    """TVM's executable for a target."""
    return tvm.compile(module, target=tvm_target(target))


def runnable(target: Target, module: Any = TwiceAndOne) -> Any:
    """The module, ready to run in this process."""
    executable = compiled(target, module)
    tvm.get_global_func("millifit.opencl.make_runnable")(executable.mod)
    return executable.jit()
