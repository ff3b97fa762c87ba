"""Verifying bundles: the certificate, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from roofline import RooflineTimer

from millifit.errors import BundleError
from millifit.pipeline import compile_model, verify
from millifit.pipeline.reach import device_access
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.portfolio import write_portfolio
from millifit.targets.signature import sign
from tests.signing import keys


@pytest.fixture(scope="module")
def compiled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network compiled for this machine, for reading only."""
    out = tmp_path_factory.mktemp("compiled")
    compile_model(str(model), targets=["local"], out=out)
    return out / "local"


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

    monkeypatch.setattr("millifit.pipeline.verifying.load_bundle", lambda _path: Other())
    with pytest.raises(BundleError, match=r"does not give its golden output .* Compile it again"):
        verify(compiled, timer=RooflineTimer())


def test_portfolio_is_certified_under_a_key(compiled: Path, tmp_path: Path) -> None:
    """The variant for this machine is checked once it is signed; on a board one has to be named."""
    key, public = keys(tmp_path)
    whole = tmp_path / "all"
    write_portfolio(whole, {"here": compiled})
    with pytest.raises(BundleError, match="is not signed"):
        verify(whole, public_key=public, timer=RooflineTimer())
    sign(whole, key)
    found = verify(whole, public_key=public, timer=RooflineTimer())
    assert (found["bundle"], found["signature"]) == (f"{whole}/variants/here", "valid")
    assert verify(compiled, timer=RooflineTimer())["signature"] is None
    board = device_access("127.0.0.1:9391", None, None)
    with pytest.raises(BundleError, match=r"verify one of its variants \(here\), e\.g\. .*/here'"):
        verify(whole, device=board)
