"""Whole networks on an OpenCL device: right, timed by its events, and kept in a profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper

from millifit.compress.quantize.quantizer import quantize
from millifit.errors import BundleError
from millifit.profiler.store import Store
from millifit.profiler.sweep import measure
from millifit.targets.bundle import write_bundle
from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import load_bundle, runs_here
from millifit.targets.program import Program
from millifit.targets.runner import machine_lock
from millifit.targets.runner.first_run import measure_first_run
from millifit.targets.runner.local_runner import LocalRunner
from millifit.targets.runner.network_timing import Contender, NetworkTimingPolicy
from millifit.targets.target import Target
from millifit.targets.timing import Samples, TimingPolicy
from tests.targets.onnx_models import answer, onnx_model, random
from tests.targets.programs import lowered

CONSTANTS = {
    "first": random(0, 16, 3, 3, 3) / 5,
    "first_bias": random(1, 16),
    "depthwise": random(2, 16, 1, 3, 3) / 3,
    "point": random(3, 16, 16, 1, 1) / 4,
    "dense": random(4, 10, 16),
    "dense_bias": random(5, 10),
}
X = random(6, 1, 3, 16, 16)
QUICK = NetworkTimingPolicy(turn_s=0.002, warmup_s=0.0, min_rounds=2, max_rounds=2)
BRIEF = TimingPolicy(block_s=1e-4, min_samples=3, max_samples=3, limit_s=0.1)


def network() -> onnx.ModelProto:
    """Convolution, pooling, a residual around depthwise and pointwise, a head with softmax."""
    nodes = [
        helper.make_node("Conv", ["x", "first", "first_bias"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MaxPool", ["b"], ["c"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "depthwise"], ["d"], "depthwise", pads=[1] * 4, group=16),
        helper.make_node("Conv", ["d", "point"], ["e"], "point"),
        helper.make_node("Add", ["e", "c"], ["f"], "residual"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["h"], "flatten"),
        helper.make_node("Gemm", ["h", "dense", "dense_bias"], ["i"], "dense", transB=1),
        helper.make_node("Softmax", ["i"], ["y"], "softmax"),
    ]
    return onnx_model(nodes, CONSTANTS, shape=(1, 3, 16, 16))


def halved() -> onnx.ModelProto:
    """The same in half precision, as its file would be."""
    read = simplify(from_onnx(network(), name="small"))
    layers = ("first", "depthwise", "point", "dense")
    return to_onnx(quantize(read, dict.fromkeys(layers, "fp16"), {}))


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for a millifit that times something on the same machine."""
    monkeypatch.setattr(machine_lock, "lock_path", lambda: tmp_path / "lock")


@pytest.fixture(scope="module")
def program(opencl: Target) -> Program:
    return lowered(network(), opencl)


