"""From rows to the figures that are promised, and whether each is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# Group of rows: what its geometric mean and its worst model may be at most.
_RATIO_BARS = {
    "fp32_1t": (0.80, 1.00),
    "fp32_2t": (0.85, 1.05),
    "int8_1t": (0.80, 1.05),
    "fastest_int_1t": (0.65, 0.95),
    "fastest_int_over_fp32": (0.60, 0.90),
}
_COMPILE_S = {"MobileNetV2": 15.0, "ResNet-50": 40.0}
_WORKSPACE = 1.0


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """The geometric mean and the worst model of every group; None where a group has no row.

    A group's ratio of a model is ours over ONNX Runtime's, on as many threads; in
    ``fastest_int_over_fp32`` it is ours over ours, of convolutional models on one thread. Rows with
    an error or a wrong network count in none of them: the bars name them. ``int_own_quantizer`` is
    ours over ONNX Runtime with the network as its own tool quantizes it, on all threads.
    """
    found: dict[str, Any] = {}
    for group in _RATIO_BARS:
        ratios = _ratios(rows, group)
        worst = max(ratios, key=lambda model: ratios[model]) if ratios else None
        found[f"{group}_geomean"] = _geomean(ratios.values())
        found[f"{group}_worst"] = ratios[worst] if worst else None
        found[f"{group}_worst_model"] = worst
    others = [r["own_quantizer"]["ratio"] for r in rows if _counts(r) and "own_quantizer" in r]
    found["int_own_quantizer_geomean"] = _geomean(others)
    found["int_own_quantizer_worst"] = max(others, default=None)
    return found


def bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What has to be reached: name, value, bar, and whether it is met.

    `met` is None where no row says anything of it. A bar of a group is missed where a model of the
    group has no figure.
    """
    summary, found = summarize(rows), []
    for group, (mean, worst) in _RATIO_BARS.items():
        failed = _failed(rows, group)
        for name, bar in (("geomean", mean), ("worst", worst)):
            value = summary[f"{group}_{name}"]
            found.append(_bar(f"{group} {name}", value, bar, failed))
    for model, bar in _COMPILE_S.items():
        seconds = [r["compile_s"] for r in rows if r["model"] == model and not r["error"]]
        failed = [r["model"] for r in rows if r["model"] == model and r["error"]][:1]
        found.append(_bar(f"compile {model}, seconds", max(seconds, default=None), bar, failed))
    used = [r["workspace_bytes"] / r["arena_peak_bytes"] for r in rows if not r["error"]]
    found.append(
        _bar("workspace over ONNX Runtime's arena, worst", max(used, default=None), _WORKSPACE, [])
    )
    return found


def _bar(name: str, value: float | None, bar: float, failed: Sequence[str]) -> dict[str, Any]:
    met = (
        None if value is None and not failed else not failed and value is not None and value <= bar
    )
    return {"name": name, "value": value, "bar": bar, "met": met, "without_figure": list(failed)}


def losing(rows: Sequence[Row]) -> list[Row]:
    """The rows above the geometric mean that their group has to reach, the worst first."""
    limits = {("fp32", 1): 0.80, ("fp32", 2): 0.85, ("int8", 1): 0.80, ("w7a8", 1): 0.65}
    good = [r for r in rows if not r["error"]]
    above = [r for r in good if r["ratio"] > limits.get((r["precision"], r["threads"]), math.inf)]
    return sorted(above, key=lambda r: -r["ratio"])


def _counts(row: Row) -> bool:
    return not row["error"] and bool(row["correct"])


def _in_group(row: Row, group: str) -> bool:
    precision, threads = row["precision"], row["threads"]
    match group:
        case "fp32_1t" | "fp32_2t":
            return bool(precision == "fp32" and threads == int(group[5]))
        case "int8_1t":
            return bool(precision == "int8" and threads == 1)
        case "fastest_int_1t":
            return precision in ("int8", "w7a8") and threads == 1
        case _:
            return precision in ("int8", "w7a8") and threads == 1 and bool(row["convolutional"])


def _ratios(rows: Iterable[Row], group: str) -> dict[str, float]:
    """A ratio for every model; of several rows the smallest."""
    value: Callable[[Row], float | None] = lambda row: (  # noqa: E731 - one of two columns
        row.get("over_fp32", {}).get("ratio") if group == "fastest_int_over_fp32" else row["ratio"]
    )
    found: dict[str, float] = {}
    for row in rows:
        if _in_group(row, group) and _counts(row) and (ratio := value(row)) is not None:
            found[row["model"]] = min(ratio, found.get(row["model"], math.inf))
    return found


def _failed(rows: Sequence[Row], group: str) -> list[str]:
    """Models of a group of which no row counts."""
    models = dict.fromkeys(row["model"] for row in rows if _in_group(row, group))
    return [model for model in models if model not in _ratios(rows, group)]


def _geomean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None
