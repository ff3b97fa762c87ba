"""Bad input ends with one message that says what is wrong and what to do, and leaves nothing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_models import CLASSES, SAMPLE, ToldRunner, classifier, disk, limit_files, random

import millifit.pipeline  # noqa: F401 - all that the verbs load, before files are limited
from millifit.cli import main
from millifit.profiler.store import Store

SAMPLES = 40
FINISHED = ("result.json", "report.html", "plan.json", "compressed.onnx", "bundle")
BEFORE_THE_MODEL = {".lock", "identity.json", "recipe.yaml"}

Said = Callable[..., str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a folder of its own, with a sound model, sound data and an ordinary file."""
    monkeypatch.chdir(tmp_path)
    onnx.save(classifier(), "net.onnx")
    save()
    Path("file").write_text("an ordinary file\n")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs the command line in this process: what it says when it ends with the expected code."""

    def run(*arguments: str, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["millifit", *arguments])
        ended: object = 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            ended = end.code
        message = capsys.readouterr().err
        assert ended == code, message
        assert "Traceback" not in message
        assert "mistake in millifit" not in message
        return message

    return run


@pytest.fixture
def refused(said: Said) -> Said:
    """Runs a verb that must fail and leave nothing half-written behind: its message."""

    def run(*arguments: str, code: int = 1) -> str:
        message = said(*arguments, code=code)
        assert code != 0
        assert message.count("error: ") == 1 or code == 2
        for folder in (Path(), Path("run")):
            assert [name for name in FINISHED if (folder / name).exists()] == []
        assert half_written() == []
        return message[message.rfind("error: ") :]

    return run


@pytest.fixture
def fit_refused(refused: Said) -> Said:
    """`millifit fit MODEL --data DATA --run run ...`, which must fail: its message."""

    def run(model: str = "net.onnx", *more: str, data: str = "data.npz", code: int = 1) -> str:
        return refused(*fit_line(model, *more, data=data), code=code)

    return run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has networks and kernels timed by `ToldRunner` with these options, at once."""

    def use(**options: Any) -> None:
        runner = partial(ToldRunner, **options)
        monkeypatch.setattr(sys.modules["millifit.pipeline.reach"], "LocalRunner", runner)

    use()
    return use


@pytest.fixture
def finished(said: Said, told: Callable[..., None]) -> Path:
    """The folder of a run that went well, beside the one where runs fail."""
    said(*fit_line("net.onnx", "--budget", "90%", "--max-drop", "none", run="good"), code=0)
    return Path("good")


def fit_line(model: str, *more: str, data: str = "data.npz", run: str = "run") -> tuple[str, ...]:
    return ("fit", model, "--data", data, "--run", run, "--store", "store.sqlite", *more)


def save(name: str = "data.npz", **arrays: Any) -> None:
    """Write samples and labels, those given in place of sound ones; None leaves an array out."""
    labels = np.random.default_rng(1).integers(0, CLASSES, SAMPLES)
    every = {"x": random(0, SAMPLES, *SAMPLE), "y": labels} | arrays
    np.savez(name, **{key: value for key, value in every.items() if value is not None})


def half_written() -> list[str]:
    """Temporary files and folders that a write leaves when it is not cleaned up after."""
    return [str(path) for path in Path().rglob(".*") if path.name != ".lock"]


def found_in_run() -> set[str]:
    return {path.name for path in Path("run").iterdir()}


def truncated(path: str, share: float = 0.5) -> bytes:
    content = Path(path).read_bytes()
    return content[: int(len(content) * share)]


# Model files


@pytest.mark.parametrize(
    ("content", "cause", "remedy"),
    [
        pytest.param(None, "no such file", "Give the path of an ONNX model", id="missing"),
        pytest.param(lambda: b"", "is empty", "Export or copy the model again", id="empty"),
        pytest.param(
            lambda: b"this is no model\n" * 9, "is not an ONNX model", "Export or copy", id="text"
        ),
        pytest.param(
            lambda: truncated("data.npz", 1), "zip archive", "torch.onnx.export", id="checkpoint"
        ),
        pytest.param(lambda: truncated("net.onnx"), "cut short", "Export or copy", id="truncated"),
        pytest.param(
            lambda: truncated("net.onnx", 0.98), "cut short", "copy it again", id="end-missing"
        ),
        pytest.param(
            lambda: bytes(60) + truncated("net.onnx", 1)[60:], "damaged", "copy it again",
            id="overwritten",
        ),
    ],
)  # fmt: skip
def test_file_that_is_no_model(
    fit_refused: Said, content: Callable[[], bytes] | None, cause: str, remedy: str
) -> None:
    """A missing, empty, foreign or damaged model file is named, and nothing is kept of it."""
    if content is not None:
        Path("bad.onnx").write_bytes(content())
    message = fit_refused("bad.onnx")
    assert message.startswith("error: bad.onnx")
    assert cause in message
    assert remedy in message
    assert found_in_run() == BEFORE_THE_MODEL


