"""CUDA C++ becomes machine code without a GPU, and libraries carry that instead of text."""

import re
import stat
import struct
import subprocess
from collections import Counter

import pytest
import tvm
from emulated_gpu import cuda, generate
from layers import layer

from millifit.errors import CompileError, MissingDependency
from millifit.targets import cuda_compiler
from millifit.targets.build import tvm_target
from millifit.targets.cuda_compiler import bytes_of_c, compile_cuda, pack_cubins, with_cubins
from millifit.targets.schedules.rules import schedule

EMPTY = 'extern "C" __global__ void nothing() {}'
GEOMETRY = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
CASE = (28, 28, 128, 128, (3, 3), GEOMETRY, 1, 0)
OUTPUTS = {"fp32": "float32", "fp16": "float16", "int8": "uint8"}


@pytest.fixture
def nvrtc(monkeypatch):
    """As on a machine without the CUDA toolkit."""
    monkeypatch.setattr(cuda_compiler.shutil, "which", lambda _: None)
    assert cuda_compiler.compiler_name() == "nvrtc"


def instructions(cubin, folder):
    """How often each instruction stands in some machine code."""
    (folder / "kernels.cubin").write_bytes(cubin)
    disassembler = cuda_compiler.wheel_home() / "bin" / "nvdisasm"
    done = subprocess.run(
        [disassembler, folder / "kernels.cubin"], capture_output=True, text=True, check=True
    )
    line = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", re.MULTILINE)
    return Counter(line.findall(done.stdout))


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("precision", "features", "wanted"),
    [
        ("fp16", ("tensor_cores_fp16",), "HMMA"),
        ("int8", ("tensor_cores_int8",), "IMMA"),
        ("int8", ("dp4a",), "IDP"),
        ("fp32", (), "FFMA"),
    ],
)
def test_layers_use_the_instructions_that_are_promised(
    nvrtc, tmp_path, arch, precision, features, wanted
):
    """Tensor cores, dp4a and asynchronous copies stand in the machine code; sums in registers."""
    target = cuda(arch, features=features)
    kernel, *_ = layer(CASE, precision=precision, output=OUTPUTS[precision])
    source = generate({"main": schedule(kernel, target)}, target).source
    found = instructions(compile_cuda(source, arch), tmp_path)
    assert found[wanted] > 0
    assert (found["LDGSTS"] > 0) == (arch != "sm_75")
    assert found["STL"] + found["LDL"] < 10  # sums in local memory would be dozens


def test_nvcc_is_preferred(monkeypatch, tmp_path):
    """Where the toolkit is installed, it compiles; told the architecture, and nothing inexact."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/given"\nwhile [ "$1" != -o ]; do shift; done\nprintf made > "$2"\n')  # fmt: skip  # noqa: E501
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert compile_cuda(EMPTY, "sm_80") == b"made"
    given = (tmp_path / "given").read_text()
    assert "-arch=sm_80" in given
    assert "fast" not in given


def test_without_a_compiler_the_error_says_how_to_get_one(monkeypatch):
    """Neither nvcc nor the wheel: the command to run."""
    monkeypatch.setattr(cuda_compiler.shutil, "which", lambda _: None)
    monkeypatch.setattr(cuda_compiler, "wheel_home", lambda: None)
    assert cuda_compiler.compiler_name() == ""
    with pytest.raises(MissingDependency, match=r"pip install 'millifit\[cuda\]'"):
        compile_cuda(EMPTY, "sm_90")


def test_refused_code_says_why(nvrtc):
    """The compiler's first error, and the architecture."""
    with pytest.raises(CompileError, match=r"'sm_90'.*undefined"):
        compile_cuda('extern "C" __global__ void wrong() { undefined(); }', "sm_90")


def test_libraries_carry_machine_code(nvrtc, tmp_path):
    """No CUDA C++ is left, so that no compiler is needed where the library is loaded."""
    target = cuda("sm_80")
    kernel, *_ = layer(CASE, precision="fp16", output="float16")
    main = schedule(kernel, target).function.with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": main}), target=tvm_target(target))
    plain, packed = tmp_path / "plain.so", tmp_path / "packed.so"
    built.export_library(str(plain))
    built.export_library(str(packed), fpack_imports=pack_cubins("sm_80"))
    assert b"millifit::block_product" in plain.read_bytes()
    content = packed.read_bytes()
    assert b"millifit::block_product" not in content
    elf = content.index(b"\x7fELF", 4)
    assert struct.unpack_from("<H", content, elf + 18) == (190,)  # EM_CUDA


def text(content):
    return struct.pack("<Q", len(content)) + content


def test_packed_modules_change_their_format_and_code_alone():
    """What surrounds the code stays: sizes are right, other modules untouched."""
    functions, source = b"functions of the module", "__global__ void f();"
    module = text(b"cuda") + text(text(b"cuda") + functions + text(source.encode()))
    other = text(b"other") + text(b"cuda")
    body = other + module + other
    blob = struct.pack("<Q", len(body)) + body
    made = with_cubins(blob, [source], lambda code: code.upper().encode())
    compiled = text(b"cuda") + text(text(b"cubin") + functions + text(source.upper().encode()))
    wanted = other + compiled + other
    assert made == struct.pack("<Q", len(wanted)) + wanted
    assert with_cubins(made, [source], lambda _: b"never") == made


def test_an_unknown_form_is_an_error():
    """Another version of TVM may pack otherwise: that must not ship text."""
    body = text(b"cuda") + text(b"something else")
    with pytest.raises(CompileError, match="packs CUDA code in a way that is not known"):
        with_cubins(struct.pack("<Q", len(body)) + body, ["code"], lambda _: b"")


def test_bytes_of_c_are_read():
    """The one array in what TVM writes as C."""
    assert bytes_of_c("char a[];\nconst char a[3] = {\n  0x01,0xff,\n  0x00,\n};\n") == b"\1\xff\0"
