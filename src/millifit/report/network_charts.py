"""Charts of whole networks: latency side by side, all trials, predictions against measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from millifit.report.chart import (
    Chart,
    Plain,
    errors,
    layout,
    limits,
    megabytes,
    milliseconds,
    ms,
    percent,
    reference_intervals,
    span,
)
from millifit.report.result import Interval, Result, Subject, Trial

TRIAL_COLUMNS = (
    "trial",
    "latency, ms",
    "95 % interval, ms",
    "origin",
    "accuracy, %",
    "size, MB",
    "layers",
    "kept channels, %",
    "within limits",
    "note",
)


def latency(result: Result) -> Chart:
    """Every network that was timed, with its interval."""
    subjects: list[tuple[str, Interval | None]] = [
        ("Baseline fp32", result.baseline.latency_s),
        ("Compressed", result.compressed.latency_s),
        *reference_intervals(result),
    ]
    shown = [(name, value) for name, value in subjects if value is not None]
    colours = {"Baseline fp32": "--baseline", "Compressed": "--compressed"}
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [ms(value.median) for _, value in shown],
        "y": [name for name, _ in shown],
        "error_x": errors([value for _, value in shown]),
        "marker": {"color": [colours.get(name, "--reference") for name, _ in shown]},
        "text": [f"{milliseconds(value.median, 3)} ms" for _, value in shown],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textangle": 0,
        "textfont": {"color": "--on-colour"},
        "hovertemplate": "%{y}: %{x:.4r} ms<extra></extra>",
        "width": 0.62,
    }
    figure = layout("Latency, ms", "", height=110 + 46 * len(shown))
    figure["yaxis"] |= {"autorange": "reversed", "showgrid": False, "ticksuffix": "  "}
    figure["xaxis"] |= {"rangemode": "tozero"}
    figure |= limits(latency_s=result.budget.latency_s)
    return Chart(
        key="latency",
        title="Latency side by side",
        text="All networks were timed in turn within one run, so that a change of clock or load "
        "meets each of them. Whiskers are 95 % intervals of the median.",
        traces=[trace],
        layout=figure,
        columns=("network", "median, ms", "95 % interval, ms"),
        rows=[(name, milliseconds(value.median), span(value)) for name, value in shown],
    )


def pareto(result: Result) -> Chart:
    """All trials in latency and accuracy (or size, where there are no labels)."""
    scored = any(trial.accuracy is not None for trial in result.trials)
    shown = [trial for trial in result.trials if not scored or trial.accuracy is not None]

    def height(what: Trial | Subject) -> float:
        return 100 * (what.accuracy or 0.0) if scored else what.size_bytes / 1e6

    front = pareto_front(shown, gain=lambda trial: height(trial) * (1 if scored else -1))
    traces = [_line(front, height, curve="vh" if scored else "hv")]
    for name, measured, symbol in (
        ("predicted", False, "circle-open"),
        ("measured", True, "circle"),
    ):
        some = [trial for trial in shown if (trial.latency_s is not None) == measured]
        if some:
            traces.append(_dots(some, height, name, symbol))
    ends = (("baseline", result.baseline, "diamond"), ("compressed", result.compressed, "star"))
    traces += [
        _end(name, end.latency_s, height(end), symbol)
        for name, end, symbol in ends
        if not scored or end.accuracy is not None
    ]
    figure = layout("Latency, ms", "Accuracy, %" if scored else "Size, MB", height=460)
    floor = _accuracy_floor(result) if scored else None
    figure |= limits(
        latency_s=result.budget.latency_s, named_at="bottom", y=floor, y_text="least accuracy"
    )
    text = (
        "Every plan that was looked at. Filled dots were compiled and measured on the device; open "
        "dots are the latency model's prediction. The line joins those that no other beats in both."
    )
    if hidden := len(result.trials) - len(shown):
        text += f" {hidden} trials without an accuracy are in the table only."
    return Chart(
        key="pareto",
        title="Everything that was tried",
        text=text,
        traces=traces,
        layout=figure,
        columns=TRIAL_COLUMNS,
        rows=[trial_row(trial) for trial in result.trials],
    )


def prediction(result: Result) -> Chart:
    """What the latency model said before, against what the device said after."""
    pairs = [
        (f"trial {trial.index}", trial.predicted_s, trial.latency_s)
        for trial in result.trials
        if trial.latency_s is not None
    ]
    pairs.append(("compressed", result.predicted_s, result.compressed.latency_s))
    ends = [ms(v) for _, p, m in pairs for v in (p.low, p.high, m.low, m.high)]
    low, high = min(ends) * 0.97, max(ends) * 1.03
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "name": "exact",
        "x": [low, high],
        "y": [low, high],
        "line": {"color": "--line", "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "networks",
        "x": [ms(predicted.median) for _, predicted, _ in pairs],
        "y": [ms(measured.median) for _, _, measured in pairs],
        "error_x": errors([predicted for _, predicted, _ in pairs], thickness=1),
        "error_y": errors([measured for _, _, measured in pairs], thickness=1),
        "marker": {
            "color": ["--measured"] * (len(pairs) - 1) + ["--compressed"],
            "size": [8] * (len(pairs) - 1) + [14],
            "symbol": ["circle"] * (len(pairs) - 1) + ["star"],
        },
        "text": [name for name, _, _ in pairs],
        "hovertemplate": "%{text}<br>predicted %{x:.4r} ms<br>measured %{y:.4r} ms<extra></extra>",
    }
    figure = layout("Predicted, ms", "Measured, ms", height=420)
    figure["xaxis"] |= {"range": [low, high]}
    figure["yaxis"] |= {"range": [low, high]}
    return Chart(
        key="prediction",
        title="Predicted against measured",
        text="Every network that was compiled, with both 95 % intervals. The star is the result.",
        traces=[diagonal, dots],
        layout=figure,
        columns=("network", "predicted, ms", "interval", "measured, ms", "interval", "error, %"),
        rows=[_prediction_row(*pair) for pair in pairs],
    )


def pareto_front(trials: Sequence[Trial], *, gain: Callable[[Trial], float]) -> list[Trial]:
    """Trials that no other beats in both latency and `gain`, fastest first."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.best_known_s.median, -gain(t))):
        if not front or gain(trial) > gain(front[-1]):
            front.append(trial)
    return front


