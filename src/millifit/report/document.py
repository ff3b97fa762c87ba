"""A page that needs nothing but a browser: charts, tables, and the script that draws them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from millifit.report.chart import Chart

# Neither a script of someone else's nor a request leaves the page.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def document(title: str, header: str, sections: Iterable[str], charts: Sequence[Chart]) -> str:
    """The whole page as text; `header` and `sections` are HTML, `title` is plain text."""
    figures = [{"key": c.key, "traces": c.traces, "layout": c.layout} for c in charts]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)} – millifit</title>
<link rel="icon" href="data:,">
<style>{_asset("page.css")}</style>
</head>
<body>
{header}
<main>
<noscript>The charts need JavaScript; the tables below them have the same numbers.</noscript>
{"".join(sections)}
</main>
<footer>Written by millifit. This page is complete in itself and loads nothing.</footer>
<script type="application/json" id="figures">{_json(figures)}</script>
<script>{_plotly()}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def chart_section(chart: Chart) -> str:
    """A chart with its title, what it says, and its numbers, as HTML."""
    numbers = table(chart.columns, chart.rows, caption=f"{chart.title}, in numbers")
    spoken = f"{chart.title}: the table below has the numbers"
    return f"""<section aria-labelledby="{chart.key}-title">
<h2 id="{chart.key}-title">{chart.title}</h2>
<p class="soft">{escape(chart.text)}</p>
<div class="chart" id="{chart.key}" role="img" aria-label="{spoken}"></div>
<details><summary>The numbers as a table</summary>
<div class="scroll" tabindex="0">{numbers}</div></details>
</section>"""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table with a header row and a header column; columns of numbers are set right."""
    body = list(rows)
    numeric = [_is_numeric([row[i] for row in body]) for i in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_number(numeric[i])}>{escape(name)}</th>'
        for i, name in enumerate(columns)
    )
    lines = "".join(f"<tr>{_cells(row, numeric)}</tr>" for row in body)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _cells(row: Sequence[str], numeric: Sequence[bool]) -> str:
    first = f'<th scope="row">{escape(row[0])}</th>'
    rest = zip(row[1:], numeric[1:], strict=True)
    return first + "".join(f"<td{_number(right)}>{escape(cell)}</td>" for cell, right in rest)


def _number(right: bool) -> str:
    return ' class="number"' if right else ""


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell not in ("", "–")]
    return bool(filled) and all(set(cell) <= set("0123456789.+−–×") for cell in filled)


def _json(value: object) -> str:
    """JSON that may stand inside a script element: no '<' can close it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("millifit.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
