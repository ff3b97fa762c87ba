"""A row of the result: one figure of one device, beside its baseline and its bar."""

from __future__ import annotations

from typing import Any, Literal

Row = dict[str, Any]
Metric = Literal[
    "within_5", "within_10", "mape", "spearman", "kendall", "answered_right", "coverage_95",
    "predictions_per_s", "network_s",
]  # fmt: skip
Bar = float | tuple[float, float]  # a limit, or a closed range

_LESS_IS_BETTER: tuple[Metric, ...] = ("mape", "network_s")


def row(
    task: str,
    device: str,
    metric: Metric,
    value: float,
    *,
    baseline: float | None = None,
    bar: Bar | None = None,
    **facts: Any,
) -> Row:
    """One figure. Without a bar it is for information, and `met` is None; `facts` go along."""
    return {
        "task": task,
        "device": device,
        "metric": metric,
        "value": float(value),
        "baseline": baseline,
        "bar": bar,
        "met": None if bar is None else _met(metric, float(value), bar),
        **facts,
    }


def _met(metric: Metric, value: float, bar: Bar) -> bool:
    if isinstance(bar, tuple):
        return bar[0] <= value <= bar[1]
    return value <= bar if metric in _LESS_IS_BETTER else value >= bar
