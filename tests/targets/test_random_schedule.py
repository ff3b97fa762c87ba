"""Schedules drawn for an operator without a rule: right, the same each time, and shippable."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import onnx
import pytest
from kernels import TARGETS, tensor
from onnx import helper

from millifit.errors import CompileError
from millifit.targets.build import build_kernel, compile_program, tvm_target
from millifit.targets.kernel import Kernel
from millifit.targets.program import Call, Program
from millifit.targets.schedules.candidates import candidates
from millifit.targets.schedules.onnx_operator import import_operator

SHAPE = (1, 12, 7, 9)
TARGET = TARGETS[0]


def normalization() -> Kernel:
    """A local response normalization, which has no rule: several loop nests."""
    info = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in ("x0", "y0")
    ]
    node = helper.make_node("LRN", ["x0"], ["y0"], size=5)
    model = helper.make_model(
        helper.make_graph([node], "LRN", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    return Kernel(
        op="onnx", inputs=(tensor(SHAPE),), output=tensor(SHAPE), precision="fp32",
        attributes=(
            ("model", base64.b64encode(model.SerializeToString()).decode()), ("operator", "LRN"),
        ),
    )  # fmt: skip


X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def built(kernel: Kernel) -> Any:
    import tvm

    return build_kernel(kernel, TARGET).function(tvm.runtime.tensor(X), None).numpy()


def test_a_drawn_schedule_computes_the_same() -> None:
    """Whatever the tiles, the result is the plain loops'."""
    plain = built(normalization())
    choices = candidates(normalization(), TARGET)
    assert choices[:2] == ((), (("sample", 1),))
    for choice in choices[1:4]:
        made = built(normalization().with_choice(choice))
        np.testing.assert_allclose(made, plain, rtol=1e-5, atol=1e-6)


def test_a_seed_names_one_schedule() -> None:
    """The same seed gives the same code, so that what was timed can be compiled again."""

    def code(seed: int) -> str:
        kernel = normalization().with_choice((("sample", seed),))
        return str(import_operator(kernel, tvm_target(TARGET)))

    assert code(3) == code(3)
    assert code(3) != code(4)


def test_a_drawn_schedule_ships_in_a_network() -> None:
    """Its loop nests are part of the library, beside others."""
    import tvm
    from tvm import relax

    kernel = normalization()
    kind = tensor(SHAPE)

    def run(kernel: Kernel) -> Any:
        program = Program(
            name="net", inputs=("x",), outputs=("y",), types={"x": kind, "y": kind},
            calls=(Call(kernel=kernel, inputs=("x",), output="y", constants={}, nodes=("lrn",)),),
        )  # fmt: skip
        compiled = compile_program(program, TARGET)
        machine = relax.VirtualMachine(compiled.executable, tvm.cpu())
        return machine["main"](tvm.runtime.tensor(X)).numpy()

    tuned = run(kernel.with_choice((("sample", 2),)))
    np.testing.assert_allclose(tuned, run(kernel), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("choice", [(("sample", 0),), (("rows", 6),)])
def test_a_choice_that_is_not_possible_is_refused(choice: Any) -> None:
    """Samples count from 1, and there is nothing else to choose."""
    with pytest.raises(CompileError, match="une the network again"):
        build_kernel(normalization().with_choice(choice), TARGET)