@pytest.fixture(scope="module")
def written(program: Program, opencl: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle, for all that only read it."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    write(path, program, opencl)
    return path


def write(path: Path, program: Program, target: Target) -> None:
    write_bundle(
        path, program=program, target=target, versions="v1", golden_input=X, details={"plan": {}}
    )


def test_bundle_computes_what_onnx_does(written: Path) -> None:
    """Bundle written, checked, loaded: within 1e-4 of ONNX Runtime, bound or not."""
    loaded = load_bundle(written)
    assert loaded.manifest.target.name == "pocl-opencl"
    for x in (X, -X):
        (expected,) = answer(network(), x)
        np.testing.assert_allclose(loaded.run(x)[0], expected, rtol=1e-4, atol=1e-5)
        loaded.set_input(x)
        np.testing.assert_array_equal(loaded.invoke().numpy(), loaded.run(x)[0])
    with np.load(written / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["output0"], loaded.run(X)[0])


def test_memory_of_the_device_is_counted_and_does_not_grow(written: Path) -> None:
    """Weights, arena, input and output; runs after the first take nothing more."""
    loaded = load_bundle(written)
    live_bytes = tvm.get_global_func("millifit.opencl.live_bytes")
    loaded.set_input(X)
    for _ in range(2):  # the second output is made while the first is still held
        loaded.invoke()
    before = live_bytes()
    for _ in range(20):
        loaded.invoke()
    assert live_bytes() == before
    planned = loaded.manifest.planned_memory_bytes
    device_bytes = loaded.device_bytes()
    assert device_bytes is not None
    assert planned <= device_bytes < planned + 3 * 4096 + before


def test_half_precision_computes_what_onnx_does(opencl: Target, tmp_path: Path) -> None:
    """Layers in fp16, on a device that has it in memory alone: within 2e-2 of ONNX Runtime."""
    model = halved()
    program = lowered(model, opencl)
    layers = [k for k in program.kernels if k.op in ("conv2d", "depthwise_conv2d", "dense")]
    assert {kernel.precision for kernel in layers} == {"fp16"}
    write(tmp_path / "half", program, opencl)
    (made,) = load_bundle(tmp_path / "half").run(X)
    np.testing.assert_allclose(made, answer(model, X)[0], rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(made, answer(network(), X)[0], rtol=2e-2, atol=1e-3)


def test_operators_without_a_rule_run_there_too(opencl: Target, tmp_path: Path) -> None:
    """What no schedule is written for is scheduled by TVM, on the same device."""
    model = onnx_model(
        [
            helper.make_node("Relu", ["x"], ["a"], "relu"),
            helper.make_node("CumSum", ["a", "axis"], ["b"], "sum"),
            helper.make_node("Neg", ["b"], ["y"], "neg"),
        ],
        {"axis": np.array(1, np.int64)},
    )
    program = lowered(model, opencl)
    assert [call.kernel.op for call in program.without_rule] == ["onnx"]
    x = random(7, 1, 4, 8, 8)
    write_bundle(
        tmp_path / "b", program=program, target=opencl, versions="v1", golden_input=x, details={}
    )
    (made,) = load_bundle(tmp_path / "b").run(x)
    np.testing.assert_allclose(made, answer(model, x)[0], rtol=1e-4, atol=1e-5)


def test_kernels_are_timed_by_events_into_a_profile(
    program: Program, opencl: Target, tmp_path: Path
) -> None:
    """Every kernel of the network is measured in a child process and found in the store again."""
    store = Store(tmp_path / "store.sqlite")
    with LocalRunner() as runner:
        found = measure(program.kernels, target=opencl, store=store, timer=runner, policy=BRIEF)
    assert set(found) == set(program.kernels)
    for kernel, measurement in found.items():
        assert isinstance(measurement.outcome, Samples), (kernel.op, measurement.outcome)
        assert 0 < measurement.outcome.median_s < 0.1
        assert measurement.outcome.energy_j is None
    kept = {m.kernel: m for m in store.measurements(opencl.key)}
    assert kept == found


def test_network_is_timed_with_what_it_copies_left_out(written: Path, tmp_path: Path) -> None:
    """A bundle for a GPU takes its turn among other contenders."""
    np.save(tmp_path / "x.npy", X)
    contender = Contender(kind="bundle", path=written, input_path=tmp_path / "x.npy")
    with LocalRunner() as runner:
        result = runner.time_networks({"it": contender}, policy=QUICK, on_round=lambda _: None)
    assert 0 < result["it"].samples.median_s < 0.5
    assert 10_000 < result["it"].peak_memory_bytes < 100_000  # of the device, not of the driver


def test_first_run_needs_the_runtime_alone(written: Path) -> None:
    """A fresh process that has no compiler loads and runs the bundle."""
    assert 0 < measure_first_run(written).start_up_s < 60


def test_machine_without_the_runtime_says_what_is_missing(
    written: Path, opencl: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not built: the bundle is refused, and the target does not run here."""
    monkeypatch.delenv("MILLIFIT_OPENCL_LIBRARY")
    assert runs_here(opencl) == "no opencl device is reachable here"
    with pytest.raises(BundleError, match="no opencl device is reachable here"):
        load_bundle(written)
