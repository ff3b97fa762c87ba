"""Charts of a profile's trustworthiness and of its networks: noise, drift, whole latencies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Pack
from millifit.profiler.packs.sheet import SPREAD
from millifit.profiler.section import Section
from millifit.report.chart import Chart, Plain, digits, fold, layout, ms
from millifit.report.profile_charts import COLOURS
from millifit.targets.timing import Samples

MOST_LINES = len(COLOURS)


def noise_chart(pack: Pack, names: Mapping[str, str]) -> Chart | None:
    """How wide the 95 % intervals of medians are, by target; None where nothing tells."""
    found: dict[str, list[float]] = defaultdict(list)
    measured: list[Measurement | NetworkMeasurement] = [*pack.kernels, *pack.networks]
    for measurement in measured:
        width = _relative_noise(measurement)
        if width is not None:
            found[measurement.target_key].append(100 * max(width, 1e-5))
    if not found:
        return None
    shown, more = _largest(found)
    quantiles = (0.5, 0.9, 0.99)
    figure = layout("Noise: ± % of the median", "% of the measurements", height=340)
    figure["xaxis"] |= {"type": "log"}
    figure["yaxis"] |= {"range": [0, 101]}
    return Chart(
        key="noise",
        title="How noisy the measurements are",
        text="Half the 95 % interval of each median, or the standard deviation that a source "
        f"states; a measurement of fewer than three samples has neither.{more}",
        traces=_shares(shown, names, "%{y:.0f} % have at most ±%{x:.2r} %"),
        layout=figure,
        columns=("target", "measurements", "median, ± %", "90 % below, ± %", "99 % below, ± %"),
        rows=[
            (
                names.get(key, key),
                str(len(values)),
                *(digits(float(np.quantile(values, q)), 2) for q in quantiles),
            )
            for key, values in shown.items()
        ],
    )


def network_chart(pack: Pack, names: Mapping[str, str]) -> Chart | None:
    """The distribution of whole networks' latencies by target; None where there are none."""
    found: dict[str, list[float]] = defaultdict(list)
    for network in pack.networks:
        if isinstance(network.outcome, Samples):
            found[network.target_key].append(ms(network.outcome.median_s))
    if not found:
        return None
    shown, more = _largest(found)
    figure = layout("Milliseconds", "% of the networks", height=340)
    figure["xaxis"] |= {"type": "log"}
    figure["yaxis"] |= {"range": [0, 101]}
    return Chart(
        key="networks",
        title="Whole networks",
        text=f"Which share of the networks takes at most so long.{more}",
        traces=_shares(shown, names, "%{y:.0f} % take at most %{x:.4r} ms"),
        layout=figure,
        columns=("target", "networks", "fastest, ms", "median, ms", "slowest, ms"),
        rows=[
            (
                names.get(key, key),
                str(len(values)),
                *(digits(value, 3) for value in (min(values), _middle(values), max(values))),
            )
            for key, values in shown.items()
        ],
    )


def drift_chart(pack: Pack, names: Mapping[str, str]) -> Chart | None:
    """The anchors of each section against their usual time; None where there are no sections."""
    by_target: dict[str, list[Section]] = defaultdict(list)
    for section in pack.sections:
        if section.anchors:
            by_target[section.target_key].append(section)
    if not by_target:
        return None
    traces: list[Plain] = []
    rows: list[tuple[str, ...]] = []
    for (key, sections), colour in zip(sorted(by_target.items()), COLOURS, strict=False):
        sections = sorted(sections, key=lambda section: section.began_s)
        shifts = _shifts(sections)
        minutes = [(section.began_s - sections[0].began_s) / 60 for section in sections]
        name = names.get(key, key)
        marks = ["x" if section.drifting else "circle" for section in sections]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": fold(name),
                "x": minutes,
                "y": [100 * shift for shift in shifts],
                "line": {"color": colour, "width": 1.5},
                "marker": {"color": colour, "size": 8, "symbol": marks},
                "hovertemplate": "%{y:+.2f} % after %{x:.1f} min<extra></extra>",
            }
        )
        rows += [
            (
                name, str(section.number), digits(minute, 3), f"{100 * shift:+.2f}",
                "yes" if section.drifting else "no",
            )
            for section, minute, shift in zip(sections, minutes, shifts, strict=True)
        ]  # fmt: skip
    return Chart(
        key="drift",
        title="Drift while it was measured",
        text="A few anchor kernels are measured in every section. Shown is how much slower they "
        "were than usual; a cross marks a section that drifted, whose measurements are in doubt.",
        traces=traces,
        layout=layout("Minutes since the first section", "% slower than usual", height=340),
        columns=("target", "section", "minutes", "% slower", "drifting"),
        rows=rows,
    )


def _shifts(sections: Sequence[Section]) -> list[float]:
    """By section, the median over its anchors of how much slower they are than their own median."""
    times: dict[str, list[float]] = defaultdict(list)
    for section in sections:
        for key, seconds in section.anchors.items():
            times[key].append(seconds)
    usual = {key: float(np.median(found)) for key, found in times.items()}
    return [
        float(np.median([seconds / usual[key] - 1 for key, seconds in section.anchors.items()]))
        for section in sections
    ]


def _relative_noise(measurement: Measurement | NetworkMeasurement) -> float | None:
    outcome = measurement.outcome
    if not isinstance(outcome, Samples):
        return None
    stated = measurement.environment.get(SPREAD)
    if stated is not None:
        return float(stated) / outcome.median_s
    if len(outcome.run_s) < 3:
        return None
    low, high = outcome.interval_s
    width = (high - low) / (2 * outcome.median_s)
    return width if math.isfinite(width) else None


def _largest(found: Mapping[str, list[float]]) -> tuple[dict[str, list[float]], str]:
    """The targets of most measurements, and what is said of the others."""
    order = sorted(found, key=lambda key: (-len(found[key]), key))
    left = len(order) - MOST_LINES
    more = f" {left} more targets are not drawn." if left > 0 else ""
    return {key: found[key] for key in order[:MOST_LINES]}, more


def _shares(
    shown: Mapping[str, Sequence[float]], names: Mapping[str, str], hover: str
) -> list[Plain]:
    """A line per target: at each value, the share of its values that are no larger, in %."""
    traces: list[Plain] = []
    for (key, values), colour in zip(shown.items(), COLOURS, strict=False):
        ordered = np.sort(values)
        at = np.unique(np.linspace(0, len(ordered) - 1, 200).astype(int))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(at) == 1 else "lines",
                "name": fold(names.get(key, key)),
                "x": [float(ordered[i]) for i in at],
                "y": [100 * (int(i) + 1) / len(ordered) for i in at],
                "line": {"color": colour, "width": 2, "shape": "hv"},
                "hovertemplate": f"{hover}<extra></extra>",
            }
        )
    return traces


def _middle(values: Sequence[float]) -> float:
    return float(np.median(values))
