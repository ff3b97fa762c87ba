"""Code generation: kernels to be timed and programs to be shipped, and what cannot be compiled."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from kernels import convolve, tensor
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import Compiled, lowered

from millifit.errors import CompileError
from millifit.targets.build import build_kernel, compile_program, export_library
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.rules import schedule
from millifit.targets.target import Target

node = helper.make_node
CONVOLUTION = Kernel(
    op="conv2d", inputs=(tensor((1, 6, 6, 4)),), output=tensor((1, 6, 6, 8)), precision="fp32",
    attributes=(
        ("dilations", (1, 1)), ("groups", 1), ("kernel", (3, 3)), ("pads", (1, 1, 1, 1)),
        ("strides", (1, 1)),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def local() -> Target:
    return find_target("local")


@pytest.fixture(scope="module")
def foreign(local: Target) -> Target:
    """A target of another architecture, whichever this one is."""
    return dataclasses.replace(
        find_target("rpi4"), name="board", triple="riscv64-linux-gnu", mcpu="generic-rv64",
        features=("+m", "+a", "+f", "+d"),
    )  # fmt: skip


def test_kernel_is_built_and_runs_on_its_operands(local: Target) -> None:
    """A built kernel computes what the kernel says, on operands of the stated types."""
    import tvm

    built = build_kernel(CONVOLUTION, local)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 6, 6, 4)).astype(np.float32)
    weight = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(8).astype(np.float32)
    packed = schedule(CONVOLUTION, local).pack({"weight": weight, "bias": bias})
    assert [p.shape for p in packed] == [kind.shape for kind in built.operand_types]
    out = tvm.runtime.tensor(np.full((1, 6, 6, 8), 77, np.float32))
    built.function(*(tvm.runtime.tensor(a) for a in (x, *packed)), out)
    geometry = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 1}
    np.testing.assert_allclose(
        out.numpy()[0], convolve(x[0], weight, **geometry) + bias, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("megabytes", "copies"), [(0, 2), (0.01, 5), (1000, 64)])
def test_operands_rotate_through_the_working_set(
    local: Target, megabytes: float, copies: int
) -> None:
    """As many argument tuples as the working set holds, 2 to 64, of numbers that are finite."""
    kernel = Kernel(
        op="relu", inputs=(tensor((1, 250)),), output=tensor((1, 250)), precision="fp32"
    )
    built = build_kernel(kernel, local)
    made = built.operands(np.random.default_rng(0), int(megabytes * 1e6))
    size = 2000 + sum(kind.bytes for kind in built.operand_types)
    assert len(made) == min(64, max(2, -(-int(megabytes * 1e6) // size))) == copies
    for values in made:
        assert all(np.isfinite(value.numpy()).all() for value in values)
        built.function(*values)


def test_operator_without_a_rule_is_built(local: Target) -> None:
    """A kernel that TVM imports is timed through the same door."""
    import tvm

    program = lowered(onnx_model([node("Sin", ["x"], ["y"], "e")], shape=(1, 5)), local)
    built = build_kernel(program.calls[0].kernel, local)
    assert built.operand_types == ()
    x = random(0, 1, 5)
    made = built.function(tvm.runtime.tensor(x), tvm.runtime.tensor(np.zeros((1, 5), "f4")))
    np.testing.assert_allclose(made.numpy(), np.sin(x), rtol=1e-5)


def test_kernel_that_cannot_be_compiled_is_named(local: Target) -> None:
    """An operator without a rule, and an empty tensor, are CompileErrors that name the kernel."""
    unknown = dataclasses.replace(CONVOLUTION, op="fourier")
    with pytest.raises(CompileError, match="no schedule rule for operator 'fourier'"):
        build_kernel(unknown, local)
    empty = dataclasses.replace(CONVOLUTION, inputs=(tensor((1, 0, 6, 4)),))
    with pytest.raises(CompileError, match="'conv2d' has an empty tensor"):
        build_kernel(empty, local)


def test_compiler_s_own_errors_name_the_subject(
    local: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TVM raises becomes a CompileError with the kernel and the last line of the reason."""

    def fails(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("trace\n\nLLVM does not know this CPU\n")

    monkeypatch.setattr("tvm.compile", fails)
    with pytest.raises(CompileError, match=r"'conv2d' \(\w+\) did not .*: LLVM does not know"):
        build_kernel(CONVOLUTION, local)


def test_equal_kernels_share_their_code(local: Target) -> None:
    """Two layers of one shape are one function, each with its own weights."""
    nodes = [
        node("Conv", ["x", "v"], ["a"], "a", pads=[1] * 4),
        node("Conv", ["a", "w"], ["y"], "b", pads=[1] * 4),
    ]
    model = onnx_model(nodes, {"v": random(0, 4, 4, 3, 3), "w": random(1, 4, 4, 3, 3)})
    program = lowered(model, local)
    compiled = compile_program(program, local)
    convolutions = [call for call in program.calls if call.kernel.op == "conv2d"]
    assert len(convolutions) == 2
    assert len({call.kernel for call in convolutions}) == 1
    lines = [line.split() for line in compiled.executable.as_text().splitlines()]
    called = [words[1] for words in lines if words[:1] == ["call"] and words[1].endswith("conv2d")]
    assert len(called) == 2
    assert len(set(called)) == 1
    x = random(3, 1, 4, 8, 8)
    np.testing.assert_allclose(
        Compiled(program, local).run(x)[0], answer(model, x)[0], rtol=1e-4, atol=1e-4
    )


def test_several_outputs_keep_their_order(local: Target) -> None:
    """A network of two outputs gives both, in the model's order."""
    model = onnx_model([node("Relu", ["x"], ["a"], "r"), node("Neg", ["a"], ["y"], "n")])
    model.graph.output.append(helper.make_tensor_value_info("a", 1, None))
    x = random(0, 1, 4, 8, 8)
    made = Compiled(lowered(model, local), local).run(x)
    np.testing.assert_array_equal(made[0], -np.maximum(x, 0))
    np.testing.assert_array_equal(made[1], np.maximum(x, 0))


def test_missing_compiler_is_named(
    local: Target, foreign: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a linker for the target the error says which one to install; nothing is written."""
    compiled = compile_program(lowered(onnx_model([node("Relu", ["x"], ["y"], "r")]), local), local)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(CompileError, match=r"needs a C\+\+ compiler: apt-get install g\+\+"):
        export_library(compiled, tmp_path / "library.so", local)
    with pytest.raises(CompileError, match=r"'board' needs riscv64-linux-gnu-g\+\+: apt-get"):
        export_library(compiled, tmp_path / "library.so", foreign)
    assert list(tmp_path.iterdir()) == []


def test_failing_linker_leaves_no_library(
    local: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A linker that fails is a CompileError that names the library; no half of it is left."""
    compiled = compile_program(lowered(onnx_model([node("Relu", ["x"], ["y"], "r")]), local), local)

    def fails(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("Compilation error:\nno space left on device")

    monkeypatch.setattr(type(compiled.executable), "export_library", fails)
    with pytest.raises(CompileError, match=r"'library\.so' did not compile: no space left"):
        export_library(compiled, tmp_path / "library.so", local)
    assert list(tmp_path.iterdir()) == []
