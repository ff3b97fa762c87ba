"""The page of a profile: everything is drawn, whatever targets and kernels are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Pack
from millifit.profiler.section import Section
from millifit.report.profile_charts import MOST_FAMILIES, coverage_chart, roofline_chart
from millifit.report.profile_page import render_profile, write_profile_page
from millifit.report.profile_trust_charts import drift_chart, network_chart, noise_chart
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy

Browse = Callable[..., tuple[str, str]]
EVIL = "</script><img src=x onerror=console.error(1)>"


def layer(op: str, width: int, *run_s: float, target_key: str = "phone/fp32") -> Measurement:
    """A layer of 64 to `width` values, or its failure."""
    return Measurement(
        kernel=Kernel(
            op=op,
            inputs=(TensorType(shape=(1, 64), dtype="float32"),),
            output=TensorType(shape=(1, width), dtype="float32"),
            precision="fp32",
        ),
        target_key=target_key, versions="v", policy=TimingPolicy(), environment={},
        outcome=Samples(run_s=run_s) if run_s else Failed(reason="hangs"),
    )  # fmt: skip


@pytest.fixture
def profile() -> Pack:
    """Two operators on one target, one network, and four sections of which the last drifted."""
    rng = np.random.default_rng(0)
    kernels = [
        layer(op, width, *(1e-6 * width * np.exp(0.02 * rng.standard_normal(9))).tolist())
        for op in ("dense", EVIL)
        for width in range(8, 200, 8)
    ]
    network = NetworkMeasurement(
        name="net", calls=(), kernel_policy=TimingPolicy(), target_key="phone/fp32", versions="v",
        policy=NetworkTimingPolicy(), environment={}, outcome=Samples(run_s=(5e-3, 6e-3, 7e-3)),
    )  # fmt: skip
    sections = tuple(
        Section(
            number=n, target_key="phone/fp32", versions="v", began_s=1e9 + 10 * n, environment={},
            anchors={"a": 1e-3 * (1.5 if n == 4 else 1.0), "b": 2e-3 * (1.5 if n == 4 else 1.0)},
            drifting=n == 4,
        )
        for n in (1, 2, 3, 4)
    )  # fmt: skip
    return Pack(kernels=(*kernels, layer("dense", 7)), networks=(network,), sections=sections)


def test_browser_draws_every_chart(profile: Pack, tmp_path: Path, browse: Browse) -> None:
    """Chromium draws all five, has nothing to say, and hostile names are text."""
    page = write_profile_page(profile, tmp_path / "p.html", names={"phone/fp32": EVIL}, title=EVIL)
    dom, console = browse(page)
    assert console == ""
    assert 'data-drawn="5"' in dom
    drawn = re.findall(r'<div class="chart[^"]*" id="(\w+)"', dom)
    assert drawn == ["roofline0", "noise", "drift", "coverage", "networks"]
    assert "<img" not in re.sub(r"<(script|style)[^>]*>.*?</\1>", "", dom, flags=re.DOTALL)


def test_what_is_not_there_is_not_drawn(profile: Pack) -> None:
    """Without sections, networks or repeated samples there is no chart of them."""
    bare = Pack(kernels=(layer("dense", 8, 1e-3),))
    page = render_profile(bare, names={}, title="bare")
    assert re.findall(r'class="chart" id="(\w+)"', page) == ["roofline0", "coverage"]
    assert re.findall(r'class="chart" id', render_profile(Pack(), names={}, title="none")) == []
    failed = Pack(kernels=(layer("dense", 8),))
    assert "coverage" in render_profile(failed, names={}, title="failed")


def test_an_emulated_device_is_labelled(profile: Pack) -> None:
    """One kernel of an emulator among all, and the page says so first."""
    assert "Emulated device" not in render_profile(profile, names={}, title="board")
    emulated = replace(profile.kernels[0], environment={"emulated": "yes"})
    marked = replace(profile, kernels=(emulated, *profile.kernels[1:]))
    assert "Emulated device" in render_profile(marked, names={}, title="board")


def test_the_envelope_is_what_the_best_reach() -> None:
    """Flat at the cost of a call, then as fast as the fastest kernels compute."""
    widths = [2**n for n in range(4, 14)]
    kernels = tuple(layer("dense", w, max(1e-6, 64 * w / 1e9)) for w in widths)
    chart = roofline_chart(Pack(kernels=kernels), name="phone", number=0)
    points, line = chart.traces
    assert points["x"] == [64.0 * width for width in widths]
    assert line["y"][0] == pytest.approx(1e-3, rel=0.2)
    assert line["y"][-1] == pytest.approx(1e3 * 64 * widths[-1] / 1e9, rel=0.05)
    (row,) = chart.rows
    assert (row[0], row[1], row[3]) == ("dense fp32", "10", "2.00")


def test_small_families_are_said_to_be_left_out() -> None:
    """A chart has room for a few families; the text says how many are missing."""
    kernels = tuple(layer(f"op{n}", 8, 1e-3) for n in range(MOST_FAMILIES + 2))
    chart = roofline_chart(Pack(kernels=kernels), name="phone", number=0)
    assert len(chart.rows) == MOST_FAMILIES
    assert "2 smaller families are not drawn" in chart.text


def test_drift_is_against_the_usual_time(profile: Pack) -> None:
    """Anchors that take half as long again are 50 % slower, and the section is marked."""
    chart = drift_chart(profile, {})
    assert chart is not None
    assert chart.traces[0]["y"] == pytest.approx([0, 0, 0, 50])
    assert chart.traces[0]["marker"]["symbol"] == ["circle"] * 3 + ["x"]
    assert [row[4] for row in chart.rows] == ["no", "no", "no", "yes"]


def test_noise_may_be_stated(profile: Pack) -> None:
    """A source's standard deviation stands for samples that are not there."""
    one = replace(layer("dense", 8, 1e-3), environment={"latency_std_s": "5e-05"})
    chart = noise_chart(Pack(kernels=(one,)), {})
    assert chart is not None
    assert chart.traces[0]["x"] == pytest.approx([5.0])
    assert noise_chart(Pack(kernels=(layer("dense", 8, 1e-3),)), {}) is None


def test_numbers_of_coverage_and_networks(profile: Pack) -> None:
    """Measured and failed kernels by family; networks by target."""
    coverage, networks = coverage_chart(profile), network_chart(profile, {"phone/fp32": "phone"})
    assert coverage is not None
    assert networks is not None
    assert coverage.rows[0] == ("dense fp32", "24", "1", "1")
    assert networks.rows == [("phone", "1", "6.00", "6.00", "6.00")]
