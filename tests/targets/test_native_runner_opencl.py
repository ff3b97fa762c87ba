"""The runner on an OpenCL device: weights and inputs on the device, outputs copied back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from native_runner import NativeRunner, built
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import lowered

from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.portfolio import Latency, write_portfolio
from millifit.targets.target import Target

MODEL = onnx_model(
    [
        helper.make_node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], "p"),
    ],
    {"w": random(0, 8, 4, 3, 3)},
)
X = random(1, 1, 4, 8, 8)


@pytest.fixture(scope="session")
def runner() -> NativeRunner:
    """The program as people get it."""
    return NativeRunner(command=(str(built()),))


@pytest.fixture(scope="module")
def bundle(opencl: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network for PoCL."""
    path = tmp_path_factory.mktemp("bundles") / "pocl"
    write_bundle(
        path, program=lowered(MODEL, opencl), target=opencl, versions="v", golden_input=X,
        details={},
    )  # fmt: skip
    return path


def test_bundle_runs_on_opencl(runner: NativeRunner, bundle: Path, tmp_path: Path) -> None:
    """The device is named, the golden output given, and the output that of ONNX Runtime."""
    np.save(tmp_path / "x.npy", -X)
    files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    runner.succeeds(bundle, "--verify", *files, "--json", tmp_path / "r.json")
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), answer(MODEL, -X)[0], rtol=1e-4, atol=1e-5
    )
    found = json.loads((tmp_path / "r.json").read_text())
    assert " through opencl" in found["device"]
    assert found["golden_error"] <= found["golden_tolerance"]


def test_runtime_beside_the_runner_is_found(
    runner: NativeRunner, bundle: Path, tmp_path: Path
) -> None:
    """As on a phone: the OpenCL runtime lies beside the program, and no variable names it."""
    program = tmp_path / "millifit-run"
    program.write_bytes(Path(runner.command[0]).read_bytes())
    program.chmod(0o755)
    library = Path(os.environ["MILLIFIT_OPENCL_LIBRARY"])
    (tmp_path / library.name).write_bytes(library.read_bytes())
    NativeRunner(command=(str(program),)).succeeds(bundle, "--verify", MILLIFIT_OPENCL_LIBRARY="")


def test_portfolio_takes_the_faster(runner: NativeRunner, bundle: Path, tmp_path: Path) -> None:
    """OpenCL on a processor comes last, unless latencies say otherwise; in Python as in C++."""
    here = find_target("local")
    write_bundle(
        tmp_path / "cpu", program=lowered(MODEL, here), target=here, versions="v", golden_input=X,
        details={},
    )  # fmt: skip
    whole = tmp_path / "all"
    bundles = {"cpu": tmp_path / "cpu", "gpu": bundle}
    write_portfolio(whole, bundles)
    assert runner.succeeds(whole, "--choose") == f"{whole}/variants/cpu\n"
    latencies = {
        name: Latency(median_s=seconds, low_s=seconds, high_s=seconds, kind="measured")
        for name, seconds in (("cpu", 2e-3), ("gpu", 1e-3))
    }
    write_portfolio(whole, bundles, latencies=latencies)
    assert runner.succeeds(whole, "--choose") == f"{whole}/variants/gpu\n"
    assert load_bundle(whole).manifest.target.name == "pocl-opencl"
    missing = str(tmp_path / "no.so")
    done = runner.run(whole, "--choose", MILLIFIT_OPENCL_LIBRARY=missing)
    assert done.stdout == f"{whole}/variants/cpu\n"
    assert "not gpu: the runtime for OpenCL cannot be opened" in done.stderr
