"""Rows of the latency benchmark: bars are judged as they are meant, curves are drawn to scale."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from benchmarks.latency_tables.baselines import affine
from benchmarks.latency_tables.line_chart import LineChart, svg
from benchmarks.latency_tables.ofa_tables import one_hot
from benchmarks.latency_tables.row import Metric, row


@pytest.mark.parametrize(
    ("metric", "value", "bar", "met"),
    [
        ("within_10", 0.75, 0.75, True),
        ("within_10", 0.7499, 0.75, False),
        ("mape", 0.08, 0.08, True),
        ("mape", 0.081, 0.08, False),
        ("network_s", 0.9e-3, 1e-3, True),
        ("coverage_95", 0.96, (0.93, 0.97), True),
        ("coverage_95", 0.98, (0.93, 0.97), False),
        ("spearman", 0.5, None, None),
    ],
)
def test_bars_are_judged_without_rounding(
    metric: Metric, value: float, bar: float | tuple[float, float] | None, met: bool | None
) -> None:
    """At least for shares, at most for errors and times, within for a range; none is no verdict."""
    assert row("task", "device", metric, value, bar=bar)["met"] is met


def test_a_row_keeps_its_facts() -> None:
    """Beside value, baseline and bar."""
    made = row("ofa", "gpu", "within_10", 0.8, baseline=0.5, bar=0.7, n=2500)
    assert made == {
        "task": "ofa", "device": "gpu", "metric": "within_10", "value": 0.8, "baseline": 0.5,
        "bar": 0.7, "met": True, "n": 2500,
    }  # fmt: skip


def test_an_affine_correction_is_found_from_other_networks() -> None:
    """Exact where the law is affine."""
    x = np.linspace(1, 2, 50)
    np.testing.assert_allclose(affine(x, 3 * x + 1), 3 * x + 1)


def test_blocks_that_do_not_exist_count_nothing() -> None:
    """Of the strings' twenty blocks only the first of each stage's depth are live."""
    text = f"r=224;d=2,2,2,2,2;ks={','.join(['3'] * 20)};e={','.join(['6'] * 20)}"
    (made,) = one_hot([text])  # type: ignore[arg-type]
    assert made[:180].sum() == 10
    assert made[180] == 1


def test_a_curve_is_drawn_to_scale() -> None:
    """Points of a tenth and of all: at the ends of the axis; the better one stands higher."""
    chart = LineChart(
        title="GPU", y="within 10 %",
        lines={"ours": [(10, 0.6), (100, 0.9)], "trees": [(10, 0.5), (100, 0.7)]},
    )  # fmt: skip
    root = ET.fromstring(svg(chart))
    points = [
        (float(p.get("cx", 0)), float(p.get("cy", 0)))
        for p in root.iter("{http://www.w3.org/2000/svg}circle")
    ]
    assert [x for x, _ in points] == [56.0, 456.0, 56.0, 456.0]
    heights = [y for _, y in points]
    assert heights[1] < heights[3] < heights[0] < heights[2] == 268.0
