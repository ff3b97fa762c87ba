"""The command line: every verb hands its options on, and every failure has its exit code."""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import millifit
from millifit.cli import app, main
from millifit.cli.predicting import bar
from millifit.console import Bars, result_table
from millifit.errors import BudgetInfeasible, ModelError
from millifit.pipeline.reach import DeviceAccess
from millifit.report import parse_result

VERBS = (
    "doctor", "targets", "profile", "predict", "search", "compress", "compile", "verify", "fit",
    "report", "run",
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMPILED = {
    "target": "local", "bundle": "b/local", "size_bytes": 14_200_000, "kernels": 31,
    "planned_memory_bytes": 20_500_000, "without_rule": [], "seconds": 12.34,
}  # fmt: skip
Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]

TUNING = {
    "tuned": [
        {
            "op": "conv2d", "precision": "fp32", "shape": [1, 7, 7, 64], "calls": 2,
            "choice": {"rows": 6, "vectors": 2}, "by_rule_s": 2e-3, "tuned_s": 1e-3, "gain": 2.0,
        }
    ]
}  # fmt: skip

DEVICE = {
    "cpu": "a board", "machine": "aarch64", "gpu": None, "reach": "remote", "emulated": True,
}  # fmt: skip

PROFILE: dict[str, Any] = {
    "model": "net", "space": None, "stopped": "complete", "skipped": [], "elapsed_s": 61.25,
    "kernels": 3, "failed": [], "networks": [{"name": "net"}], "sections": [], "fit_s": 0.1,
    "coverage": {"measured": 0.5, "families": 1.0, "networks": 2}, "level_shift": None,
    "held_out": {"n": 21, "median": 0.031, "within_10": 0.9}, "device": DEVICE,
}  # fmt: skip

WATERFALL = {"share": 1.0, "origin": "predicted", "extrapolated": True}
HELD_OUT = {"within_5": 0.5, "within_10": 0.9, "mape": 0.04, "coverage_95": 0.95}
LEARNT: dict[str, Any] = {
    "target": "local", "kernels_measured": 12, "networks_measured": 20, "out": "board.npz",
    "families": [
        {"family": "conv2d fp32", "working_set_bytes": 2**20, "kernels": 14, "held_out": 12}
        | HELD_OUT
    ],
    "networks": {"networks": 20, "spearman": 0.99} | HELD_OUT,
}  # fmt: skip

ARCHITECTURES_LEARNT = {
    "space": "nasbench201", "target": "new", "model": "transfer", "from": ["alpha/batch1", "beta"],
    "likeness": {"alpha": 0.75, "beta": 0.2}, "networks_measured": 10, "left_out": {"failed": 2},
    "held_out": {"networks": 10, "spearman": 0.99} | HELD_OUT, "out": "new.npz",
}  # fmt: skip
ARCHITECTURES = {
    "space": "nasbench201", "target": "new", "from": ["alpha/batch1"], "networks_measured": 10,
    "architectures": [
        {
            "architecture": "|none~0|", "origin": "predicted", "extrapolated": True,
            "latency_s": {"median": 0.002, "low": 0.0019, "high": 0.0021},
        },
    ],
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, result: Mapping[str, Any]) -> Calls:
    """A pipeline that answers at once and remembers what it was asked."""
    made: Calls = []
    kernel = result["kernels"]["baseline"][0]
    answers: dict[str, Any] = {
        "fit": result,
        "profile": PROFILE | {"tuning": TUNING},
        "predict": {
            "model": "net.onnx",
            "target": "local",
            "latency_s": {"median": 0.002, "low": 0.0019, "high": 0.0022},
            "sum_of_kernels_s": kernel["seconds"],
            "networks_measured": 1,
            "emulated": True,
            "kernels": [kernel | WATERFALL | {"cumulated_s": kernel["seconds"]}],
            "share": {"measured": 0.75, "interpolated": 0.0, "unknown": 0.25},
            "warning": "25 % of the predicted time is a guess.",
        },
        "learn": LEARNT,
        "learn_architectures": ARCHITECTURES_LEARNT,
        "predict_architectures": ARCHITECTURES,
        "search": {"front": result["trials"][:2]},
        "compress": {"size_bytes": 1},
        "compile_model": {"bundles": [COMPILED | {"tuning": TUNING}], "failed": []},
        "verify": {"golden_error": 0.0, "device": DEVICE, "environment": {"cores": "4"}},
        "run": {"samples": 1},
    }
    fake = ModuleType("millifit.pipeline")
    fake.__path__ = list(importlib.import_module("millifit.pipeline").__path__)

    def answering(name: str) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            made.append((name, args, options))
            return answers[name]

        return called

    for name in answers:
        setattr(fake, name, answering(name))
    monkeypatch.setitem(sys.modules, "millifit.pipeline", fake)
    monkeypatch.setattr(millifit, "pipeline", fake, raising=False)
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def run_line(line: str) -> Any:
    return run(*shlex.split(line))


