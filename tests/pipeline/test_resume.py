"""Runs that are killed, started twice, or meet damaged files."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from roofline import RooflineTimer
from tiny import MakeRecipe

from millifit.compress.plan import Plan
from millifit.errors import MillifitError, RunFolderError
from millifit.pipeline import fit
from millifit.profiler.store import Store
from millifit.recipe import Recipe, write_recipe
from millifit.report import parse_result
from millifit.search.trial import plan_key
from millifit.targets.loaded_bundle import load_bundle

HERE = Path(__file__).parent
# What may differ between two runs of one recipe: how long they took, and the machine's load.
_INCIDENTAL = ("stages", "environment")
KILLED = (
    "identity.json", "baseline", "Measuring kernels:3", "time baseline:4", "calibrate:2",
    "sensitivity:3", "network.onnx", "time trial and baseline:4", "trials.jsonl",
    "time all in turn:5", "finals.jsonl", "bundle", "report.html", "result.json",
)  # fmt: skip


def run(recipes: Sequence[Recipe], *events: str) -> tuple[str, list[str]]:
    """Run recipes in processes of their own, see `run_fit`: what they say, and how each ended."""
    files = [str(write_recipe(recipe, Path(f"{recipe.run}.yaml"))) for recipe in recipes]
    done = subprocess.run(
        [sys.executable, str(HERE / "run_fit.py"), ",".join(files), *events],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    return said, [line for line in said.splitlines() if line.startswith("ended ")]


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one recipe must agree on, as JSON has it."""
    kept = {key: value for key, value in result.items() if key not in _INCIDENTAL}
    loaded: dict[str, Any] = json.loads(json.dumps(kept))
    return loaded


def left_over(folder: Path) -> list[str]:
    """Temporary files and folders of writes that did not come to an end."""
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


