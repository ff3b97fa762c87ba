"""A small line chart as SVG: what the learning curves in the documentation are drawn with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 480, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 456, 52, 268
_COLOURS = ("#0f7b6c", "#d9a566", "#687583")
_STYLE = (
    "text { font-size: 12px; fill: #5a6675; } .title { font-size: 15px; font-weight: 650; "
    "fill: #17202e; } .grid { stroke: #e3e8ee; } .axis { stroke: #b9c1cc; } "
    ".line { fill: none; stroke-width: 2.2; }"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """Lines of (samples, share) points by name, ours first; shares are from 0 to 1."""

    title: str
    y: str
    lines: Mapping[str, Sequence[tuple[int, float]]]


def svg(chart: LineChart) -> str:
    """The chart as the text of an SVG file; samples are on a logarithmic axis."""
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-labelledby="t" font-family="{font}">'
        ),
        f'<title id="t">{escape(chart.title)}: {escape(chart.y)} by number of samples</title>',
        f"<style>{_STYLE}</style>",
        f'<rect fill="#ffffff" width="{_WIDTH}" height="{_HEIGHT}" rx="12"/>',
        f'<text class="title" x="{_LEFT}" y="24">{escape(chart.title)}</text>',
        *_axes(chart),
        *_lines(chart),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _samples(chart: LineChart) -> list[int]:
    return sorted({samples for line in chart.lines.values() for samples, _ in line})


def _x(chart: LineChart, samples: int) -> float:
    known = _samples(chart)
    span = math.log(known[-1] / known[0]) or 1.0
    return _LEFT + (_RIGHT - _LEFT) * math.log(samples / known[0]) / span


def _y(chart: LineChart, share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * (share - _lowest(chart)) / (1 - _lowest(chart))


def _lowest(chart: LineChart) -> float:
    """The tenth below all points."""
    least = min(share for line in chart.lines.values() for _, share in line)
    return max(0.0, min(0.9, math.floor(least * 10) / 10))


def _axes(chart: LineChart) -> Iterator[str]:
    steps = round((1 - _lowest(chart)) * 10)
    for step in range(0, steps + 1, 1 if steps <= 5 else 2):
        share = _lowest(chart) + step / 10
        y = _y(chart, share)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>'
    for samples in _samples(chart):
        x = _x(chart, samples)
        yield f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{samples:,}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_BOTTOM}H{_RIGHT}"/>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle}" y="{_BOTTOM + 38}" text-anchor="middle">samples measured</text>'
    yield f'<text x="{_LEFT}" y="42">{escape(chart.y)}</text>'


def _lines(chart: LineChart) -> Iterator[str]:
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(_x(chart, samples), _y(chart, share)) for samples, share in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path class="line" stroke="{colour}" d="M{path}"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
        y = _BOTTOM - 12 - 18 * (len(chart.lines) - 1 - number)
        yield f'<path class="line" stroke="{colour}" d="M{_RIGHT - 120} {y - 4}h18"/>'
        yield f'<text x="{_RIGHT - 96}" y="{y}">{escape(name)}</text>'
