"""Summary and bars of the comparison with ONNX Runtime, from made-up rows."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.comparison.reference import Profile, seconds_by_node
from benchmarks.comparison.summary import bars, losing, summarize
from millifit.targets.network import Network, Node, TensorType


def row(model: str, precision: str, threads: int, ratio: float, **more: Any) -> dict[str, Any]:
    figures = {
        "ratio": ratio, "correct": True, "error": None, "convolutional": True, "compile_s": 3.0,
        "workspace_bytes": 90, "arena_peak_bytes": 100,
    }  # fmt: skip
    return {"model": model, "precision": precision, "threads": threads, **figures, **more}


def over(ratio: float) -> dict[str, Any]:
    return {"over_fp32": {"ratio": ratio}}


def found(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return {bar["name"]: bar for bar in bars(rows)}[name]


def test_geometric_mean_and_worst_model() -> None:
    """0.5 and 0.9 have the geometric mean sqrt(0.45); the slower one is named."""
    summary = summarize([row("a", "fp32", 1, 0.5), row("b", "fp32", 1, 0.9)])
    assert summary["fp32_1t_geomean"] == pytest.approx(0.45**0.5)
    assert summary["fp32_1t_worst"] == 0.9
    assert summary["fp32_1t_worst_model"] == "b"
    assert summary["fp32_2t_geomean"] is None


def test_fastest_integers_are_the_faster_of_two() -> None:
    """w7a8 counts where it beats int8, on one thread; int8's own group does not see it."""
    rows = [
        row("a", "int8", 1, 0.8, **over(0.7)), row("a", "w7a8", 1, 0.5, **over(0.4)),
        row("a", "int8", 2, 0.1),
    ]  # fmt: skip
    summary = summarize(rows)
    assert summary["int8_1t_geomean"] == pytest.approx(0.8)
    assert summary["fastest_int_1t_geomean"] == pytest.approx(0.5)
    assert summary["fastest_int_over_fp32_geomean"] == pytest.approx(0.4)


def test_only_convolutional_models_have_to_gain_on_fp32() -> None:
    """Integers over fp32 leave transformers out."""
    rows = [row("a", "int8", 1, 0.8, **over(0.5))]
    rows += [row("bert", "int8", 1, 0.8, convolutional=False, **over(2.0))]
    assert summarize(rows)["fastest_int_over_fp32_geomean"] == pytest.approx(0.5)


def test_bars_are_those_promised() -> None:
    """At a bar it is met, above it is missed, and where nothing was measured nothing is said."""
    rows = [row("a", "fp32", 1, 0.80), row("a", "fp32", 2, 0.86)]
    assert found(rows, "fp32_1t geomean")["met"] is True
    assert found(rows, "fp32_2t geomean")["met"] is False
    assert found(rows, "fp32_2t worst")["met"] is True
    assert found(rows, "int8_1t geomean")["met"] is None


@pytest.mark.parametrize("broken", [{"error": "CompileError: no"}, {"correct": False}])
def test_a_model_without_figure_misses_the_bars(broken: dict[str, Any]) -> None:
    """Neither an error nor a wrong network improves a mean: the bar is missed and says why."""
    bar = found([row("a", "fp32", 1, 0.5), row("b", "fp32", 1, 0.1, **broken)], "fp32_1t geomean")
    assert bar["met"] is False
    assert bar["value"] == pytest.approx(0.5)
    assert bar["without_figure"] == ["b"]


def test_compile_time_and_memory_have_bars() -> None:
    """15 s for MobileNetV2, 40 s for ResNet-50, and no more memory than ONNX Runtime's arena."""
    rows = [row("MobileNetV2", "fp32", 1, 0.5, compile_s=16.0), row("ResNet-50", "fp32", 1, 0.5)]
    assert found(rows, "compile MobileNetV2, seconds")["met"] is False
    assert found(rows, "compile ResNet-50, seconds")["met"] is True
    assert found(rows, "workspace over ONNX Runtime's arena, worst")["met"] is True
    rows[0]["workspace_bytes"] = 101
    assert found(rows, "workspace over ONNX Runtime's arena, worst")["met"] is False


def test_losing_models_are_named_worst_first() -> None:
    """Kernels are shown of the models above the mean that their group has to reach."""
    rows = [row("a", "fp32", 1, 0.9), row("b", "fp32", 1, 1.2), row("c", "fp32", 1, 0.7)]
    assert [each["model"] for each in losing(rows)] == ["b", "a"]


def test_nodes_of_onnxruntime_are_found_by_their_names() -> None:
    """By the node's name or its output's, less what graph transformations add."""
    kind = TensorType(shape=(1,), dtype="float32")
    nodes = (
        Node(name="conv", op="Conv", inputs=("x",), outputs=("c",)),
        Node(name="act", op="Relu", inputs=("c",), outputs=("r",)),
    )
    network = Network(
        name="n", inputs=("x",), outputs=("r",), nodes=nodes, constants={}, opset=18,
        types={"x": kind, "c": kind, "r": kind},
    )  # fmt: skip
    seconds = {
        "r_nchwc": 1.0,
        "conv_token_7": 2.0,
        "conv/MatMulAddFusion": 3.0,
        "ReorderInput": 9.0,
    }
    profile = Profile(arena_peak_bytes=0, arena_held_bytes=0, seconds=seconds)
    assert seconds_by_node(profile, network) == {"act": 1.0, "conv": 5.0}
