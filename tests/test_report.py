"""The report: one page that draws everything, whatever names a model has."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from millifit.console import result_table
from millifit.errors import RunFolderError
from millifit.report import export_csv, export_json, parse_result, read_plain, write_report
from millifit.report.chart import change, digits, fold, reference_intervals
from millifit.report.kernel_charts import TOP_KERNELS, kernel_times, layer_choices, waterfall
from millifit.report.network_charts import pareto, pareto_front, prediction
from millifit.report.page import render_page, verdict_lines

CHARTS = ["latency", "pareto", "waterfall", "kernels", "layers", "prediction"]
Browse = Callable[..., tuple[str, str]]


def without_scripts(page: str) -> str:
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)


def test_browser_draws_every_chart(result: dict[str, Any], tmp_path: Path, browse: Browse) -> None:
    """Chromium draws all six charts and its console has nothing to say."""
    page = write_report(result, tmp_path / "report.html")
    dom, console = browse(page)
    assert console == ""
    assert f'data-drawn="{len(CHARTS)}"' in dom
    drawn = re.findall(
        r'<div class="chart[^"]*" id="(\w+)"[^>]*>(?:(?!<section).)*?main-svg', dom, re.DOTALL
    )
    assert drawn == CHARTS
    assert dom.count("<th scope=") > 100


def test_browser_shows_hostile_names_as_text(
    result: dict[str, Any], tmp_path: Path, browse: Browse
) -> None:
    """Names that look like HTML, scripts or colours are text everywhere, and nothing runs."""
    evil = '</script><script>console.error("ran")</script><img src=x onerror=console.error(1)>'
    result["model"] = evil
    result["plan"][0]["layer"] = evil
    result["kernels"]["baseline"][0]["name"] = evil
    result["trials"][0]["note"] = evil
    result["environment"][evil] = evil
    dom, console = browse(write_report(result, tmp_path / "evil.html"))
    assert console == ""
    assert f'data-drawn="{len(CHARTS)}"' in dom
    assert "<img" not in without_scripts(dom)


def test_browser_draws_without_accuracy_or_int8(
    result: dict[str, Any], tmp_path: Path, browse: Browse
) -> None:
    """Without labels, ONNX Runtime int8, an accuracy limit or stages the page is still whole."""
    result["baseline"]["accuracy"] = result["compressed"]["accuracy"] = None
    for trial in result["trials"]:
        trial["accuracy"] = None
    result["reference"] = {"onnxruntime_fp32_s": 0.01, "onnxruntime_int8_s": None}
    result["budget"] |= {"latency_s": None, "max_accuracy_drop": None}
    result["stages"], result["environment"] = [], {}
    dom, console = browse(write_report(result, tmp_path / "bare.html"))
    assert console == ""
    assert f'data-drawn="{len(CHARTS)}"' in dom
    assert "Size, MB" in dom


def test_an_emulated_device_is_labelled(result: dict[str, Any]) -> None:
    """Page and terminal say first that times mean nothing, and why ONNX Runtime is missing."""
    result["device"] = {
        "cpu": "paper", "machine": "aarch64", "gpu": None, "reach": "remote", "emulated": True,
    }  # fmt: skip
    result["reference"] = {
        "onnxruntime_fp32_s": None, "onnxruntime_int8_s": None, "missing": "only bundles run there",
    }  # fmt: skip
    lines = [
        "Emulated device: it computes as the real one does, but its times mean nothing.",
        "ONNX Runtime was not timed: only bundles run there.",
    ]
    page = render_page(parse_result(result))
    assert [f'<p class="caveat">{line}</p>' in page for line in lines] == [True, True]
    assert page.index("caveat", page.index("<h1>")) < page.index("verdict", page.index("<h1>"))
    console = Console(width=120, file=io.StringIO())
    console.print(result_table(parse_result(result)))
    assert all(line in console.file.getvalue() for line in lines)
    assert "ONNX Runtime fp32" not in console.file.getvalue()


def test_the_cpu_beside_a_gpu_is_named(result: dict[str, Any]) -> None:
    """ONNX Runtime's times are the processor's where the target is a GPU."""
    result["device"] = {
        "cpu": "some", "machine": "x86_64", "gpu": "pocl", "reach": "local", "emulated": False,
    }  # fmt: skip
    assert [name for name, _ in reference_intervals(parse_result(result))] == [
        "ONNX Runtime fp32 on the CPU", "ONNX Runtime int8 on the CPU",
    ]  # fmt: skip


def test_page_loads_nothing(result: dict[str, Any]) -> None:
    """Outside plotly's own source no address appears, and the policy forbids requests."""
    page = render_page(parse_result(result))
    assert not re.search(r"(src|href)=\"?(https?:)?//", without_scripts(page))
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1