def test_killed_run_goes_on_to_the_same_end(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    """Killed in every stage, one after the other, a run ends as if it had never been killed.

    What was found before a kill is not found again: the last process only does what is left.
    """
    said, ended = run([make_recipe(tmp_path)], *KILLED, "-")
    assert ended == [*(f"ended {event} -9" for event in KILLED), "ended - 0"], said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    parse_result(result)
    uninterrupted = json.loads((finished / "run" / "result.json").read_text())
    assert result["plan"] == uninterrupted["plan"]
    assert outcome(result) == outcome(uninterrupted)
    parts = re.split(r"ended (.*) -?\d+\n", said)
    by_event = dict(zip(parts[1::2], parts[0::2], strict=False))
    assert "stage time baseline" in by_event["time baseline:4"]
    assert "stage time baseline" not in by_event["sensitivity:3"]
    assert "stage time trial and baseline" in by_event["trials.jsonl"]
    for title in ("Measuring kernels", "calibrate", "time baseline", "time trial", "time all"):
        assert f"stage {title}" not in by_event["-"]


def test_cut_off_record_is_tried_again(
    copied: Path, finished: Path, make_recipe: MakeRecipe
) -> None:
    """A last line of trials.jsonl that is not whole is left out, and its trial made again."""
    folder = copied / "run"
    trials = folder / "trials.jsonl"
    trials.write_bytes(trials.read_bytes()[:-20])
    (folder / "finals.jsonl").unlink()
    (folder / "result.json").unlink()
    result = fit(make_recipe(copied), timer=RooflineTimer())
    uninterrupted = json.loads((finished / "run" / "result.json").read_text())
    assert outcome(result) == outcome(uninterrupted)
    assert trials.read_bytes() == (finished / "run" / "trials.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["result.json", "sensitivity.json", "baseline.onnx"])
def test_damaged_file_is_named_and_made_again(
    copied: Path, make_recipe: MakeRecipe, name: str
) -> None:
    """A file that was damaged is named; once it is removed the run ends as it did."""
    folder, recipe = copied / "run", make_recipe(copied)
    before = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text("{")
    if name != "result.json":
        (folder / "result.json").unlink()
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    with pytest.raises(MillifitError, match=re.escape(name)):
        fit(recipe, timer=RooflineTimer())
    (folder / name).unlink()
    assert outcome(fit(recipe, timer=RooflineTimer())) == outcome(before)


def test_damaged_bundles_are_compiled_again(copied: Path, make_recipe: MakeRecipe) -> None:
    """Bundles of trials are checked before they are used again; a damaged one is replaced."""
    folder = copied / "run"
    before = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    (folder / "finals.jsonl").unlink()
    (folder / "trials.jsonl").unlink()
    bundles = [folder / "baseline", *folder.glob("trials/*/bundle")]
    for bundle in bundles:
        (bundle / "library.so").write_bytes(b"no library")
    result = fit(make_recipe(copied), timer=RooflineTimer())
    assert result["plan"] == before["plan"]
    chosen = plan_key(Plan.from_dict(json.loads((folder / "plan.json").read_text())))
    for bundle in (folder / "baseline", folder / "bundle", folder / "trials" / chosen / "bundle"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": "50%"}, "budget"),
        ({"max_drop": None, "seed": 1}, "max_drop, seed"),
        ({"threads": 2}, "threads"),
        ({"data": "tiny:validation"}, "data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_recipe_is_refused(
    finished: Path, make_recipe: MakeRecipe, change: dict[str, Any], named: str
) -> None:
    """A run folder is not used for a recipe that would find something else; which key is said."""
    before = sorted((path, path.stat().st_mtime_ns) for path in (finished / "run").iterdir())
    with pytest.raises(RunFolderError, match=rf"different: {named}\)"):
        fit(make_recipe(finished, **change), timer=RooflineTimer())
    assert sorted((p, p.stat().st_mtime_ns) for p in (finished / "run").iterdir()) == before


def test_changed_model_file_is_another_recipe(
    copied: Path, make_recipe: MakeRecipe, model: Path, tmp_path: Path
) -> None:
    """The content of the model file counts, not only its name."""
    mine = tmp_path / "tiny.onnx"
    shutil.copy(model, mine)
    recipe = make_recipe(tmp_path, model=str(mine), budget="100%")
    fit(recipe, timer=RooflineTimer())
    changed = onnx.load(mine)
    changed.doc_string = "trained longer"
    onnx.save(changed, mine)
    with pytest.raises(RunFolderError, match=r"different: model_sha256\)"):
        fit(recipe, timer=RooflineTimer())


def test_what_may_change_between_parts_of_a_run(
    copied: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """A run goes on from another place, with more trials or another store."""
    (copied / "run").rename(tmp_path / "moved")
    recipe = make_recipe(copied, run=str(tmp_path / "moved"), trials=9, store=str(tmp_path / "s"))
    assert fit(recipe, timer=RooflineTimer())["met"]


def test_folder_in_use_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """While another process works in the folder a second run ends at once, and harms nothing."""
    recipe = make_recipe(tmp_path)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from millifit.pipeline.run_folder import open_run\n"
        "with open_run(Path(sys.argv[1]), {'held': True}):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, recipe.run], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match=r"is in use by another run\. Wait"):
        fit(recipe, timer=RooflineTimer())
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    holder.communicate("")
    assert holder.returncode == 0


def test_two_runs_share_a_store(make_recipe: MakeRecipe, finished: Path, tmp_path: Path) -> None:
    """Two runs at once that measure into one store both end well, and no kernel is there twice."""
    store = str(tmp_path / "store.sqlite")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    said, ended = run([make_recipe(folder, store=store) for folder in folders], "-")
    assert ended == ["ended - 0", "ended - 0"], said
    uninterrupted = json.loads((finished / "run" / "result.json").read_text())
    for folder in folders:
        result = json.loads((folder / "run" / "result.json").read_text())
        assert outcome(result) == outcome(uninterrupted)
    kernels = [each.kernel for each in Store(Path(store)).measurements()]
    assert len(kernels) == len(set(kernels)) == Store(finished / "store.sqlite").count()


def test_full_disk_ends_with_a_message(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Files that cannot grow end a run with 1 and a remedy; with space again it goes on.

    The sizes are too small for the first file, for the network, and for a library.
    """
    limits = ("limit:0", "limit:20000", "limit:200000")
    said, ended = run([make_recipe(tmp_path)], *limits, "-")
    assert ended == [*(f"ended {limit} 1" for limit in limits), "ended - 0"], said
    messages = [line for line in said.splitlines() if line.startswith("error ")]
    assert len(messages) == 3
    for message, name in zip(messages, ("identity.json", "baseline.onnx", "baseline"), strict=True):
        assert re.search(rf"cannot write .*{name}'.* Free (some )?space", message), message
    assert left_over(tmp_path / "run") == []
    assert json.loads((tmp_path / "run" / "result.json").read_text())["met"]


def test_full_disk_at_the_end_leaves_no_result(copied: Path, make_recipe: MakeRecipe) -> None:
    """Where there is no space for the report there is no result either; it is made later."""
    folder, recipe = copied / "run", make_recipe(copied)
    before = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    (folder / "report.html").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(RunFolderError, match=r"report\.html': File too large"):
            fit(recipe, timer=RooflineTimer())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (folder / "result.json").exists()
    assert not (folder / "report.html").exists()
    assert left_over(folder) == []
    assert outcome(fit(recipe, timer=RooflineTimer())) == outcome(before)
