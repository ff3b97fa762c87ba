"""Kernels as libraries for other devices: the same code, and an empty twin."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kernels import arm, tensor
from onnx import helper

from millifit.errors import CompileError
from millifit.targets.build import build_kernel
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.kernel_library import KernelLibrary, kernel_library

CONVOLUTION = Kernel(
    op="conv2d", inputs=(tensor((1, 6, 6, 4)),), output=tensor((1, 6, 6, 8)), precision="fp32",
    attributes=(
        ("dilations", (1, 1)), ("group", 1), ("kernel", (3, 3)), ("pads", (1, 1, 1, 1)),
        ("strides", (1, 1)),
    ),
    epilogue=("relu",),
)  # fmt: skip


def loaded(library: KernelLibrary, folder: Path) -> Any:
    import tvm

    path = folder / "kernel.so"
    path.write_bytes(library.content)
    return tvm.runtime.load_module(str(path))


def test_a_library_computes_what_is_timed_here(tmp_path: Path) -> None:
    """Bit for bit: it is the same code."""
    here = find_target("local")
    built, library = build_kernel(CONVOLUTION, here), kernel_library(CONVOLUTION, here)
    assert library.operand_types == built.operand_types
    assert not library.executable
    given, again = (built.operands(np.random.default_rng(0), 0)[0] for _ in range(2))
    built.function(*given)
    module = loaded(library, tmp_path)
    module["main"](*again)
    np.testing.assert_array_equal(again[-1].numpy(), given[-1].numpy())
    assert given[-1].numpy().any()
    module["empty"](*again)


def test_a_library_for_another_processor_is_linked_for_it() -> None:
    """The cross compiler's linker makes an ELF file of that machine."""
    content = kernel_library(CONVOLUTION, arm("neon")).content
    assert content[:4] == b"\x7fELF"
    assert int.from_bytes(content[18:20], "little") == 183  # AArch64


def test_an_operator_without_a_schedule_is_a_program_of_its_own(tmp_path: Path) -> None:
    """TVM's virtual machine runs it; the empty twin is there, too."""
    import tvm
    from tvm.runtime.vm import VirtualMachine

    flat = tensor((1, 8))
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 8)) for n in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "Abs", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    encoded = base64.b64encode(model.SerializeToString()).decode()
    kernel = Kernel(
        op="onnx", inputs=(flat,), output=flat, precision="fp32",
        attributes=(("model", encoded), ("operator", "Abs")),
    )  # fmt: skip
    library = kernel_library(kernel, find_target("local"))
    assert library.executable
    module = loaded(library, tmp_path)
    x = np.linspace(-1, 1, 8, dtype=np.float32)[None]
    made = VirtualMachine(module, tvm.cpu())["main"](tvm.runtime.tensor(x))
    np.testing.assert_allclose(made.numpy(), np.abs(x))
    empty = module.get_function("empty", query_imports=True)
    empty(tvm.runtime.tensor(x), tvm.runtime.tensor(x))


def test_what_cannot_be_compiled_names_the_kernel() -> None:
    """With TVM's reason."""
    wrong = Kernel(op="conv2d", inputs=(tensor((1, 8)),), output=tensor((1, 8)), precision="fp32")
    with pytest.raises(CompileError, match=r"kernel 'conv2d' \(\w+\) did not compile"):
        kernel_library(wrong, find_target("local"))