def trial_row(trial: Trial) -> tuple[str, ...]:
    """A trial under TRIAL_COLUMNS."""
    known = trial.best_known_s
    return (
        str(trial.index),
        milliseconds(known.median),
        span(known),
        "measured" if trial.latency_s else "predicted",
        percent(trial.accuracy),
        megabytes(trial.size_bytes),
        trial.layers,
        percent(trial.kept_channels),
        "yes" if trial.feasible else "no",
        trial.note,
    )


def _accuracy_floor(result: Result) -> float | None:
    accuracy, drop = result.baseline.accuracy, result.budget.max_accuracy_drop
    return None if accuracy is None or drop is None else 100 * (accuracy - drop)


def _line(front: Sequence[Trial], height: Callable[[Trial], float], *, curve: str) -> Plain:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [ms(trial.best_known_s.median) for trial in front],
        "y": [height(trial) for trial in front],
        "line": {"color": "--front", "width": 1.5, "shape": curve},
        "hoverinfo": "skip",
    }


def _dots(
    trials: Sequence[Trial], height: Callable[[Trial], float], name: str, symbol: str
) -> Plain:
    known = [trial.best_known_s for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [ms(value.median) for value in known],
        "y": [height(trial) for trial in trials],
        "error_x": errors(known, thickness=1) | {"width": 0, "color": "--line"},
        "marker": {"color": f"--{name}", "size": 9, "symbol": symbol, "line": {"width": 1.5}},
        "text": [
            f"trial {t.index}, layers: {escape(t.layers)}<br>{escape(t.note)}" for t in trials
        ],
        "hovertemplate": f"%{{text}}<br>{name} %{{x:.4r}} ms, %{{y:.4r}}<extra></extra>",
    }


def _end(name: str, latency_s: Interval, y: float, symbol: str) -> Plain:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} (measured)",
        "x": [ms(latency_s.median)],
        "y": [y],
        "marker": {"color": f"--{name}", "size": 15, "symbol": symbol},
        "hovertemplate": f"{name}<br>%{{x:.4r}} ms, %{{y:.4r}}<extra></extra>",
    }


def _prediction_row(name: str, predicted: Interval, measured: Interval) -> tuple[str, ...]:
    error = predicted.median / measured.median - 1 if measured.median else 0.0
    return (
        name,
        milliseconds(predicted.median),
        span(predicted),
        milliseconds(measured.median),
        span(measured),
        f"{100 * error:+.1f}".replace("-", "−"),
    )
