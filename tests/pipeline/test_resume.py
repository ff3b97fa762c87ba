"""Runs that are killed, started twice, or meet damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import MakeRecipe

from millifit.recipe import Recipe, write_recipe
from millifit.report import parse_result

HERE = Path(__file__).parent
# What may differ between two runs of one recipe: how long they took, and the machine's load.
_INCIDENTAL = ("stages", "environment")
KILLED = (
    "identity.json", "baseline", "Measuring kernels:3", "time baseline:4", "calibrate:2",
    "sensitivity:3", "network.onnx", "time trial and baseline:4", "trials.jsonl",
    "time all in turn:5", "bundle", "result.json",
)  # fmt: skip


def start(recipe: Recipe, *events: str) -> subprocess.Popen[str]:
    """Runs of a recipe, one process after the other; see `run_fit`."""
    file = write_recipe(recipe, Path(f"{recipe.run}.yaml"))
    return subprocess.Popen(
        [sys.executable, str(HERE / "run_fit.py"), str(file), *events],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one recipe must agree on, as JSON has it."""
    kept = {key: value for key, value in result.items() if key not in _INCIDENTAL}
    loaded: dict[str, Any] = json.loads(json.dumps(kept))
    return loaded


def test_killed_run_goes_on_to_the_same_end(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    """Killed in every stage, one after the other, a run still ends as if it had never been.

    Each time a part more is done: what was found before the kill is not found again.
    """
    recipe = make_recipe(tmp_path)
    said, _ = start(recipe, *KILLED, "-").communicate(timeout=300)
    ended = [line for line in said.splitlines() if line.startswith("ended ")]
    assert ended == [*(f"ended {event} -9" for event in KILLED), "ended - 0"], said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    parse_result(result)
    uninterrupted = json.loads((finished / "run" / "result.json").read_text())
    assert result["plan"] == uninterrupted["plan"]
    assert outcome(result) == outcome(uninterrupted)
