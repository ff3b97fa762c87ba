"""Charts of a profile's kernels: their cost against their work, and which families there are."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from millifit.latency_models.kernels.features import work
from millifit.profiler.compare import described
from millifit.profiler.measurement import Measurement
from millifit.profiler.packs.pack import Pack
from millifit.profiler.packs.sheet import Floats
from millifit.report.chart import Chart, Plain, digits, fold, layout, milliseconds, ms, rows_axis
from millifit.targets.timing import Samples

MOST_POINTS = 600  # of a family, drawn
MOST_FAMILIES = 7
COLOURS = (
    "--baseline", "--compressed", "--reference", "--predicted", "--cost", "--saving", "--total",
    "--front",
)  # fmt: skip


def roofline_chart(pack: Pack, *, name: str, number: int) -> Chart:
    """Latency against multiply-adds of one target's kernels, with the envelope of each family.

    The envelope is what the best rows reach: 99 % of them compute no more multiply-adds per second,
    and take no less time.
    """
    families: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in pack.kernels:
        if isinstance(measurement.outcome, Samples):
            kernel = measurement.kernel
            families[f"{kernel.op} {kernel.precision}"].append(measurement)
    shown = sorted(families, key=lambda family: (-len(families[family]), family))[:MOST_FAMILIES]
    traces: list[Plain] = []
    rows: list[tuple[str, ...]] = []
    for family, colour in zip(shown, COLOURS, strict=False):
        found = families[family]
        macs = work([m.kernel for m in found])[:, 0]
        seconds = np.array([_median_s(m) for m in found])
        rate, floor_s = float(np.quantile(macs / seconds, 0.99)), float(np.quantile(seconds, 0.01))
        traces += _family(family, colour, found, macs, seconds, (rate, floor_s))
        rows.append(
            (
                family, str(len(found)), milliseconds(floor_s, 3), digits(2e-9 * rate, 3),
                milliseconds(float(np.median(seconds)), 3),
            )
        )  # fmt: skip
    figure = layout("Multiply-adds", "Milliseconds", height=460)
    figure["legend"] |= {"itemsizing": "constant"}
    figure["xaxis"] |= {"type": "log", "exponentformat": "power", "dtick": 1}
    figure["yaxis"] |= {"type": "log", "exponentformat": "power", "dtick": 1}
    left = len(families) - len(shown)
    more = f" {left} smaller families are not drawn." if left else ""
    return Chart(
        key=f"roofline{number}",
        title=f"Latency against work on {fold(name, 60)}",
        text="Each point is a kernel. A line is what the best of its family reach: flat where a "
        f"call costs more than its work, then as fast as they compute.{more}",
        traces=traces,
        layout=figure,
        columns=("family", "kernels", "floor, ms", "best GFLOP/s", "median, ms"),
        rows=rows,
    )


def _family(
    family: str,
    colour: str,
    found: Sequence[Measurement],
    macs: Floats,
    seconds: Floats,
    envelope: tuple[float, float],
) -> list[Plain]:
    """Points, thinned evenly by work, and the envelope of the rate and the floor."""
    rate, floor_s = envelope
    order = np.argsort(macs, kind="stable")
    drawn = order[np.unique(np.linspace(0, len(order) - 1, MOST_POINTS).astype(int))]
    ends = np.geomspace(max(1.0, float(macs.min())), float(macs.max()) + 1.0, 40)
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": family,
            "legendgroup": family,
            "x": [float(macs[i]) for i in drawn],
            "y": [ms(float(seconds[i])) for i in drawn],
            "text": [fold(described(found[i].kernel), 80) for i in drawn],
            "hovertemplate": "%{text}<br>%{y:.4r} ms<extra></extra>",
            "marker": {"color": colour, "size": 5, "opacity": 0.55, "symbol": _symbol(colour)},
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"best {family}",
            "legendgroup": family,
            "showlegend": False,
            "hoverinfo": "skip",
            "x": ends.tolist(),
            "y": [ms(max(floor_s, float(work_) / rate)) for work_ in ends],
            "line": {"color": colour, "width": 2},
        },
    ]


def _symbol(colour: str) -> str:
    """Later colours resemble the first ones, so their points have another form."""
    return "circle" if colour in COLOURS[:5] else "diamond-open"


def coverage_chart(pack: Pack) -> Chart | None:
    """How many kernels of each family were measured, and how many failed."""
    measured: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    targets: dict[str, set[str]] = defaultdict(set)
    for one in pack.kernels:
        family = f"{one.kernel.op} {one.kernel.precision}"
        ok = isinstance(one.outcome, Samples)
        (measured if ok else failed)[family] += 1
        targets[family].add(one.target_key)
    if not targets:
        return None
    families = sorted(targets, key=lambda family: (-(measured[family] + failed[family]), family))
    labels = [fold(family) for family in families]
    figure = layout("Kernels", "", height=110 + 26 * len(labels))
    figure["yaxis"] |= rows_axis(labels)
    most = max(measured[family] + failed[family] for family in families)
    figure["xaxis"] |= {"type": "log", "dtick": "D2", "range": [0, 1.05 * math.log10(most) + 0.1]}
    figure |= {"barmode": "group", "bargap": 0.3}
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(range(len(families))),
            "x": [counts[family] or None for family in families],
            "marker": {"color": colour},
            "customdata": labels,
            "hovertemplate": f"%{{customdata}}: %{{x}} {name}<extra></extra>",
        }
        for name, counts, colour in (
            ("measured", measured, "--measured"),
            ("failed", failed, "--cost"),
        )
        if counts
    ]
    return Chart(
        key="coverage",
        title="What is covered",
        text="Kernels by operator and precision, on all targets. A family of few kernels is "
        "predicted from its roofline alone.",
        traces=traces,
        layout=figure,
        columns=("family", "measured", "failed", "targets"),
        rows=[
            (family, str(measured[family]), str(failed[family]), str(len(targets[family])))
            for family in families
        ],
    )


def _median_s(measurement: Measurement) -> float:
    assert isinstance(measurement.outcome, Samples)
    return measurement.outcome.median_s
