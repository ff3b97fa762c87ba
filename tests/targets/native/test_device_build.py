"""`millifit device build` says where the native parts are, and what it cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millifit.cli import app
from millifit.targets.target import Target


def test_both_parts_are_built_and_named(
    opencl: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime and the runner, as text and as JSON."""
    cache = Path(os.environ["MILLIFIT_OPENCL_LIBRARY"]).parents[3]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    done = CliRunner().invoke(app, ["device", "build", "--json", str(tmp_path / "built.json")])
    assert done.exit_code == 0, done.output
    built = json.loads((tmp_path / "built.json").read_text())
    assert built["opencl"] == os.environ["MILLIFIT_OPENCL_LIBRARY"]
    assert Path(built["runner"]).name == "millifit-run"
    assert os.access(built["runner"], os.X_OK)
    assert "millifit-run" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--android-ndk", "."], 1, "is no Android NDK"),
        (["--opencl-headers", "."], 2, "has no CL/cl.h"),
        (["--cross", "mips64-linux-gnu"], 1, "apt-get install g++-mips64-linux-gnu"),
    ],
)
def test_what_is_missing_is_one_line(
    options: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is no NDK or has no headers, and a compiler that is not installed."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["device", "build", *options])
    assert done.exit_code == code
    assert said in done.output.replace("\n", " ")
