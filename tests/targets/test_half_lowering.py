"""What Cast pairs, 16-bit weights and weight-only layers become, and that the values are right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from kernels import TARGETS, x86
from onnx import TensorProto, helper
from programs import Compiled, lowered

from millifit.compress.evaluate import outputs
from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.loaded_bundle import runs_here
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.target import Precision, Target

BF16 = x86("avx512_vnni", features=("+avx512vnni", "+avx512bf16"))
AVX2 = x86("avx2")
RUN = [*TARGETS, *([BF16] if runs_here(BF16) is None else [])]


def network(*, shape: tuple[int, ...] = (1, 8, 6, 6)) -> Network:
    """``x -> c1 + Relu -> c2 -> Add with x1 + Relu -> GlobalAveragePool -> Flatten -> fc``."""
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.standard_normal((16, 8, 3, 3)).astype(np.float32) / 8,
        "w2": rng.standard_normal((16, 16, 1, 1)).astype(np.float32) / 4,
        "w3": rng.standard_normal((5, 16)).astype(np.float32) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "c1", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "r1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "c2"),
        helper.make_node("Add", ["c", "b"], ["d"], "add"),
        helper.make_node("Relu", ["d"], ["e"], "r2"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "pool"),
        helper.make_node("Flatten", ["f"], ["g"], "flat"),
        helper.make_node("Gemm", ["g", "w3"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return simplify(from_onnx(model, name="halves"))


def rounded(precision: Precision, layers: tuple[str, ...] = ("c1", "c2", "fc")) -> Network:
    """The network with some layers in a precision that needs no ranges, as its file would be."""
    made = quantize(network(), dict.fromkeys(layers, precision), {})
    return simplify(from_onnx(to_onnx(made), name="halves"))


def facts(kernel: Kernel) -> tuple[str, str, tuple[str, ...], str]:
    return kernel.op, kernel.precision, tuple(t.dtype for t in kernel.inputs), kernel.output.dtype


def kernels(net: Network, target: Target) -> list[tuple[str, str, tuple[str, ...], str]]:
    """Operator, precision, element types read and written, of all that computes."""
    moves = ("to_channels_last", "to_channels_first", "reshape")
    return [facts(c.kernel) for c in lower(net, target).calls if c.kernel.op not in moves]


def test_bf16_layers_pass_16_bits_on() -> None:
    """The rounding is fused into what writes; the residual is read in 16 bits, the sum is real."""
    half = "bfloat16"
    assert kernels(rounded("bf16"), BF16) == [
        ("cast", "fp32", ("float32",), half),
        ("conv2d", "bf16", (half,), half),
        ("conv2d", "bf16", (half, half), "float32"),
        ("global_avg_pool", "fp32", ("float32",), "float32"),
        ("cast", "fp32", ("float32",), half),
        ("dense", "bf16", (half,), "float32"),
    ]


def test_without_instructions_the_same_values_are_computed_in_fp32() -> None:
    """A target without bf16 rounds where the network says so, and computes in float32."""
    half = "bfloat16"
    assert kernels(rounded("bf16", ("c2",)), AVX2) == [
        ("conv2d", "fp32", ("float32",), half),
        ("cast", "fp32", (half,), "float32"),
        ("conv2d", "fp32", ("float32", "float32"), "float32"),
        ("global_avg_pool", "fp32", ("float32",), "float32"),
        ("dense", "fp32", ("float32",), "float32"),
    ]


def test_fp16_layers_where_the_target_has_its_arithmetic() -> None:
    """The same network in fp16 on an Arm core with fp16 vectors."""
    target = x86("avx2", triple="aarch64-linux-gnu", features=("+fullfp16",), dot_product="none")
    made = kernels(rounded("fp16"), target)
    assert ("conv2d", "fp16", ("float16",), "float16") in made
    assert ("conv2d", "fp16", ("float16", "float16"), "float32") in made


@pytest.mark.parametrize(("precision", "kind"), [("w8", "int8"), ("w4", "int4")])
def test_weight_only_layers(precision: Precision, kind: str) -> None:
    """Integer weights behind a DequantizeLinear stay integers though the activation is real."""
    program = lower(rounded(precision, ("fc",)), AVX2)
    (call,) = (c for c in program.calls if c.kernel.op == "dense")
    assert facts(call.kernel) == ("dense", precision, ("float32",), "float32")
    assert call.constants["weight"].dtype.name == kind


def test_many_rows_are_computed_in_fp32() -> None:
    """With many rows arithmetic decides, not memory: the weights are dequantized beforehand."""
    rng = np.random.default_rng(0)
    for rows, precision in ((4, "w8"), (5, "fp32")):
        constants = {
            "w.q": rng.integers(-127, 128, (6, 12)).astype(np.int8),
            "w.scale": np.full(6, 0.01, np.float32),
        }
        graph = helper.make_graph(
            [
                helper.make_node("DequantizeLinear", ["w.q", "w.scale"], ["w"], "dq", axis=0),
                helper.make_node("Gemm", ["x", "w"], ["y"], "fc", transB=1),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, 12))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (rows, 6))],
            [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        (call,) = lowered(model, AVX2).calls
        assert call.kernel.precision == precision


@pytest.mark.parametrize("target", RUN, ids=lambda t: "-".join((t.name, *t.features)))
@pytest.mark.parametrize("precision", ["fp16", "bf16", "w7a8", "w8", "w4"])
def test_networks_agree_with_onnx_runtime(precision: Precision, target: Target) -> None:
    """Whatever the target has, the values are those of the ONNX file.

    float32 sums in another order may round to the next number of 16 bits: 2^-11 or 2^-8 apart.
    """
    net = network()
    x = np.random.default_rng(1).standard_normal((20, 8, 6, 6)).astype(np.float32)
    ranges = calibrate(net, x, method="min_max") if precision == "w7a8" else {}
    made = quantize(net, quantizable(net, precision), ranges)
    stored = simplify(from_onnx(to_onnx(made), name="halves"))
    wanted = outputs(stored, x)
    found = Compiled(lower(stored, target), target).run_each(x)
    step = {"fp16": 2.0**-11, "bf16": 2.0**-8, "w7a8": 2 / 255}.get(precision, 1e-5)
    assert np.abs(found - wanted).max() <= step * np.abs(wanted).max()