def test_fit_hands_on_every_option(calls: Calls, tmp_path: Path) -> None:
    """All options reach the recipe; the answer is a table and a JSON file."""
    done = run_line(
        "fit net.onnx --data val.npz --calibration cal.npz --mean 1,2,3 --std 4 --target rpi4 "
        "--input-shape 1x3x8x8 --threads 2 --budget 8ms --max-drop none --no-prune --epochs 0 "
        f"--trials 4 --run r --store s --tune 9 --seed 7 --json {tmp_path}/out.json "
        "--device pi.local:9391/rpi4 --device-token-file token --device-ca ca.pem"
    )
    assert done.exit_code == 0, done.output
    (name, (recipe, _progress), _options) = calls[0]
    assert name == "fit"
    assert recipe.model_dump() == {
        "model": "net.onnx", "data": "val.npz", "calibration": "cal.npz", "mean": (1, 2, 3),
        "std": (4,), "input_shape": (1, 3, 8, 8), "target": "rpi4", "threads": 2, "budget": "8ms",
        "max_drop": None, "seed": 7, "run": "r", "store": "s", "prune": False, "epochs": 0,
        "trials": 4, "tune": 9, "demo": False, "precisions": None,
        "device": "pi.local:9391/rpi4", "device_token_file": "token", "device_ca": "ca.pem",
    }  # fmt: skip
    assert json.loads((tmp_path / "out.json").read_text())["met"] is True
    for expected in ("compressed", "ONNX Runtime int8", "Measured interleaved in one run"):
        assert expected in done.stdout


def test_fit_reads_a_recipe(calls: Calls, tmp_path: Path) -> None:
    """A recipe file is enough, and a flag changes it."""
    (tmp_path / "r.yaml").write_text("demo: true\nseed: 5\n")
    assert run("fit", "--recipe", str(tmp_path / "r.yaml"), "--threads", "2").exit_code == 0
    recipe = calls[0][1][0]
    assert (recipe.demo, recipe.seed, recipe.threads, recipe.budget) == (True, 5, 2, "50%")


