"""Whole networks for CUDA, emulated: they give what ONNX Runtime gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from emulated_gpu import EmulatedProgram, cuda, generate
from onnx import helper, numpy_helper

from benchmarks import models
from millifit.compress.quantize.quantizer import quantizable, quantize
from millifit.compress.quantize.ranges import Range, calibrate
from millifit.targets.importer.onnx_file import from_onnx, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower
from millifit.targets.schedules.rules import schedule

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.0}


def network(name, precision, batch=1):
    """A network of the benchmarks in a precision, and inputs for it."""
    model = models.load(name, 0)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    plain = simplify(from_onnx(model, name=name, input_shape=(batch, *shape[1:])))
    x = models.samples(name, shape, max(batch, 2), 0)
    if precision == "fp32":
        return plain, x[:batch]
    ranges = calibrate(plain, x, method="min_max") if precision == "int8" else {}
    return quantize(plain, quantizable(plain, precision, depthwise=True), ranges), x[:batch]


def oracle(made, x, path):
    write_network(made, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {made.inputs[0]: x})[0]


@pytest.mark.parametrize(
    ("name", "precision", "arch", "batch"),
    [
        ("ResNet-8", "fp32", "sm_80", 1),
        ("ResNet-8", "int8", "sm_75", 1),
        ("ResNet-8", "fp16", "sm_90", 3),
        ("BERT-mini", "fp32", "sm_80", 1),
        ("MobileNetV2", "fp16", "sm_90", 1),
        ("MobileNetV2", "int8", "sm_80", 1),
    ],
)
def test_networks_match_onnx_runtime(tmp_path, name, precision, arch, batch):
    """Kernel by kernel; integers are the same integers."""
    made, x = network(name, precision, batch)
    (got,) = EmulatedProgram(lower(made, cuda(arch)), cuda(arch)).run(x)
    wanted = oracle(made, x, tmp_path / "network.onnx")
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=TOLERANCES[precision])


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet-50"])
def test_every_kernel_generates(name, precision):
    """No layer of the common networks is without code."""
    made, _ = network(name, "fp32")
    if precision != "fp32":
        ranges = dict.fromkeys(made.types, Range(low=-1.0, high=1.0))
        made = quantize(made, quantizable(made, precision, depthwise=True), ranges)
    target = cuda("sm_90")
    kernels = [k for k in lower(made, target).kernels if k.op != "reshape"]
    codes = {f"k{i}": schedule(kernel, target) for i, kernel in enumerate(kernels)}
    launches = generate(codes, target).launches
    assert all(launches[each] for each in codes)


def run_on_emulated_device(folder, model, x):
    """Three runs of a model by TVM's CUDA runtime: outputs, graphs launched, allocations."""
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "x.npy", x)
    script = Path(__file__).with_name("emulated_device.py")
    files = [folder / name for name in ("model.onnx", "x.npy", "y.npy")]
    done = subprocess.run(
        [sys.executable, script, *files, "sm_80"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    graphs, allocations = json.loads(done.stdout.splitlines()[-1])
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for one, got in zip(x, np.load(folder / "y.npy"), strict=True):
        (wanted,) = session.run(None, {session.get_inputs()[0].name: one})
        np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
    return graphs, allocations


def test_bundles_run_on_tvms_own_runtime(tmp_path):
    """Machine code aside, all of it: loading, memory on the device, workspaces, graphs."""
    model = models.load("ResNet-8", 0)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    x = models.samples("ResNet-8", shape, 3, 0)[:, None]
    graphs, allocations = run_on_emulated_device(tmp_path, model, x)
    assert graphs == 2  # the first run captures what the others launch
    assert allocations == 1  # the input; everything else is kept from run to run


def test_a_single_kernel_is_no_graph(tmp_path):
    """TVM's virtual machine cannot return from a graph of one kernel: there is none."""
    weight = numpy_helper.from_array(np.full((8, 1, 3, 3), 0.1, np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], name="pool"),
    ]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 1, 8, 8)), ("y", (1, 8, 1, 1)))
    )
    graph = helper.make_graph(nodes, "tiny", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    samples = np.random.default_rng(0).standard_normal((3, 1, 1, 8, 8)).astype(np.float32)
    graphs, _ = run_on_emulated_device(tmp_path, model, samples)
    assert graphs == 0
