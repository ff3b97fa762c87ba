"""Compressing by a plan, compiling for targets, and verifying bundles."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeRecipe
from roofline import RooflineTimer

from millifit.compress.evaluate import outputs
from millifit.errors import BundleError, CompileError, UnknownTarget, UsageError
from millifit.pipeline import compile_model, compress, fit, verify
from millifit.targets.catalog import add_target, find_target
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.manifest import read_manifest


@pytest.fixture
def here(_home: None) -> str:
    """A target that runs on this machine, and of which plans do not depend on its dot product."""
    local = find_target("local")
    add_target(dataclasses.replace(local, name="here", dot_product="none", source="a test"))
    return "here"


@pytest.fixture(scope="module")
def compiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network compiled for this machine, for reading only."""
    out = tmp_path_factory.mktemp("compiled")
    compile_model(str(model), targets=["local"], out=out)
    return out / "local"


def test_plan_gives_the_network_of_the_run(
    here: str, make_recipe: MakeRecipe, model: Path, data: Path, tmp_path: Path
) -> None:
    """compress with a run's plan.json makes the network that the run compiled and validated."""
    result = fit(make_recipe(tmp_path, target=here), timer=RooflineTimer())
    out = tmp_path / "again" / "small.onnx"
    found = compress(str(model), tmp_path / "run" / "plan.json", data=str(data), out=out)
    assert found["accuracy"] == pytest.approx(result["compressed"]["accuracy"], abs=0.006)
    assert found["size_bytes"] == out.stat().st_size
    assert [(r["layer"], r["precision"]) for r in found["plan"]] == [
        (r["layer"], r["precision"]) for r in result["plan"]
    ]
    with np.load(data) as arrays:
        x = arrays["x"][:100]
    ours, theirs = (
        outputs(simplify(read_network(file)), x)
        for file in (out, tmp_path / "run" / "compressed.onnx")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_plan_without_int8_changes_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    """A plan of fp32 throughout gives the network itself."""
    layers = [layer.name for layer in simplify(read_network(model)).layers]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"precisions": dict.fromkeys(layers, "fp32"), "widths": {}}))
    found = compress(str(model), plan, data=str(data), out=tmp_path / "out.onnx")
    assert found["calibration"] is None
    with np.load(data) as arrays:
        x = arrays["x"][:50]
    np.testing.assert_array_equal(
        outputs(simplify(read_network(tmp_path / "out.onnx")), x),
        outputs(simplify(read_network(model)), x),
    )


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"precisions": {"other": "int8"}, "widths": {}}, "has no layer 'other'"),
        ({"precisions": {}, "widths": {"other": 8}}, "has no channel group 'other'"),
        ({"precisions": {"node_conv2d": "int3"}, "widths": {}}, "unknown precision 'int3'"),
        ({"widths": {}}, "is no plan"),
        ([], "is no plan"),
    ],
)
def test_plan_that_does_not_fit_is_refused(
    model: Path, data: Path, tmp_path: Path, plan: Any, said: str
) -> None:
    """A plan of another network, or none at all, is wrong use; nothing is written."""
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=said):
        compress(str(model), tmp_path / "plan.json", data=str(data), out=tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_compiled_bundle_is_certified(compiled: Path, model: Path, data: Path) -> None:
    """verify gives latency, accuracy and the agreement with ONNX Runtime on the same model."""
    found = verify(compiled, data=str(data), model=str(model), timer=RooflineTimer())
    assert found["files"] == "unchanged"
    assert (found["network"], found["target"]) == ("tiny", "local")
    assert found["golden_error"] == 0
    assert found["accuracy"] >= 0.8
    assert found["latency_s"]["n"] == 8
    assert found["latency_s"]["low"] <= found["latency_s"]["median"] <= found["latency_s"]["high"]
    assert found["agreement"]["top1_equal"] == 1
    assert found["agreement"]["largest_error"] <= 1e-4
    without_data = verify(compiled, timer=RooflineTimer())
    assert "accuracy" not in without_data
    assert "agreement" not in without_data


def test_bundle_of_a_run_is_certified(finished: Path, data: Path) -> None:
    """The bundle of a run has the accuracy, and the fake device's latency, of its result."""
    run = finished / "run"
    result = json.loads((run / "result.json").read_text())
    found = verify(
        run / "bundle", data=str(data), model=str(run / "compressed.onnx"), timer=RooflineTimer()
    )
    assert found["accuracy"] == result["compressed"]["accuracy"]
    assert found["latency_s"]["median"] == pytest.approx(
        result["compressed"]["latency_s"]["median"]
    )
    assert found["agreement"]["top1_equal"] >= 0.995
    assert found["agreement"]["within_two_steps"] >= 0.99


@pytest.mark.parametrize("name", ["library.so", "weights.bin", "golden.npz", "manifest.json"])
def test_tampered_bundle_is_not_certified(compiled: Path, tmp_path: Path, name: str) -> None:
    """One changed byte in any file, and verify refuses before anything is run."""
    file = Path(shutil.copytree(compiled, tmp_path / "copy")) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=name.removesuffix(".json")):
        verify(tmp_path / "copy", timer=RooflineTimer())


def test_bundle_that_computes_something_else_is_not_certified(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A golden output that is not given on this machine is a BundleError with the error."""
    real = load_bundle(compiled)

    class Other:
        def run(self, x: Any) -> tuple[Any, ...]:
            return tuple(output + 0.1 for output in real.run(x))

    monkeypatch.setattr("millifit.pipeline.deploy.load_bundle", lambda _path: Other())
    with pytest.raises(BundleError, match=r"does not give its golden output .* Compile it again"):
        verify(compiled, timer=RooflineTimer())


def test_compile_replaces_and_names_targets(here: str, model: Path, tmp_path: Path) -> None:
    """A bundle for every target named, each once, in a folder of its name; made again each time."""
    found = compile_model(str(model), targets=["local", here, "local"], out=tmp_path)
    assert [bundle["target"] for bundle in found["bundles"]] == ["local", here]
    assert {path.name for path in tmp_path.iterdir()} == {"local", here}
    for bundle in found["bundles"]:
        path = Path(bundle["bundle"])
        assert read_manifest(path).target.name == bundle["target"]
        assert bundle["without_rule"] == []
        assert bundle["size_bytes"] < sum(file.stat().st_size for file in path.iterdir())
    outputs_of = [load_bundle(tmp_path / name) for name in ("local", here)]
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    first, second = (loaded.run(x)[0] for loaded in outputs_of)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_unknown_target_is_refused_before_anything_is_compiled(model: Path, tmp_path: Path) -> None:
    """One name that is no target, and nothing is written for the others either."""
    with pytest.raises(UnknownTarget, match="no target 'rpi44'"):
        compile_model(str(model), targets=["local", "rpi44"], out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_cross_compiler_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a linker for another architecture nothing is written, and its package is named."""
    monkeypatch.setattr("platform.machine", lambda: "vax")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(CompileError, match="needs aarch64-linux-gnu-g"):
        compile_model(str(model), targets=["rpi4"], out=tmp_path)
    assert list(tmp_path.iterdir()) == []
