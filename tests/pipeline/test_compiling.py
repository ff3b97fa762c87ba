"""Compiling for targets: a bundle for each, or why there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from millifit.errors import CompileError, UnknownTarget
from millifit.pipeline import compile_model
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.manifest import read_manifest


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