def test_missed_budget_exits_with_3(calls: Calls, result: dict[str, Any]) -> None:
    """A result that is not within the budget is shown, and is no success."""
    result["met"] = False
    done = run("fit", "--demo")
    assert done.exit_code == 3
    assert "NOT met" in done.stdout


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (BudgetInfeasible("budget of 1 ms is infeasible: the floor is 2 ms"), 3, "the floor is"),
        (ModelError("'net.onnx' is empty. Export it again."), 1, "Export it again"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
    ],
)
def test_failure_has_its_exit_code(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    """An error is one message on standard error, no traceback, and its own exit code."""

    def fail(*_args: Any) -> None:
        raise raised

    monkeypatch.setattr(sys.modules["millifit.pipeline"], "fit", fail)
    done = run("fit", "--demo")
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_unexpected_error_says_how_to_get_the_traceback(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake of ours exits with 1 and names --debug; with --debug it is raised."""

    def fail(*_args: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(sys.modules["millifit.pipeline"], "fit", fail)
    monkeypatch.setattr(sys, "argv", ["millifit", "fit", "--demo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "unexpected KeyError: 'oops'" in said
    assert "millifit --debug fit --demo" in said
    monkeypatch.setattr(sys, "argv", ["millifit", "--debug", "fit", "--demo"])
    with pytest.raises(KeyError):
        main()


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit",),
        ("fit", "--nonsense"),
        ("fit", "net.onnx", "--threads", "0"),
        ("fit", "net.onnx", "--budget", "0"),
        ("fit", "net.onnx", "--budget", "-5ms"),
        ("fit", "net.onnx", "--budget", "abc"),
        ("fit", "net.onnx", "--demo"),
        ("fit", "--recipe", "missing.yaml"),
        ("compress", "net.onnx"),
        ("targets", "show", "toaster"),
        ("targets", "add", "missing.toml"),
        ("profile", "show"),
        ("predict", "net.onnx", "--seed", "-1"),
        ("nonsense",),
    ],
)
def test_wrong_use_exits_with_2(calls: Calls, arguments: tuple[str, ...]) -> None:
    """Wrong use is found before any work starts."""
    assert run(*arguments).exit_code == 2
    assert calls == []


def test_profile_takes_a_model_at_once(calls: Calls) -> None:
    """'profile MODEL' is short for 'profile measure MODEL'."""
    assert run("profile", "net.onnx", "--threads", "2").exit_code == 0
    assert run("profile", "measure", "net.onnx", "--threads", "2").exit_code == 0
    first, second = ((name, args, options | {"progress": 0}) for name, args, options in calls)
    assert first == second
    assert first[0:2] == ("profile", ("net.onnx",))
    assert first[2]["threads"] == 2


@pytest.mark.parametrize(
    ("line", "seconds", "until"),
    [
        ("--space mobilenet --for 60s", 60.0, None),
        ("--space mobilenet --for 1.5m --until 5%", 90.0, 0.05),
        ("--space mobilenet --for 1h", 3600.0, None),
        ("net.onnx --for 60", 60.0, None),
        ("models/ --until 2.5%", None, 0.025),
        ("net.onnx", None, None),
    ],
)
def test_profile_takes_limits_with_units(
    calls: Calls, line: str, seconds: float | None, until: float | None
) -> None:
    """Times in seconds, minutes or hours; an error in percent; what is known is said in words."""
    done = run_line(f"profile {line}")
    assert done.exit_code == 0
    ((_, (model,), options),) = calls
    assert (model is None) == (options["space"] == "mobilenet")
    assert (options["seconds"], options["until"]) == (seconds, pytest.approx(until))
    words = " ".join(done.stdout.split())
    assert "50% of the time of 2 networks in measured kernels, 100% in known families" in words
    assert "median error 3.1%, 90% within 10 %, n=21" in words


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--space mobilenet --for 0s", "--for must be a time above 0 like 60s, 10m or 1h"),
        ("--space mobilenet --for abc", "got 'abc'"),
        ("--space mobilenet --for -5m", "got '-5m'"),
        ("--space mobilenet --for nan", "got 'nan'"),
        ("--space mobilenet --until 200%", "--until must be an error between 0% and 100%"),
        ("--space mobilenet --until 0.05", "like 5%, got '0.05'"),
        ("net.onnx --space mobilenet", "name what to profile"),
        ("--threads 1", "name what to profile"),
    ],
)
def test_profile_says_which_limits_there_are(calls: Calls, line: str, said: str) -> None:
    """A limit without sense is wrong use, and the message shows one with sense."""
    done = run_line(f"profile {line}")
    assert (done.exit_code, calls) == (2, [])
    assert said in done.stderr


def test_predict_shows_kernels_and_interval(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The waterfall, the interval, what the time rests on, and a warning where that is little."""
    monkeypatch.setenv("COLUMNS", "140")
    done = run("predict", "net.onnx", "--json", str(tmp_path / "p.json"))
    words = " ".join(done.stdout.split())
    assert "2.000 ms (1.900–2.200), 95 % interval" in words
    assert "1 whole network measured of the time: 75 % measured, 25 % unknown" in words
    assert "Warning: 25 % of the predicted time is a guess." in words
    assert "features.0.0" in done.stdout
    assert "100.0 %" in done.stdout
    assert "█" * 8 in done.stdout
    assert json.loads((tmp_path / "p.json").read_text())["share"]["measured"] == 0.75


def test_learn_hands_its_options_on_and_shows_how_good_it_is(calls: Calls) -> None:
    """A row for each family, one for networks, and where the file is."""
    done = run_line("profile learn --threads 2 --store s.sqlite --out board.npz")
    assert done.exit_code == 0
    ((name, _, options),) = calls
    assert (name, options["threads"], options["store"]) == ("learn", 2, "s.sqlite")
    words = " ".join(done.stdout.split())
    assert "conv2d fp32 1.0 12 50 % 90 % 4 % 95 %" in words
    assert "12 kernels and 20 networks of local learnt; written to board.npz" in words
    assert run("profile", "learn").exit_code == 2


def test_learn_takes_architectures_of_a_space(calls: Calls) -> None:
    """From other devices where asked; how far off, what was left out, and what it is most like."""
    done = run_line(
        "profile learn --space nasbench201 --target new --from alpha/batch1,beta --out new.npz"
    )
    assert done.exit_code == 0, done.output
    ((name, _, options),) = calls
    assert name == "learn_architectures"
    assert (options["space"], options["target"]) == ("nasbench201", "new")
    assert options["sources"] == ["alpha/batch1", "beta"]
    words = " ".join(done.stdout.split())
    assert "10 50 % 90 % 4.0 % 95 % 0.990" in words
    assert "left out: failed (2)" in words
    assert "most like: alpha (75 %), beta (20 %)" in words
    assert "10 networks of nasbench201 on new, with those of alpha/batch1, beta, learnt" in words
    alone = run_line("profile learn --from alpha --out new.npz")
    assert (alone.exit_code, "add their --space" in alone.stderr) == (2, True)


def test_predict_takes_architectures_and_files_of_them(calls: Calls, tmp_path: Path) -> None:
    """Codes as they are, files line by line; a row for each, and JSON."""
    (tmp_path / "codes.txt").write_text("b=1\n\n c=2 \n")
    done = run(
        "predict", "--latency-model", "m.npz", "--architecture", "a" * 500,
        "--architecture", str(tmp_path / "codes.txt"), "--json", str(tmp_path / "q.json"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    ((name, (codes,), options),) = calls
    assert (name, codes) == ("predict_architectures", ["a" * 500, "b=1", "c=2"])
    assert options == {"latency_model": "m.npz", "target": None}
    assert "2.00 1.90–2.10 5 % extrapolated" in " ".join(done.stdout.split())
    (row,) = json.loads((tmp_path / "q.json").read_text())["architectures"]
    assert row["latency_s"]["median"] == 0.002


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict", "Name a MODEL"),
        ("predict net.onnx --architecture a=1 --latency-model m.npz", "either a model"),
        ("predict --architecture a=1", "needs a --latency-model"),
        ("predict --architecture empty.txt --latency-model m.npz", "is empty"),
    ],
)
def test_predict_says_what_it_needs(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, said: str
) -> None:
    """A model, or an architecture with the model of its space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    done = run_line(line)
    assert (done.exit_code, calls) == (2, [])
    assert said in done.stderr


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 1, "█" * 8), (0.5, 0.25, "    ██  "), (0.99, 0.01, "       ▏"), (0, 1 / 16, "▌       ")],
)
def test_bars_lie_where_a_kernel_runs(start: float, length: float, expected: str) -> None:
    """Eighths of a character; what is too short to be seen is a thin line."""
    assert bar(start, length, 1.0, 8) == expected


def test_compile_takes_many_targets(calls: Calls) -> None:
    """--target takes several, may be repeated, and is 'local' unless given."""
    run_line("compile net.onnx --target local,rpi4 --target h100 --threads 2 --out b")
    done = run_line("compile net.onnx --out b")
    assert [options["targets"] for _, _, options in calls] == [["local", "rpi4", "h100"], ["local"]]
    assert re.search(r"local +14\.20 +20\.50 +31 +0 +12\.3", done.stdout)


def test_compile_into_a_signed_portfolio(calls: Calls) -> None:
    """--portfolio and --sign reach the pipeline."""
    done = run_line("compile net.onnx --target local,rpi4 --portfolio --sign key.pem --out p")
    run_line("compile net.onnx --out b")
    given = [(options["portfolio"], options["key"]) for _, _, options in calls]
    assert given == [(True, Path("key.pem")), (False, None)]
    assert done.stdout.endswith("Portfolio: p\n")


def test_compile_tunes_on_a_device(calls: Calls) -> None:
    """The device's address and the files that one is let in with reach the pipeline."""
    run_line(
        "compile net.onnx --target rpi4 --tune 5 --device pi:9391 --device-token-file t "
        "--device-ca ca.pem --out b"
    )
    wanted = DeviceAccess(address="pi:9391", token_file="t", ca_file="ca.pem")
    assert calls[0][2]["device"] == wanted


def test_compile_in_one_precision(calls: Calls) -> None:
    """--precision is the whole network's; a list of them is for fit."""
    run_line("compile net.onnx --out b --precision fp16")
    run_line("compile net.onnx --out b")
    assert [options["precision"] for _, _, options in calls] == ["fp16", "fp32"]
    done = run_line("compile net.onnx --out b --precision fp16,int8")
    assert (done.exit_code, "name one precision" in done.stderr) == (2, True)
    assert run_line("compile net.onnx --out b --precision fp8").exit_code == 2
    assert run_line("compile net.onnx --out b --target rpi4,,rpi5").exit_code == 2
    assert len(calls) == 2


def test_targets_that_were_not_compiled_are_named(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The others are shown, each reason is said once, JSON has all, and the command has failed."""
    failed = [{"target": name, "reason": "no rule for 'Foo'."} for name in ("t4", "h100")]
    found = {"bundles": [COMPILED | {"tuning": None}], "failed": failed}
    monkeypatch.setattr("millifit.pipeline.compile_model", lambda *_, **__: found)
    done = run("compile", "net.onnx", "--out", "b", "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 1
    assert "local" in done.stdout
    wanted = "2 of 3 targets were not compiled: t4, h100: no rule for 'Foo'.\n"
    assert done.stderr.endswith(wanted)
    assert json.loads((tmp_path / "out.json").read_text())["failed"] == failed
    failed[1] = failed[1] | {"reason": "no linker"}
    done = run("compile", "net.onnx", "--out", "b")
    assert done.stderr.endswith(":\nt4: no rule for 'Foo'.\nh100: no linker\n")
    assert calls == []


def test_tuning_is_for_seconds_and_shows_what_it_gained(calls: Calls) -> None:
    """compile, profile and fit hand the seconds on; the kernels that beat their rule are shown."""
    compiled = run_line("compile net.onnx --tune 30 --store s.sqlite --out b")
    profiled = run_line("profile net.onnx --tune 2.5")
    assert run_line("fit net.onnx --data x.npz --tune 60").exit_code == 0
    for done in (compiled, profiled):
        assert re.search(r"conv2d +fp32 +1x7x7x64 +rows 6, .* 2 +1 +2\.00", done.stdout)
    assert [options.get("tune") for _, _, options in calls[:2]] == [30, 2.5]
    assert calls[0][2]["store"] == "s.sqlite"
    assert calls[2][1][0].tune == 60


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "soon"])
def test_tuning_for_no_time_is_wrong_use(calls: Calls, seconds: str) -> None:
    """Seconds must be a positive number."""
    assert run("compile", "net.onnx", "--out", "b", "--tune", seconds).exit_code == 2
    assert calls == []


def test_targets_are_listed_added_and_shown(tmp_path: Path) -> None:
    """A target of the user's file is found by name afterwards."""
    mine = tmp_path / "mine.toml"
    shown = run("targets", "show", "rpi4", "--json", str(tmp_path / "rpi4.json"))
    assert shown.exit_code == 0
    facts = json.loads((tmp_path / "rpi4.json").read_text()) | {"cores": 8}
    del facts["name"]
    stated = [f"{k} = {json.dumps(v)}" for k, v in facts.items() if v is not None]
    mine.write_text("\n".join(("[board]", *stated)))
    assert run("targets", "add", str(mine)).exit_code == 0
    run("targets", "list", "--json", str(tmp_path / "all.json"))
    listed = {target["name"]: target for target in json.loads((tmp_path / "all.json").read_text())}
    assert listed["board"]["cores"] == 8
    assert "local" in listed
    assert listed["h100"]["gpu"]["arch"] == "sm_90"


def test_a_target_is_added_that_is_like_another() -> None:
    """--like takes the rest from another target, --set says what differs."""
    assert run_line("targets add fast --like pixel4-gpu --set gpu.compute_units=4").exit_code == 0
    shown = run_line("targets show fast").stdout
    assert re.search(r"gpu\.compute_units +4\n", re.sub(" +\n", "\n", shown))
    assert re.search(r"source +like pixel4-gpu", shown)
    listed = run_line("targets list").stdout
    assert re.search(r"fast +opencl +--device +fp32 fp16 +Adreno 640", listed)
    assert re.search(r"local +cpu +here +fp32", listed)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("targets add fast", "or say what the new target is like: millifit targets add fast"),
        ("targets add fast --set cores=4", "Give --like TARGET, too"),
        ("targets add fast --like rpi --set cores=4", "no target 'rpi'. Did you mean rpi"),
        ("targets add fast --like rpi4 --set cores", "--set cores: write KEY=VALUE"),
        ("targets add fast --like rpi4 --set cores=0", "'cores': must be 1 or more"),
        ("targets add rpi5 --like rpi4", "a target 'rpi5' exists"),
        ("targets list --file none.toml", "does not exist"),
    ],
)
def test_a_target_that_cannot_be_added(line: str, words: str) -> None:
    """Wrong use says what to write instead."""
    done = run_line(line)
    assert (done.exit_code, words in done.stderr) == (2, True)


def test_doctor_names_every_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is missing is named with its remedy, and doctor then fails."""
    lacking = {"check": "C++ compiler", "state": "missing", "detail": "none", "remedy": "get g++"}
    monkeypatch.setattr("millifit.doctor.examine", lambda: [lacking])
    done = run("doctor", "--json", str(tmp_path / "d.json"))
    assert done.exit_code == 1
    assert "C++ compiler: get g++" in done.stdout
    assert json.loads((tmp_path / "d.json").read_text()) == [lacking]


def test_report_writes_page_csv_and_json(result: dict[str, Any], tmp_path: Path) -> None:
    """One verb writes all three from a run folder."""
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = run(
        "report", str(tmp_path), "--csv", f"{tmp_path}/t.csv", "--json", f"{tmp_path}/r.json"
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == len(result["trials"]) + 1
    assert json.loads((tmp_path / "r.json").read_text()) == result


def test_report_of_a_damaged_run_writes_nothing(tmp_path: Path) -> None:
    """A result without its keys is refused, and no page appears."""
    (tmp_path / "result.json").write_text('{"schema": 1}')
    done = run("report", str(tmp_path))
    assert done.exit_code == 1
    assert "model: field required" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_run_hands_its_options_on(calls: Calls) -> None:
    """A bundle runs on a file, into a file, under a key."""
    done = run("run", "b", "--input", "x.npy", "--output", "y.npy", "--public-key", "pub.pem")
    assert done.exit_code == 0, done.output
    ((name, given, options),) = calls
    assert (name, given) == ("run", (Path("b"),))
    del options["progress"]
    assert options == {
        "input_file": Path("x.npy"), "output_file": Path("y.npy"), "public_key": Path("pub.pem"),
    }  # fmt: skip


def test_unwritable_json_is_an_error(calls: Calls, tmp_path: Path) -> None:
    """--json below a file fails with its name."""
    (tmp_path / "file").write_text("")
    done = run("predict", "net.onnx", "--json", str(tmp_path / "file" / "p.json"))
    assert done.exit_code == 1
    assert "cannot write" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples_and_json(verb: str) -> None:
    """Every verb explains itself with examples, and writes JSON."""
    shown = run(verb, "--help").output
    assert f"millifit {verb}" in shown.split("Examples:")[1]
    leaves = {"targets": ["list"], "profile": ["measure"]}.get(verb, [])
    assert "--json" in run(verb, *leaves, "--help").output


def examples() -> list[str]:
    """Every command in a help text, in the README and in the docs."""
    texts = []
    for command in _commands(typer.main.get_command(app)):
        texts += [line.strip() for line in (command.help or "").splitlines()]
    for page in PROSE:
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
            texts += [line.strip() for line in block.replace("\\\n", " ").splitlines()]
    lines = [line.removeprefix("$ ").removeprefix(".venv/bin/") for line in texts]
    return sorted({line.split(" #")[0].strip() for line in lines if line.startswith("millifit ")})


def _commands(command: Any) -> list[Any]:
    inner = getattr(command, "commands", {})
    return [command, *(found for one in inner.values() for found in _commands(one))]


@pytest.mark.parametrize("line", examples())
def test_documented_command_is_understood(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    """Every command shown to people is one that the command line knows, options included."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("millifit.doctor.examine", list)
    monkeypatch.setattr("millifit.targets.remote.serve.serve", lambda _settings: None)
    monkeypatch.setattr("millifit.targets.native.build", lambda *_, **__: tmp_path)
    done = run_line(line.removeprefix("millifit "))
    assert done.exit_code in (0, 1, 2)
    assert "Usage:" not in done.stderr
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_undocumented_option_is_not_understood(calls: Calls) -> None:
    """The test above would notice an option that does not exist."""
    assert "Usage:" in run("fit", "net.onnx", "--speed", "high").stderr


def test_help_is_quick_and_light() -> None:
    """--help loads neither torch, tvm, onnx nor plotly."""
    script = (
        "import sys; sys.argv = ['millifit', '--help']\n"
        "from millifit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'tvm', 'onnx', 'onnxruntime', 'plotly', 'sklearn', 'pandas', 'scipy'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_result_table_fits_80_columns(result: dict[str, Any]) -> None:
    """No line is longer than a narrow terminal, and nothing is coloured in a file."""
    result["model"] = "a_very_long_name_" * 10 + "[bold].onnx"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result_table(parse_result(result)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "ONNX Runtime int8" in "\n".join(lines)
    assert "\x1b" not in "\n".join(lines)


def test_bars_are_lines_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each stage is a line at its start and one at its end, markup untouched."""
    bars = Bars(Console(width=80))
    with bars.stage("profile [x]", 3) as advance:
        advance(3)
        with bars.stage("inner"):
            bars.note("a [bold] note")
    lines = [re.sub(r"\d+\.\d s", "T", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "profile [x] ...",
        "  inner ...",
        "a [bold] note",
        "  inner: T",
        "profile [x]: T",
    ]


def test_bars_close_when_work_fails() -> None:
    """A failure inside a stage leaves no live display behind."""
    bars = Bars(Console(force_terminal=True, file=io.StringIO()))
    with pytest.raises(ModelError), bars.stage("search"):
        raise ModelError("no")
    with bars.stage("again"):
        pass


def test_version_is_the_package_s() -> None:
    """--version prints what the package says."""
    assert run("--version").stdout == f"millifit {millifit.__version__}\n"


def test_emulated_devices_are_labelled(calls: Calls) -> None:
    """profile and verify say in the terminal that times of an emulator mean nothing."""
    for line in ("verify bundles/b --device pi:9391", "profile net.onnx --target rpi4"):
        shown = " ".join(run_line(line).stdout.split())
        assert "a board (aarch64, remote, emulated: its times mean nothing)" in shown
        assert "cores" not in shown
    assert "Emulated device" in run_line("predict net.onnx --target rpi4").stdout
