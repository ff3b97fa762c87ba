"""The runner in C++ on TVM's own CUDA runtime, over an emulated driver."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from native_runner import built
from onnx import helper
from onnx_models import answer, onnx_model, random

SCRIPT = Path(__file__).with_name("runner_on_emulated_device.py")
MODEL = onnx_model(
    [
        helper.make_node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("Conv", ["r", "v"], ["d"], "d"),
        helper.make_node("Relu", ["d"], ["s"], "s"),
        helper.make_node("Conv", ["s", "v"], ["y"], "e"),
    ],
    {"w": random(0, 8, 4, 3, 3), "v": random(1, 8, 8, 1, 1)},
)
X = random(1, 1, 4, 8, 8)


@pytest.fixture(scope="session")
def program() -> Path:
    """millifit-run."""
    return built()


def on_emulated_gpu(
    folder: Path, program: Path, arch: str, *options: object
) -> subprocess.CompletedProcess[str]:
    """Run the model's bundle on an emulated GPU."""
    onnx.save(MODEL, folder / "m.onnx")
    np.save(folder / "x.npy", X)
    np.save(folder / "golden.npy", answer(MODEL, X)[0])
    files = [str(folder / name) for name in ("m.onnx", "x.npy", "golden.npy")]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *files, arch, str(program), *map(str, options)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_bundle_runs_through_tvms_cuda_runtime(program: Path, tmp_path: Path) -> None:
    """Weights go to the device, kernels are launched, and outputs come back as they should be."""
    files = ("--json", tmp_path / "r.json", "--output", tmp_path / "y.npy")
    done = on_emulated_gpu(tmp_path, program, "sm_80", "--repeat", 2, *files)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["device"].endswith(" through cuda")
    assert found["golden_error"] <= found["golden_tolerance"] == 1e-4
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), answer(MODEL, X)[0], rtol=1e-4, atol=1e-5
    )


def test_code_of_another_gpu_is_refused(program: Path, tmp_path: Path) -> None:
    """Machine code for a newer GPU than the one at hand is not loaded."""
    done = on_emulated_gpu(tmp_path, program, "sm_90", "--verify")
    assert done.returncode == 1
    assert "cannot run here: it is for sm_90" in done.stderr
    assert "this GPU is sm_" in done.stderr