def test_neither_file_nor_function(fit_refused: Said) -> None:
    """A model that is neither a path nor module:function is wrong use."""
    message = fit_refused("resnet", code=2)
    assert "'resnet' is neither a file nor module:function" in message
    assert "Give the path of an ONNX model" in message


def test_external_data_missing(fit_refused: Said) -> None:
    """The tensor, and the file that it should be in, are named."""
    onnx.save(
        classifier(), "ext.onnx", save_as_external_data=True, size_threshold=0, location="ext.data"
    )
    Path("ext.data").unlink()
    message = fit_refused("ext.onnx")
    assert "ext.onnx: tensor 'conv.w' is stored in 'ext.data', which is missing" in message
    assert "Copy that file beside the model" in message
    assert found_in_run() == BEFORE_THE_MODEL


@pytest.mark.parametrize("operator", ["Frobnicate", "Det"])
def test_unsupported_operator(fit_refused: Said, operator: str) -> None:
    """An operator that ONNX, or the code generator, does not know is named with its node."""
    onnx.save(classifier(operator), "net.onnx")
    message = fit_refused()
    assert f"operator '{operator}' of node 'middle' is not supported" in message
    assert "Replace it in the model" in message


def test_open_dimensions_need_input_shape(fit_refused: Said) -> None:
    """A model of any height and width asks for --input-shape, and is read with it."""
    onnx.save(classifier(shape=("N", 1, "H", "W")), "open.onnx")
    message = fit_refused("open.onnx")
    assert "input 'x' has shape (N, 1, H, W): dimensions are open" in message
    assert "--input-shape" in message
    shutil.rmtree("run")
    assert "nowhere" in fit_refused("open.onnx", "--input-shape", "1x1x8x8", data="nowhere")
    assert "baseline.onnx" in found_in_run()


@pytest.mark.parametrize(
    ("shape", "code", "cause"),
    [("1x3x8x8", 1, "contradicts"), ("1x1x0x8", 2, "greater than or equal to 1")],
)
def test_input_shape_that_cannot_be(fit_refused: Said, shape: str, code: int, cause: str) -> None:
    """A shape against what the model says fails; one with a zero is wrong use."""
    onnx.save(classifier(shape=("N", 1, "H", "W")), "open.onnx")
    assert cause in fit_refused("open.onnx", "--input-shape", shape, code=code)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(fit_refused: Said, value: float) -> None:
    """NaN or infinity in a weight is found before anything runs; weight and node are named."""
    weights = random(1, 4, 1, 3, 3)
    weights[2, 0, 1, 1] = value
    onnx.save(classifier(conv_w=weights), "net.onnx")
    message = fit_refused()
    assert "'conv.w', read by node 'conv' (Conv), has values that are NaN or infinite" in message
    assert "Train or export the model again" in message
    assert found_in_run() == BEFORE_THE_MODEL


@pytest.mark.parametrize("operator", ["Log", "Sqrt"])
@pytest.mark.usefixtures("told")
def test_nan_in_activations(fit_refused: Said, operator: str) -> None:
    """A network whose answers are NaN is named, and so are the usual reasons."""
    onnx.save(classifier(operator), "nan.onnx")
    message = fit_refused("nan.onnx")
    assert "the network 'nan' gives NaN or infinite values on the validation data" in message
    assert "check its weights, and that --mean and --std" in message
    assert "baseline.json" not in found_in_run()


@pytest.mark.usefixtures("told")
def test_nan_in_activations_of_calibration_data_alone(fit_refused: Said) -> None:
    """Calibration data of another range than the validation data is found, with a node's name."""
    ones = np.ones((4, 1, 3, 3), np.float32)
    onnx.save(classifier("Sqrt", conv_w=ones, conv_b=np.zeros(4, np.float32)), "nan.onnx")
    positive = np.abs(random(0, SAMPLES, *SAMPLE))
    save(x=positive)
    save("calibration.npz", x=-positive)
    message = fit_refused("nan.onnx", "--calibration", "calibration.npz")
    assert re.search(r"node '\w+' of 'nan' makes NaN or infinite values of the calib", message)
    assert "check the preprocessing" in message


