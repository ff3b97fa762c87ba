"""The report as one HTML page that needs nothing but a browser."""

from __future__ import annotations

from html import escape

from millifit.report.chart import (
    Chart,
    bound,
    caveats,
    megabytes,
    milliseconds,
    percent,
    reference_intervals,
    span,
)
from millifit.report.document import chart_section, document, table
from millifit.report.kernel_charts import kernel_times, layer_choices, waterfall
from millifit.report.network_charts import latency, pareto, prediction
from millifit.report.result import Interval, Result, Subject


def render_page(result: Result) -> str:
    """The whole page as text."""
    shown = _charts(result)
    return document(
        f"{result.model} on {result.target}",
        _header(result),
        [_summary(result), *map(chart_section, shown), _without_rule(result), _facts(result)],
        shown,
    )


def _charts(result: Result) -> list[Chart]:
    """All charts that the result has numbers for, in reading order."""
    found = [latency(result)]
    if result.trials:
        found.append(pareto(result))
    if result.kernels.baseline or result.kernels.compressed:
        found += [waterfall(result), kernel_times(result)]
    if result.plan:
        found.append(layer_choices(result))
    return [*found, prediction(result)]


def _header(result: Result) -> str:
    before, after = result.baseline, result.compressed
    verdict = "Within the budget" if result.met else "Not within the budget"
    facts = [
        (
            f"{milliseconds(after.latency_s.median, 3)} ms",
            f"was {milliseconds(before.latency_s.median, 3)} ms",
        ),
        (f"{_ratio(before.latency_s.median, after.latency_s.median)}×", "as fast as the baseline"),
        (f"{megabytes(after.size_bytes)} MB", f"was {megabytes(before.size_bytes)} MB"),
    ]
    if after.accuracy is not None:
        facts.append(
            (f"{percent(after.accuracy)} %", f"accuracy, was {percent(before.accuracy)} %")
        )
    items = "".join(
        f"<li><b>{escape(big)}</b><span>{escape(small)}</span></li>" for big, small in facts
    )
    threads = f"{result.runtime_threads} thread{'s' if result.runtime_threads != 1 else ''}"
    place = f"on {result.target} ({result.target_cpu}), {threads}, seed {result.seed}"
    banner = "".join(f'<p class="caveat">{escape(line)}</p>' for line in caveats(result))
    return f"""<header>
<h1>{escape(result.model)}</h1>
<p class="soft">{escape(place)}</p>
{banner}
<div class="verdict{"" if result.met else " missed"}"><strong>{verdict}</strong>
{"".join(f"<p>{escape(line)}</p>" for line in verdict_lines(result))}</div>
<ul class="facts">{items}</ul>
</header>"""


def verdict_lines(result: Result) -> list[str]:
    """What was asked for, what came out, and what a reader should know beside it."""
    measured = result.compressed.latency_s
    lines = []
    if result.budget.latency_s is not None:
        lines.append(
            f"Asked for {milliseconds(result.budget.latency_s, 3)} ms ({result.budget.text}); "
            f"measured {milliseconds(measured.median, 3)} ms, with 95 % confidence at most "
            f"{bound(result, 3)}."
        )
    lines += [f"Not kept: {problem}." for problem in result.problems]
    if result.accuracy_drop is not None:
        points = f"{0.0 - round(100 * result.accuracy_drop, 1):+.1f}".replace("-", "−")
        allowed = result.budget.max_accuracy_drop
        limit = (
            "no limit was set" if allowed is None else f"at most {100 * allowed:.1f} may be lost"
        )
        lines.append(f"Accuracy changed by {points} points; {limit}.")
    else:
        lines.append("Accuracy is unknown: the data has no labels.")
    lines += [
        f"{name} is faster on this machine: {milliseconds(value.median, 3)} ms."
        for name, value in reference_intervals(result)
        if value is not None and value.median < measured.median
    ]
    return lines


def _summary(result: Result) -> str:
    base = result.baseline.latency_s.median
    rows = [
        _subject_row("Baseline fp32", result.baseline, base),
        _subject_row("Compressed", result.compressed, base),
    ]
    rows += [
        (name, *_latency_cells(value, base), "", "", "")
        for name, value in reference_intervals(result)
        if value is not None
    ]
    columns = (
        "network", "median, ms", "95 % interval, ms", "of baseline", "accuracy, %", "size, MB",
        "peak memory, MB",
    )  # fmt: skip
    measured = table(columns, rows, caption="Measured interleaved in one run.")
    said = f"{milliseconds(result.predicted_s.median, 3)} ms ({span(result.predicted_s)})"
    note = f"The latency model had predicted {said} for the compressed network."
    return f"""<section><h2>Summary</h2>
<div class="scroll" tabindex="0">{measured}</div>
<p class="soft after">{note}</p></section>"""


def _subject_row(name: str, subject: Subject, base: float) -> tuple[str, ...]:
    return (
        name,
        *_latency_cells(subject.latency_s, base),
        percent(subject.accuracy),
        megabytes(subject.size_bytes),
        megabytes(subject.peak_memory_bytes),
    )


def _latency_cells(value: Interval, base: float) -> tuple[str, str, str]:
    return milliseconds(value.median), span(value), f"{_ratio(value.median, base)}×"


def _ratio(value: float, to: float) -> str:
    return f"{value / to:.2f}" if to else "–"


def _without_rule(result: Result) -> str:
    if not result.without_rule:
        return ""
    nodes = table(("node", "operator"), [(n.node, n.op) for n in result.without_rule])
    return f"""<section><h2>Operators without a schedule of their own</h2>
<p class="soft">They run, and are in every measurement, but nothing was done to make them fast.</p>
<div class="scroll" tabindex="0">{nodes}</div></section>"""


def _facts(result: Result) -> str:
    environment = table(("what", "value"), sorted(result.environment.items()))
    rows = [(stage.name, f"{stage.seconds:.1f}") for stage in result.stages]
    rows.append(("all", f"{sum(stage.seconds for stage in result.stages):.1f}"))
    stages = table(("stage", "seconds"), rows)
    return f"""<div class="pair"><section><h2>Environment</h2>{environment}</section>
<section><h2>Stages of the run</h2>{stages}</section></div>"""
