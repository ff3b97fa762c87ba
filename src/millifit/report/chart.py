"""A chart as a value, and what all charts have in common.

Figures are plotly's plain dictionaries. Colours are names such as "--baseline": the page replaces
them by those of its light or dark style. Times are in milliseconds, because a person reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from millifit.report.result import Interval, Result

Plain = dict[str, Any]

LONGEST_LABEL = 30
EMULATED = "Emulated device: it computes as the real one does, but its times mean nothing."


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure, what it says in words, and its numbers as a table."""

    key: str
    title: str
    text: str
    traces: list[Plain]
    layout: Plain
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def ms(seconds: float) -> float:
    """Seconds as milliseconds."""
    return seconds * 1e3


def digits(value: float, significant: int = 4) -> str:
    """A number without exponents: (8.7, 3) -> '8.70', (1234.5, 3) -> '1234', -0.25 -> '−0.2500'."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(9, max(0, significant - 1 - magnitude))
    return f"{value:.{decimals}f}".replace("-", "−")


def bound(result: Result, digits: int = 4) -> str:
    """What the budget was judged by: '7.20 ms', or '49.8 % of the baseline'."""
    if result.relative_bound is not None:
        return f"{100 * result.relative_bound:.1f} % of the baseline"
    return f"{milliseconds(result.compressed.latency_s.high, digits)} ms"


def milliseconds(seconds: float, significant: int = 4) -> str:
    """Seconds as text in milliseconds."""
    return digits(ms(seconds), significant)


def change(value: float, significant: int = 3) -> str:
    """A difference with its sign: '+1.20', '−0.350'."""
    return ("+" if value > 0 else "") + digits(value, significant)


def span(value: Interval) -> str:
    """An interval in milliseconds: '1.230–1.310'."""
    return f"{milliseconds(value.low)}–{milliseconds(value.high)}"


def percent(fraction: float | None) -> str:
    """A fraction as points: 0.7938 -> '79.4'; an unknown one as a dash."""
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def megabytes(size_bytes: int) -> str:
    """Bytes as megabytes of 10^6."""
    return digits(size_bytes / 1e6, 3)


def fold(name: str, longest: int = LONGEST_LABEL) -> str:
    """A name for a chart: shortened in the middle, safe in plotly's small HTML."""
    if len(name) > longest:
        half = (longest - 1) // 2
        name = f"{name[: longest - 1 - half]}…{name[-half:]}"
    return escape(name)


def errors(intervals: Sequence[Interval], *, thickness: float = 1.5) -> Plain:
    """Whiskers from `low` to `high` around the medians."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [ms(value.high - value.median) for value in intervals],
        "arrayminus": [ms(value.median - value.low) for value in intervals],
        "thickness": thickness,
        "width": 4,
        "color": "--whisker",
    }


def layout(x: str, y: str, *, height: int) -> Plain:
    """Two titled axes and a legend above the plot."""
    axis = {"automargin": True, "zeroline": False, "gridcolor": "--grid", "linecolor": "--line"}
    return {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 40, "b": 8},
        "xaxis": axis | {"title": {"text": x}},
        "yaxis": axis | {"title": {"text": y}},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
    }


def rows_axis(labels: Sequence[str]) -> Plain:
    """A y axis whose row i is called labels[i], from the top; names may repeat."""
    positions = list(range(len(labels)))
    return {
        "tickmode": "array",
        "tickvals": positions,
        "ticktext": list(labels),
        "range": [len(labels) - 0.4, -0.6],
        "showgrid": False,
    }


def limits(
    *,
    latency_s: float | None,
    named_at: Literal["top", "bottom"] = "top",
    y: float | None = None,
    y_text: str = "",
) -> Plain:
    """Dashed lines at the latency budget and at `y`, with their names."""
    lines: list[Plain] = []
    names: list[Plain] = []
    style = {"type": "line", "line": {"color": "--limit", "width": 1.5, "dash": "dash"}}
    text = {"showarrow": False, "font": {"color": "--limit"}}
    if latency_s is not None:
        at = ms(latency_s)
        lines.append(style | {"xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1})
        place: Plain = {"x": at, "xref": "x", "yref": "paper", "yanchor": "bottom"}
        place |= {"y": 1} if named_at == "top" else {"y": 0, "xanchor": "left", "xshift": 4}
        names.append(text | place | {"text": f"budget {digits(at, 3)} ms"})
    if y is not None:
        lines.append(style | {"xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": y, "y1": y})
        place = {"x": 1, "y": y, "xref": "paper", "yref": "y", "xanchor": "right"}
        place |= {"yanchor": "bottom"}
        names.append(text | place | {"text": y_text})
    return {"shapes": lines, "annotations": names}


def caveats(result: Result) -> list[str]:
    """What a reader must know before any number."""
    found = []
    if result.emulated:
        found.append(EMULATED)
    if result.reference.missing:
        found.append(f"ONNX Runtime was not timed: {result.reference.missing}.")
    return found


def reference_intervals(result: Result) -> list[tuple[str, Interval | None]]:
    """ONNX Runtime's latencies; one without an interval has zero width."""
    given = result.reference.intervals
    where = " on the CPU" if result.device is not None and result.device.gpu else ""
    pairs = (
        (f"ONNX Runtime fp32{where}", given.onnxruntime_fp32, result.reference.onnxruntime_fp32_s),
        (f"ONNX Runtime int8{where}", given.onnxruntime_int8, result.reference.onnxruntime_int8_s),
    )
    found: list[tuple[str, Interval | None]] = []
    for name, interval, seconds in pairs:
        if interval is None and seconds is not None:
            interval = Interval(median=seconds, low=seconds, high=seconds)
        found.append((name, interval))
    return found