# Data


@pytest.mark.parametrize(
    ("arrays", "cause", "remedy"),
    [
        pytest.param(
            {"x": random(0, SAMPLES, 1, 16, 16)},
            "samples have shape (1, 16, 16), the model takes (1, 8, 8)",
            "Store samples of the model's shape",
            id="shape",
        ),
        pytest.param(
            {"x": random(0, 1, *SAMPLE), "y": np.zeros(1, int)},
            "has 1 samples; 4 are the fewest",
            "Add more",
            id="one-sample",
        ),
        pytest.param(
            {"x": random(0, 0, *SAMPLE), "y": np.zeros(0, int)}, "has no samples", "", id="none"
        ),
        pytest.param(
            {"y": np.full(SAMPLES, 3)},
            "labels are 3 to 3; they must be 0 to 2, the model's classes",
            "Number the classes",
            id="label-too-large",
        ),
        pytest.param(
            {"y": np.full(SAMPLES, -1)}, "labels are -1 to -1", "0 to 2", id="negative-label"
        ),
        pytest.param(
            {"y": np.zeros(7, int)}, "40 samples and 7 labels", "one label per sample", id="labels"
        ),
        pytest.param({"y": None}, "labels ('y' or 'labels') are needed", "Add", id="no-labels"),
        pytest.param(
            {"x": np.full((SAMPLES, *SAMPLE), np.nan)}, "sample 0 has values", "Remove", id="nan"
        ),
        pytest.param(
            {"x": None, "images": random(0, SAMPLES, *SAMPLE)}, "it has 'y'", "'x' and", id="keys"
        ),
    ],
)
def test_data_that_does_not_fit(
    fit_refused: Said, arrays: dict[str, Any], cause: str, remedy: str
) -> None:
    """Samples and labels that the model cannot take are named with their file."""
    save(**arrays)
    message = fit_refused()
    assert message.startswith("error: data.npz")
    assert cause in message
    assert remedy in message
    assert found_in_run() == {*BEFORE_THE_MODEL, "baseline.onnx"}


@pytest.mark.parametrize(
    ("content", "cause", "remedy"),
    [
        pytest.param(None, "no such file or folder", "Give the path", id="missing"),
        pytest.param(lambda: b"", "is empty", "Write or copy it again", id="empty"),
        pytest.param(lambda: b"1,2,3\n", "is not an .npz file", "numpy.savez", id="text"),
        pytest.param(lambda: truncated("data.npz"), "damaged", "numpy.savez", id="truncated"),
    ],
)
def test_file_that_is_no_data(
    fit_refused: Said, content: Callable[[], bytes] | None, cause: str, remedy: str
) -> None:
    """A missing, empty, foreign or damaged data file is named."""
    if content is not None:
        Path("bad.npz").write_bytes(content())
    message = fit_refused(data="bad.npz")
    assert message.startswith("error: bad.npz")
    assert cause in message
    assert remedy in message


