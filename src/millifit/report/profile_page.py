"""A profile as a page: what its kernels cost for their work, how noisy it is, what it covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from millifit.files import write_atomically
from millifit.profiler.packs.pack import Pack
from millifit.profiler.packs.summary import summarize
from millifit.report.chart import EMULATED, Chart, milliseconds
from millifit.report.document import chart_section, document, table
from millifit.report.profile_charts import coverage_chart, roofline_chart
from millifit.report.profile_trust_charts import drift_chart, network_chart, noise_chart

# Beyond these a page is no longer read, and a browser slow.
MOST_ROOFLINES = 6


def write_profile_page(pack: Pack, path: Path, *, names: Mapping[str, str], title: str) -> Path:
    """Write the page of a profile; `names` are what its targets' keys are called.

    Raises RunFolderError when `path` cannot be written.
    """
    return write_atomically(path, render_profile(pack, names=names, title=title))


def render_profile(pack: Pack, *, names: Mapping[str, str], title: str) -> str:
    """The whole page as text."""
    charts = _charts(pack, names)
    sections = [_summary(pack, names), *map(chart_section, charts)]
    return document(f"Profile {title}", _header(pack, title), sections, charts)


def _charts(pack: Pack, names: Mapping[str, str]) -> list[Chart]:
    """The charts that the profile has numbers for; targets with most kernels first."""
    by_size = sorted(
        (
            (len(part.kernels), key, part)
            for key in pack.target_keys
            if (part := pack.of_target(key))
        ),
        key=lambda found: (-found[0], found[1]),
    )
    rooflines = [
        roofline_chart(part, name=names.get(key, key), number=number)
        for number, (count, key, part) in enumerate(by_size[:MOST_ROOFLINES])
        if count
    ]
    others = (
        noise_chart(pack, names),
        drift_chart(pack, names),
        coverage_chart(pack),
        network_chart(pack, names),
    )
    return [chart for chart in (*rooflines, *others) if chart is not None]


def _header(pack: Pack, title: str) -> str:
    samples = sum(len(m.outcome.run_s) for m in pack.kernels if hasattr(m.outcome, "run_s"))
    facts: Sequence[tuple[int, str]] = (
        (len(pack.kernels), "kernels"),
        (len(pack.networks), "whole networks"),
        (samples, "samples of kernels"),
        (len(pack.target_keys), "targets"),
    )
    items = "".join(f"<li><b>{count:,}</b><span>{what}</span></li>" for count, what in facts)
    emulated = any(m.environment.get("emulated") == "yes" for m in pack.kernels)
    banner = f'<p class="caveat">{EMULATED}</p>' if emulated else ""
    return f"""<header><h1>Profile {escape(title)}</h1>{banner}
<ul class="facts">{items}</ul></header>"""


def _summary(pack: Pack, names: Mapping[str, str]) -> str:
    columns = (
        "target",
        "operator",
        "precision",
        "measured",
        "failed",
        "fastest, ms",
        "slowest, ms",
    )
    rows = [
        (
            line.target, line.kind, line.precision, str(line.measured), str(line.failed),
            "–" if line.fastest_s is None else milliseconds(line.fastest_s, 3),
            "–" if line.slowest_s is None else milliseconds(line.slowest_s, 3),
        )
        for line in summarize(pack, names)
    ]  # fmt: skip
    return f"""<section><h2>What was measured</h2>
<div class="scroll" tabindex="0">{table(columns, rows)}</div></section>"""
