"""The benchmark of server GPUs, without one: arithmetic of bars, contenders' parts, result file."""

import json

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_contenders
from benchmarks.gpu_bars import bars, report
from benchmarks.gpu_contenders import Contender, batched, error, oracle, traced

FASTER = {"model": "ResNet-50", "batch": 1, "ratio": 0.9, "errors": {"ours": 1e-3}, "error": ""}


def by_place(found):
    return {(bar.model, bar.batch): bar for bar in found}


def test_a_bar_is_met_missed_or_not_measured():
    """By the ratio, and by whether there is one."""
    slower = FASTER | {"batch": 32, "ratio": 1.21}
    found = by_place(bars([FASTER, slower], "not asked for"))
    assert found["ResNet-50", 1].met is True
    assert found["ResNet-50", 32].met is False
    assert found["MobileNetV2", 1].met is None
    assert found["ResNet-50", 1].line.startswith("met    ResNet-50 fp16, batch 1")
    assert found["ResNet-50", 32].line.endswith("1.21, at most 1.20")
    assert found["MobileNetV2", 1].line.endswith("at most 1.00 (not asked for)")
    assert found["MobileNetV2", 1].line.startswith("NOT MEASURED")


def test_a_wrong_answer_meets_no_bar():
    """However fast it is."""
    wrong = FASTER | {"errors": {"ours": 0.5}}
    assert by_place(bars([wrong], ""))["ResNet-50", 1].met is False


def test_a_failed_row_says_why():
    """Its bar is not measured, for the row's own reason."""
    failed = FASTER | {"ratio": None, "error": "CompileError: no"}
    bar = by_place(bars([failed], "no GPU"))["ResNet-50", 1]
    assert (bar.met, bar.why) == (None, "CompileError: no")


def test_a_report_without_rows_is_not_measured():
    """The status says so, and every bar."""
    made = report([], "no GPU")
    assert made["status"] == "not measured: no GPU"
    assert [bar["met"] for bar in made["bars"]] == [None] * 4
    assert report([FASTER], "only checked")["status"] == "measured"


def test_ratios_are_of_the_same_rounds():
    """Ours over each of the others; medians of every contender."""
    rounds = {
        "ours": [[1.0, 1.1, 1.0]] * 8,
        "compiled": [[2.0, 2.0, 2.2]] * 8,
        "eager": [[4.0, 4.0, 4.0]] * 8,
    }
    made = gpu.timings(rounds)
    assert made["ratio"] == 0.5
    assert made["over_eager"]["median"] == 0.25
    assert (made["ours_s"], made["compiled_s"], made["eager_s"]) == (1.0, 2.0, 4.0)
    assert "ratio" not in gpu.timings({"ours": rounds["ours"]})


def test_errors_are_relative_and_never_hidden():
    """Of the largest magnitude; what is no number is infinitely wrong."""
    wanted = np.float32([1, -4])
    assert error(np.float32([1, -3]), wanted) == 0.25
    assert error(np.float32([np.nan, -4]), wanted) == float("inf")


def test_the_traced_network_is_the_network():
    """The graph that PyTorch gets, for a batch, computes what ONNX Runtime does."""
    network, x = batched("MobileNetV2", 2, 0)
    assert x.shape == (2, 3, 224, 224)
    module = traced(network, torch.from_numpy(x))
    with torch.no_grad():
        assert error(module(torch.from_numpy(x)).numpy(), oracle(network, x)) < 1e-4


@pytest.fixture
def fakes(monkeypatch):
    """Contenders that need no GPU: one answers right, the others as they are told."""

    def use(**answers):
        def contenders(network, x, target, folder):
            wanted = oracle(network, x)
            return {
                name: lambda off=off: Contender(run=list, outputs=lambda: wanted + off)
                for name, off in answers.items()
            }

        monkeypatch.setattr(gpu, "cuda_devices", lambda: ("a GPU",))
        monkeypatch.setattr(gpu, "detect_gpu_target", lambda name: name)
        monkeypatch.setattr(gpu_contenders, "contenders", contenders)
        monkeypatch.setattr(gpu_contenders, "turn", lambda run: [1e-3, 1e-3])

    return use


def test_a_check_runs_everything_once_and_times_nothing(fakes, tmp_path, capsys):
    """Right outputs: 0, and bars that are not measured because only checked."""
    fakes(ours=0.0, compiled=0.0, eager=0.0)
    path = tmp_path / "gpu.json"
    assert (
        gpu.main(["--check", "--models", "MobileNetV2", "--batches", "1", "--json", str(path)]) == 0
    )
    made = json.loads(path.read_text())
    (row,) = made["rows"]
    assert row["errors"] == {"ours": 0.0, "compiled": 0.0, "eager": 0.0}
    assert "ours_s" not in row
    assert {bar["why"] for bar in made["bars"]} == {"only checked"}
    assert "off by 0.0e+00" in capsys.readouterr().out


def test_wrong_outputs_fail(fakes):
    """The exit code is 1, with timings or without."""
    fakes(ours=100.0, compiled=0.0)
    assert gpu.main(["--models", "MobileNetV2", "--batches", "1"]) == 1


def test_without_a_gpu_nothing_is_met(monkeypatch, tmp_path, capsys):
    """The file is written all the same, and says why."""
    monkeypatch.setattr(gpu, "cuda_devices", lambda: ())
    path = tmp_path / "gpu.json"
    assert gpu.main(["--json", str(path)]) == 0
    assert json.loads(path.read_text())["status"] == "not measured: no GPU"
    assert capsys.readouterr().out.count("NOT MEASURED") == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "AlexNet"], "unknown model AlexNet"),
        (["--batches", "1,none"], "batches are positive"),
        (["--batches", "0"], "batches are positive"),
    ],
)
def test_arguments_are_checked(arguments, says, capsys):
    """Unknown models and batches that are none: wrong use."""
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert says in capsys.readouterr().err
