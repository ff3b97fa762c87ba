"""One run on this machine, timed for real: from an ONNX file to a certified bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from millifit.cli import app
from millifit.report import parse_result

SHAPE = (3, 16, 16)
CLASSES = 5


def network() -> onnx.ModelProto:
    """Two convolutions, of which the second takes nearly all of the time, and an Atan."""
    rng = np.random.default_rng(0)
    weights = {
        "a.w": rng.standard_normal((64, 3, 3, 3)) * 0.2,
        "b.w": rng.standard_normal((256, 64, 1, 1)) * 0.15,
        "fc.w": rng.standard_normal((CLASSES, 256)), "fc.b": rng.standard_normal(CLASSES) * 0.1,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "a.w"], ["a"], "a", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["ra"], "ra"),
        helper.make_node("Conv", ["ra", "b.w"], ["b"], "b"),
        helper.make_node("Relu", ["b"], ["rb"], "rb"),
        helper.make_node("GlobalAveragePool", ["rb"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["fc"], "fc", transB=1),
        helper.make_node("Atan", ["fc"], ["y"], "atan"),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *SHAPE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def labelled(model: onnx.ModelProto) -> dict[str, Any]:
    """Smooth noise, and what the network sees in it."""
    coarse = np.random.default_rng(1).standard_normal((80, 3, 4, 4)).astype(np.float32)
    x = np.kron(coarse, np.ones((1, 1, 4, 4), np.float32))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y = [int(session.run(None, {"x": sample[None]})[0].argmax()) for sample in x]
    return {"x": x, "y": np.array(y)}


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stderr


def test_fit_and_verify_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that int8 reaches is met, measured here, and the bundle's certificate says so."""
    monkeypatch.chdir(tmp_path)
    model = network()
    onnx.save(model, "small.onnx")
    np.savez("val.npz", **labelled(model))
    said = run(
        "fit", "small.onnx", "--data", "val.npz", "--budget", "80%", "--max-drop", "none",
        "--trials", "3", "--run", "run", "--store", "store.sqlite", "--json", "out.json",
    )  # fmt: skip
    assert "Traceback" not in said
    plain = json.loads(Path("run/result.json").read_text())
    assert plain == json.loads(Path("out.json").read_text())
    result = parse_result(plain)
    assert result.met
    assert plain["ratio"]["high"] <= 0.8
    assert {row["layer"]: row["precision"] for row in plain["plan"]}["b"] in ("int8", "w7a8")
    assert [(each.node, each.op) for each in result.without_rule] == [("atan", "Atan")]
    assert "'Atan' of node 'atan' has no schedule rule" in said
    for subject in (result.baseline, result.compressed):
        assert 1e-6 < subject.latency_s.low <= subject.latency_s.high < 0.1
        assert subject.latency_s.n is not None
        assert subject.latency_s.n >= 12
        assert subject.peak_memory_bytes > 10_000
    assert (result.reference.onnxruntime_fp32_s or 0.0) > 1e-6
    assert plain["agreement"]["top1_equal"] >= 0.995
    assert {kernel.origin for kernel in result.kernels.compressed} == {"measured"}
    run(
        "verify", "run/bundle", "--data", "val.npz", "--model", "run/compressed.onnx",
        "--json", "certificate.json",
    )  # fmt: skip
    certificate = json.loads(Path("certificate.json").read_text())
    assert certificate["files"] == "unchanged"
    assert certificate["golden_error"] <= 1e-4
    assert certificate["accuracy"] == result.compressed.accuracy
    assert certificate["agreement"]["within_two_steps"] >= 0.99
    assert certificate["latency_s"]["median"] < 0.1