def test_script_cannot_be_closed_from_data(result: dict[str, Any]) -> None:
    """The figures' JSON has no '<', so that no name can end its script element."""
    result["plan"][0]["layer"] = "</script>"
    page = render_page(parse_result(result))
    figures = page.split('id="figures">')[1].split("</script>")[0]
    assert "<" not in figures
    assert len(json.loads(figures)) == len(CHARTS)


def test_page_without_search_or_plan(result: dict[str, Any]) -> None:
    """Charts that have no numbers are left out, the others stay."""
    result |= {"trials": [], "plan": [], "kernels": {"baseline": [], "compressed": []}}
    page = render_page(parse_result(result))
    assert re.findall(r'class="chart" id="(\w+)"', page) == ["latency", "prediction"]


def test_verdict_says_what_was_asked_and_found(result: dict[str, Any]) -> None:
    """Budget, bound and accuracy stand in the verdict, and so does a faster ONNX Runtime."""
    result["budget"] |= {"text": "8ms", "latency_s": 0.008, "max_accuracy_drop": 0.01}
    result["compressed"]["latency_s"] = {"median": 0.007, "low": 0.0068, "high": 0.0072, "n": 11}
    result["baseline"]["accuracy"], result["compressed"]["accuracy"] = 0.79, 0.785
    result["reference"] = {"onnxruntime_fp32_s": 0.01, "onnxruntime_int8_s": 0.0065}
    assert verdict_lines(parse_result(result)) == [
        "Asked for 8.00 ms (8ms); measured 7.00 ms, with 95 % confidence at most 7.20 ms.",
        "Accuracy changed by −0.5 points; at most 1.0 may be lost.",
        "ONNX Runtime int8 is faster on this machine: 6.50 ms.",
    ]


def test_missed_budget_is_not_dressed_up(result: dict[str, Any]) -> None:
    """A run that missed its budget says so in the header."""
    page = render_page(parse_result(result | {"met": False}))
    assert "Not within the budget" in page
    assert 'class="verdict missed"' in page


def test_pareto_tells_measured_from_predicted(result: dict[str, Any]) -> None:
    """Measured trials are filled dots of their own trace, predicted ones open."""
    parsed = parse_result(result)
    traces = {trace["name"]: trace for trace in pareto(parsed).traces}
    measured = sum(trial.latency_s is not None for trial in parsed.trials)
    assert len(traces["measured"]["x"]) == measured
    assert len(traces["predicted"]["x"]) == len(parsed.trials) - measured
    assert traces["measured"]["marker"]["symbol"] == "circle"
    assert traces["predicted"]["marker"]["symbol"] == "circle-open"


def test_pareto_front_keeps_what_nothing_beats(result: dict[str, Any]) -> None:
    """Of (1 ms, 70 %), (2 ms, 69 %), (2 ms, 75 %), (3 ms, 75 %) the first and third remain."""
    trials = []
    for index, (latency_s, accuracy) in enumerate(
        [(0.001, 0.70), (0.002, 0.69), (0.002, 0.75), (0.003, 0.75)]
    ):
        seconds = {"median": latency_s, "low": latency_s, "high": latency_s}
        changed = {"index": index, "latency_s": seconds, "accuracy": accuracy}
        trials.append(copy.deepcopy(result["trials"][0]) | changed)
    parsed = parse_result(result | {"trials": trials}).trials
    front = pareto_front(parsed, gain=lambda trial: trial.accuracy or 0.0)
    assert [trial.index for trial in front] == [0, 2]


def test_waterfall_ends_at_the_compressed_sum(result: dict[str, Any]) -> None:
    """Baseline plus all steps is the sum of the compressed network's kernels."""
    chart = waterfall(parse_result(result))
    (trace,) = chart.traces
    after_ms = 1e3 * sum(kernel["seconds"] for kernel in result["kernels"]["compressed"])
    assert sum(trace["x"]) == pytest.approx(after_ms)
    assert trace["measure"] == ["absolute", *["relative"] * (TOP_KERNELS + 1), "total"]
    assert "input/quantize" in [row[0] for row in chart.rows]