class Trap:
    """Something that acts when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_pickled_objects_are_not_loaded(fit_refused: Said) -> None:
    """An .npz file with pickled objects is refused, and what it would have run is not run."""
    save(x=np.array([Trap()] * SAMPLES, dtype=object))
    with zipfile.ZipFile("data.npz") as archive:
        assert b"trapped" in archive.read("x.npy")
    message = fit_refused()
    assert "data.npz has pickled objects" in message
    assert "Save plain arrays of numbers" in message
    assert not Path("trapped").exists()


def test_no_data_at_all(refused: Said) -> None:
    """A fit without data is wrong use; what may be given is named."""
    message = refused("fit", "net.onnx", "--run", "run", code=2)
    assert "--data FILE, FOLDER or module:function" in message


# Options


@pytest.mark.parametrize(
    ("budget", "cause"),
    [
        ("0", "must be above zero"),
        ("-5ms", "must be above zero"),
        ("abc", "is not a share or a time"),
        ("nan", "is not a share or a time"),
        ("5", "has no unit"),
        ("101%", "is above 100%"),
        ("5parsecs", "unknown unit 'parsecs'"),
    ],
)
def test_budget_that_makes_no_sense(fit_refused: Said, budget: str, cause: str) -> None:
    """The budget is repeated with what is wrong with it and how to write one; no run begins."""
    message = fit_refused("net.onnx", "--budget", budget, code=2)
    assert f"budget '{budget}'" in message
    assert cause in message
    assert "such as '60%', or a time such as '8ms'" in message
    assert not Path("run").exists()


@pytest.mark.parametrize("threads", ["0", "-1", "999"])
def test_threads_that_cannot_be(said: Said, threads: str) -> None:
    """No threads, or more than there are cores, is wrong use; no run begins."""
    message = said(*fit_line("net.onnx", "--threads", threads), code=2)
    limit = r"choose 1 to \d+, its usable" if threads == "999" else "greater than or equal to 1"
    assert re.search(limit, message)
    assert not Path("run").exists()


def test_unknown_target(fit_refused: Said) -> None:
    """The targets that there are are listed; no run begins."""
    message = fit_refused("net.onnx", "--target", "rpi44", code=2)
    assert "no target 'rpi44'. Did you mean rpi4 or rpi5? There are: local, " in message
    assert not Path("run").exists()


def test_target_that_is_not_here(fit_refused: Said) -> None:
    """Nothing can be measured on a board that is not at hand; what can be done is said."""
    message = fit_refused("net.onnx", "--target", "rpi4")
    assert "target 'rpi4' cannot be reached from here" in message
    assert "millifit compile" in message
    assert not Path("run").exists()


# Budgets that no plan keeps


@pytest.mark.parametrize("budget", ["0.001ms", "1%"])
@pytest.mark.usefixtures("told")
def test_unreachable_budget(fit_refused: Said, said: Said, budget: str) -> None:
    """Exit code 3 with the floor, the layers that set it, and a budget that can in fact be met."""
    message = fit_refused("net.onnx", "--budget", budget, "--max-drop", "none", code=3)
    assert "infeasible on 'local': the fastest plan takes 0.0" in message
    assert re.search(r"layers? conv \(0\.0\d+ ms\)", message)
    proposed = re.search(r"cheapest relaxation: --budget (\S+ms)", message)
    assert proposed is not None, message
    again = fit_line("net.onnx", "--budget", proposed[1], "--max-drop", "none", run="again")
    said(*again, code=0)
    assert json.loads(Path("again/result.json").read_text())["met"] is True


# Places that cannot be written or read


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (fit_line("net.onnx", run="file/run"), "cannot write the run folder 'file/run'"),
        (fit_line("net.onnx", run="file"), "cannot write the run folder 'file'"),
        (("compile", "net.onnx", "--out", "file/out"), "cannot write into 'file/out'"),
    ],
    ids=["run-below-a-file", "run-is-a-file", "bundles"],
)
def test_folder_that_cannot_be_written(refused: Said, line: tuple[str, ...], cause: str) -> None:
    """A folder that cannot be made is named, and another one is asked for."""
    message = refused(*line)
    assert cause in message
    assert re.search(r"Choose another|Name a folder that you may write to", message)
    assert Path("file").read_text() == "an ordinary file\n"


def test_run_folder_in_use(fit_refused: Said) -> None:
    """A second run in a folder is refused while the first one goes on."""
    Path("run").mkdir()
    with Path("run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = fit_refused()
    assert "run folder 'run' is in use by another run. Wait for it" in message
    assert found_in_run() == {".lock"}


def test_run_folder_of_another_run(finished: Path, said: Said) -> None:
    """What differs is named, and the results of the other run stay as they are."""
    before = (finished / "result.json").read_bytes()
    message = said(*fit_line("net.onnx", "--budget", "50%", run="good"), code=1)
    assert "run folder 'good' holds another run (different: budget, max_drop)" in message
    assert "Choose another with --run, or remove it" in message
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.usefixtures("told")
def test_damaged_run_folder(finished: Path, said: Said) -> None:
    """A file of an interrupted run that cannot be read is named; removing it is the remedy."""
    (finished / "result.json").unlink()
    damaged = finished / "baseline.json"
    damaged.write_text(damaged.read_text()[:20])
    line = fit_line("net.onnx", "--budget", "90%", "--max-drop", "none", run="good")
    message = said(*line, code=1)
    assert "'good/baseline.json' cannot be read" in message
    assert "Remove it to have it made again" in message
    damaged.unlink()
    said(*line, code=0)


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "cause", "remedy"),
    [
        pytest.param(
            lambda path: path.write_text("no database\n" * 99), "file is not a database",
            "Move the file away", id="text",
        ),
        pytest.param(
            lambda path: path.write_bytes(truncated(str(path))), "malformed",
            "Move the file away", id="truncated",
        ),
        pytest.param(
            lambda path: path.write_bytes(b""), "holds no measurements", "Move the file away",
            id="empty",
        ),
        pytest.param(newer, "written by a newer millifit", "Upgrade millifit", id="newer"),
    ],
)  # fmt: skip
def test_damaged_store(
    refused: Said, damage: Callable[[Path], None], cause: str, remedy: str
) -> None:
    """A store that cannot be read is named and left as it is."""
    store = Path("store.sqlite")
    assert Store(store).count() == 0
    damage(store)
    before = store.read_bytes()
    message = refused("predict", "net.onnx", "--store", "store.sqlite")
    assert message.startswith("error: 'store.sqlite'")
    assert cause in message
    assert remedy in message
    assert store.read_bytes() == before


@pytest.mark.usefixtures("told")
def test_fit_with_a_damaged_store(fit_refused: Said) -> None:
    """A fit ends before it measures anything, and goes on once the store was moved away."""
    Path("store.sqlite").write_text("no database\n" * 99)
    assert "file is not a database. Move the file away" in fit_refused()
    assert "baseline.json" not in found_in_run()
    message = fit_refused("net.onnx", "--store", "file/store.sqlite")
    assert "cannot write the measurements to 'file/store.sqlite'" in message
    assert "Name a folder that you may write to" in message


@pytest.mark.parametrize(
    ("size_bytes", "name"), [(0, "identity.json"), (550, "baseline.onnx")], ids=["first", "model"]
)
def test_disk_full_at_the_start(fit_refused: Said, size_bytes: int, name: str) -> None:
    """The first file that does not fit on the disk is named, and is not there afterwards."""
    with disk():
        limit_files(size_bytes)
        message = fit_refused()
    assert f"cannot write 'run/{name}': File too large. Free some space" in message
    assert name not in found_in_run()


def test_disk_full_while_measuring(
    fit_refused: Said, said: Said, told: Callable[..., None]
) -> None:
    """A store that cannot grow says so; the same command goes on when there is space again."""
    store = Path("store.sqlite")
    assert Store(store).count() == 0
    # Less than the store has by now: the pages it changes at its end do not fit.
    told(after_kernel=partial(limit_files, store.stat().st_size // 2))
    line = ("net.onnx", "--budget", "90%", "--max-drop", "none")
    with disk():
        message = fit_refused(*line)
    assert message.startswith("error: 'store.sqlite'")
    assert "disk" in message
    assert "name a store on another disk" in message
    told()
    said(*fit_line(*line), code=0)


def test_disk_full_while_timing(fit_refused: Said, said: Said, told: Callable[..., None]) -> None:
    """A result that cannot be kept is not half there; the same command goes on later."""
    told(after_networks=partial(limit_files, 10))
    line = ("net.onnx", "--budget", "90%", "--max-drop", "none")
    with disk():
        message = fit_refused(*line)
    assert "cannot write 'run/baseline.json': File too large. Free some space" in message
    assert "baseline.json" not in found_in_run()
    told()
    said(*fit_line(*line), code=0)


def test_disk_full_at_the_end(said: Said, told: Callable[..., None]) -> None:
    """Where the last measurement runs out of space nothing is placed; the same command goes on."""
    timings: list[None] = []

    def fill() -> None:
        timings.append(None)
        if len(timings) == 3:  # the baseline, a trial, everything at the end
            limit_files(10_000)

    told(after_networks=fill)
    line = fit_line("net.onnx", "--budget", "90%", "--max-drop", "none", "--trials", "1")
    with disk():
        message = said(*line, code=1)
    assert len(timings) == 3
    assert re.search(r"error: .*File too large.* Free some space", message)
    assert not found_in_run() & set(FINISHED)
    told()
    said(*line, code=0)


def test_disk_full_in_a_process_of_its_own() -> None:
    """The executable ends with 1 and one message when no file can be written."""
    done = millifit_process(*fit_line("net.onnx"), before="limit(RLIMIT_FSIZE, (0, 0))")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write 'run/")
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert found_in_run() == {".lock"}


def test_missing_model_in_a_process_of_its_own() -> None:
    """The executable ends with 1, one line on standard error, and nothing on standard output."""
    done = millifit_process(*fit_line("missing.onnx"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: missing.onnx: no such file. Give the path of an ONNX model.\n"


def millifit_process(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    script = (
        "from resource import RLIMIT_FSIZE, setrlimit as limit\n"
        "from millifit.cli import main\n"
        f"{before}\n"
        "main()"
    )
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# Plans and bundles


@pytest.mark.parametrize(
    ("plan", "code", "cause", "remedy"),
    [
        pytest.param(
            '{"precisions": {"other": "int8"}, "widths": {}}', 2,
            "for another network: 'net' has no layer 'other'", "", id="another-network",
        ),
        pytest.param(
            '{"precisions": {"conv": "int4"}, "widths": {}}', 2, "unknown precision 'int4'",
            "millifit search", id="unknown-precision",
        ),
        pytest.param("[]", 2, "is no plan", "millifit search", id="not-a-plan"),
        pytest.param("{", 2, "is no plan", "millifit search", id="not-json"),
        pytest.param(None, 2, "No such file", "millifit search", id="missing"),
    ],
)  # fmt: skip
def test_plan_that_does_not_fit(
    refused: Said, plan: str | None, code: int, cause: str, remedy: str
) -> None:
    """A plan of another network, or none at all, is refused, and no network is written."""
    if plan is not None:
        Path("p.json").write_text(plan)
    line = ("compress", "net.onnx", "--plan", "p.json", "--data", "data.npz", "--out", "o.onnx")
    message = refused(*line, code=code)
    assert "p.json'" in message
    assert cause in message
    assert remedy in message
    assert not Path("o.onnx").exists()


def test_plan_of_a_found_network_for_another(finished: Path, refused: Said) -> None:
    """The plan that a search wrote is not applied to a network with other layers."""
    other = classifier()
    other.graph.node[0].name = "stem"
    onnx.save(other, "other.onnx")
    plan = str(finished / "plan.json")
    line = ("compress", "other.onnx", "--plan", plan, "--data", "data.npz", "--out", "o.onnx")
    assert "'other' has no layer 'conv'" in refused(*line, code=2)
    assert not Path("o.onnx").exists()


@pytest.mark.parametrize("place", ["nowhere", ".", "file"])
def test_verify_what_is_no_bundle(refused: Said, place: str) -> None:
    """A folder without a manifest, or no folder at all, is no bundle."""
    message = refused("verify", place)
    assert f"'{place}' is no bundle" in message
    assert "'millifit compile' or 'millifit fit'" in message


def test_verify_a_bundle_that_was_changed(finished: Path, refused: Said) -> None:
    """One flipped bit in any file of a bundle is found before its code is run."""
    for name in ("library.so", "weights.bin", "golden.npz", "manifest.json"):
        shutil.rmtree("changed", ignore_errors=True)
        file = Path(shutil.copytree(finished / "bundle", "changed")) / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        message = refused("verify", "changed")
        assert "'changed'" in message
        assert re.search(rf"{name} does not match its sha256|manifest .* is damaged", message)
        assert "compile the bundle again" in message


def test_predict_with_nothing_measured(refused: Said) -> None:
    """A prediction without measurements says how to take some."""
    message = refused("predict", "net.onnx", "--store", "store.sqlite")
    assert "nothing was measured on target 'local' with 1 thread" in message
    assert "Run 'millifit profile MODEL' first" in message


def test_mended_input_goes_on_in_the_same_folder(fit_refused, said, told):
    """A run that was refused its model, then its data, is begun by the same command mended."""
    Path("m.onnx").write_text("no model")
    assert "is not an ONNX model" in fit_refused("m.onnx")
    onnx.save(classifier(), "m.onnx")
    save("two.npz", y=np.full(SAMPLES, 9))
    assert "labels are 9" in fit_refused("m.onnx", data="two.npz")
    said(*fit_line("m.onnx", "--budget", "90%", "--max-drop", "none"), code=0)


def test_compile_of_another_model_replaces_the_bundle(said):
    """A bundle of another network in the folder is not taken for this one's."""
    onnx.save(classifier("Sigmoid"), "other.onnx")
    for model in ("net", "other"):
        said("compile", f"{model}.onnx", "--out", "out", code=0)
        assert json.loads(Path("out/local/manifest.json").read_text())["name"] == model


def test_disk_full_while_compiling(fit_refused):
    """A library that does not fit ends the run with a message and leaves no staging folder."""
    with disk():
        limit_files(20_000)
        message = fit_refused()
    assert "Free space" in message, message
    assert "baseline" not in found_in_run()