def test_kernels_of_one_name_are_added_up(result: dict[str, Any]) -> None:
    """Two kernels of the same node share a bar."""
    kernel = result["kernels"]["baseline"][0] | {"seconds": 1.0, "low_s": 0.9, "high_s": 1.1}
    result["kernels"] = {"baseline": [kernel, kernel], "compressed": []}
    before, after = kernel_times(parse_result(result)).traces
    assert before["x"] == [2000.0]
    assert after["x"] == [0.0]


def test_layers_show_bits_and_channels(result: dict[str, Any]) -> None:
    """Every layer is in exactly one precision's bars, and its bits follow from it."""
    chart = layer_choices(parse_result(result))
    shown = [x for trace in chart.traces if "channels, " in trace["name"] for x in trace["x"]]
    assert sorted(shown) == list(range(len(result["plan"])))
    bits = next(trace["y"] for trace in chart.traces if trace["name"] == "bits")
    assert bits == [8 if layer["precision"] == "int8" else 32 for layer in result["plan"]]


def test_prediction_pairs_measured_networks_only(result: dict[str, Any]) -> None:
    """Trials that were only predicted have no place in predicted against measured."""
    rows = prediction(parse_result(result)).rows
    measured = [f"trial {t['index']}" for t in result["trials"] if t["latency_s"]]
    assert [row[0] for row in rows] == [*measured, "compressed"]


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda r: r.pop("baseline"), "baseline: field required"),
        (lambda r: r["compressed"]["latency_s"].pop("high"), "compressed.latency_s.high"),
        (lambda r: r.update(schema=2), "schema is 2"),
        (lambda r: r.pop("schema"), "schema is None"),
        (lambda r: r["baseline"].update(accuracy=79.4), "baseline.accuracy"),
        (lambda r: r["trials"][3].update(latency_s=float("nan")), "trials.3.latency_s"),
        (lambda r: r["predicted_s"].update(low=9.0), "low <= median <= high"),
    ],
)
def test_damaged_result_names_the_key(
    result: dict[str, Any], tmp_path: Path, break_it: Callable[[Any], object], named: str
) -> None:
    """A missing or wrong key is named, and no page is written."""
    break_it(result)
    with pytest.raises(RunFolderError, match=re.escape(named)):
        write_report(result, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "named"), [("", "not JSON"), ("[1]", "holds no result")])
def test_unreadable_result_is_named(tmp_path: Path, content: str, named: str) -> None:
    """An empty file or other JSON is refused with the file's name."""
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunFolderError, match=rf"result\.json.*{named}"):
        read_plain(tmp_path)


def test_missing_run_is_named(tmp_path: Path) -> None:
    """A run folder without a result is refused with what to do."""
    with pytest.raises(RunFolderError, match="Name a run folder that 'millifit fit' finished"):
        read_plain(tmp_path)


def test_csv_has_one_line_per_trial(result: dict[str, Any], tmp_path: Path) -> None:
    """Times are in seconds; what was not measured is empty."""
    path = export_csv(result, tmp_path / "trials.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == len(result["trials"])
    assert [row["measured_s"] != "" for row in rows] == [
        trial["latency_s"] is not None for trial in result["trials"]
    ]
    assert float(rows[3]["measured_s"]) == result["trials"][3]["latency_s"]["median"]


def test_json_reads_back_equal(result: dict[str, Any], tmp_path: Path) -> None:
    """The exported JSON is the result."""
    path = export_json(result, tmp_path / "result.json")
    assert read_plain(path) == result
    assert read_plain(tmp_path) == result


def test_unwritable_place_is_named(result: dict[str, Any], tmp_path: Path) -> None:
    """A report cannot be written below a file; the message says where."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=re.escape(str(tmp_path / "file" / "report.html"))):
        write_report(result, tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("value", "significant", "text"),
    [
        (8.7, 3, "8.70"),
        (1234.5, 3, "1234"),
        (0.01234, 2, "0.012"),
        (-0.25, 2, "−0.25"),
        (0, 3, "0.00"),
    ],
)
def test_digits_never_use_exponents(value: float, significant: int, text: str) -> None:
    """Numbers keep their significant digits and a real minus sign."""
    assert digits(value, significant) == text


def test_change_has_a_sign() -> None:
    """Differences are marked as such; nothing is neither plus nor minus."""
    assert [change(1.2, 2), change(-1.2, 2), change(0.0, 2)] == ["+1.2", "−1.2", "0.0"]


def test_fold_keeps_both_ends() -> None:
    """Long names lose their middle, and HTML in them is defused."""
    assert fold("features.12.conv.expand", 11) == "featu…xpand"
    assert fold("<b>") == "&lt;b&gt;"
