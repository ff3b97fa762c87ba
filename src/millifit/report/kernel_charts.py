"""Charts of parts: milliseconds per kernel, the way from before to after, choices per layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape

from millifit.report.chart import (
    Chart,
    Plain,
    change,
    digits,
    fold,
    layout,
    milliseconds,
    ms,
    rows_axis,
)
from millifit.report.result import KernelTime, Layer, Result

TOP_KERNELS = 18
KERNEL_COLUMNS = ("", "kernel", "operator", "precision", "ms", "95 % interval, ms", "origin")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "w7a8", "w8", "w4")


def kernel_times(result: Result) -> Chart:
    """The slowest kernels before and after; the rest is summed."""
    before, after = (
        seconds_by_name(result.kernels.baseline),
        seconds_by_name(result.kernels.compressed),
    )
    names = sorted(before | after, key=lambda n: -max(before.get(n, 0.0), after.get(n, 0.0)))
    top, rest = names[:TOP_KERNELS], names[TOP_KERNELS:]
    labels = [fold(name) for name in top]
    traces = [_bars("baseline", top, before), _bars("compressed", top, after)]
    figure = layout("Milliseconds in the kernel", "", height=110 + 27 * len(labels))
    figure["yaxis"] |= rows_axis(labels)
    figure |= {"barmode": "group", "bargap": 0.28, "bargroupgap": 0.0}
    rows = [_kernel_row("baseline", kernel) for kernel in result.kernels.baseline]
    rows += [_kernel_row("compressed", kernel) for kernel in result.kernels.compressed]
    text = (
        "The slowest kernels, each a fused operator as it runs, timed alone. "
        "The table has all of them, with their intervals and whether they were measured."
    )
    if rest:
        sums = milliseconds(_total(before, rest), 3), milliseconds(_total(after, rest), 3)
        text += f" The {len(rest)} not drawn take {sums[0]} ms before and {sums[1]} ms after."
    return Chart(
        key="kernels",
        title="Where the milliseconds are",
        text=text,
        traces=traces,
        layout=figure,
        columns=KERNEL_COLUMNS,
        rows=rows,
    )


def waterfall(result: Result) -> Chart:
    """From the sum of the baseline's kernels to that of the compressed network's."""
    before, after = (
        seconds_by_name(result.kernels.baseline),
        seconds_by_name(result.kernels.compressed),
    )
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in before | after}
    names = sorted(changes, key=lambda name: -abs(changes[name]))
    top, rest = names[:TOP_KERNELS], names[TOP_KERNELS:]
    steps = [(fold(name), changes[name]) for name in sorted(top, key=lambda name: changes[name])]
    if rest:
        steps.append((f"{len(rest)} more kernels", _total(changes, rest)))
    labels = ["baseline", *(label for label, _ in steps), "compressed"]
    values = [sum(before.values()), *(seconds for _, seconds in steps), 0.0]
    trace = {
        "type": "waterfall",
        "orientation": "h",
        "measure": ["absolute", *["relative"] * len(steps), "total"],
        "x": [ms(value) for value in values],
        "y": list(range(len(labels))),
        "text": [
            milliseconds(values[0], 3),
            *(change(ms(value), 2) for value in values[1:-1]),
            milliseconds(sum(after.values()), 3),
        ],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": labels,
        "hovertemplate": "%{customdata}: %{delta:.4r} ms<extra></extra>",
        "connector": {"line": {"color": "--line", "width": 1}},
        "decreasing": {"marker": {"color": "--saving"}},
        "increasing": {"marker": {"color": "--cost"}},
        "totals": {"marker": {"color": "--total"}},
    }
    figure = layout("Milliseconds in kernels, added up", "", height=82 + 25 * len(labels))
    figure["yaxis"] |= rows_axis(labels)
    figure["xaxis"] |= {"rangemode": "tozero"}
    figure["margin"] |= {"t": 12}
    figure |= {"showlegend": False, "waterfallgap": 0.35}
    return Chart(
        key="waterfall",
        title="Where the milliseconds went",
        text="Each step is a kernel that became faster or slower, largest savings first; kernels "
        "that compression added, such as quantizing the input, count as steps too.",
        traces=[trace],
        layout=figure,
        columns=("kernel", "before, ms", "after, ms", "change, ms"),
        rows=[
            (
                name,
                milliseconds(before.get(name, 0.0)),
                milliseconds(after.get(name, 0.0)),
                change(ms(changes[name]), 4),
            )
            for name in sorted(changes, key=lambda name: changes[name])
        ],
    )


def layer_choices(result: Result) -> Chart:
    """Bits of the weights and channels kept, layer by layer."""
    layers = result.plan
    positions = list(range(len(layers)))
    names = [escape(layer.layer) for layer in layers]
    ghost = {
        "type": "bar",
        "name": "channels before",
        "x": positions,
        "y": [layer.channels_before for layer in layers],
        "marker": {"color": "--ghost"},
        "hoverinfo": "skip",
        "width": 0.8,
    }
    used = [p for p in PRECISIONS if any(layer.precision == p for layer in layers)]
    used += sorted({layer.precision for layer in layers} - set(PRECISIONS))
    traces = [ghost, *(_precision_bars(layers, names, precision) for precision in used)]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "bits",
            "x": positions,
            "y": [layer.bits for layer in layers],
            "customdata": names,
            "line": {"color": "--total", "shape": "hvh", "width": 2},
            "hovertemplate": "%{customdata}: %{y} bits<extra></extra>",
            "yaxis": "y2",
            "showlegend": False,
        }
    )
    figure = layout("Layers, from input to output", "Channels", height=460)
    figure["yaxis"] |= {"domain": [0, 0.66]}
    figure["yaxis2"] = figure["yaxis"] | {
        "title": {"text": "Bits"},
        "domain": [0.76, 1],
        "tickvals": sorted({layer.bits for layer in layers} | {8, 32}),
        "range": [0, 36],
    }
    every = max(1, len(layers) // 14)
    figure["xaxis"] |= {
        "tickmode": "array",
        "tickvals": positions[::every],
        "ticktext": [str(position + 1) for position in positions[::every]],
        "showgrid": False,
    }
    figure |= {"barmode": "overlay"}
    return Chart(
        key="layers",
        title="Bits and channels per layer",
        text="What was decided for every layer. Pale bars are channels that were removed; "
        "the table has the names.",
        traces=traces,
        layout=figure,
        columns=("", "layer", "operator", "precision", "bits", "channels", "before", "weights, kB"),
        rows=[_layer_row(position, layer) for position, layer in enumerate(layers)],
    )


def seconds_by_name(kernels: Iterable[KernelTime]) -> dict[str, float]:
    """Seconds of all kernels that carry a name, added up."""
    seconds: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        seconds[kernel.name] += kernel.seconds
    return dict(seconds)


def _total(seconds: Mapping[str, float], names: Iterable[str]) -> float:
    return sum(seconds.get(name, 0.0) for name in names)


def _bars(name: str, kernels: list[str], seconds: Mapping[str, float]) -> Plain:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": [ms(seconds.get(kernel, 0.0)) for kernel in kernels],
        "y": list(range(len(kernels))),
        "customdata": [escape(kernel) for kernel in kernels],
        "marker": {"color": f"--{name}"},
        "hovertemplate": f"%{{customdata}}<br>{name} %{{x:.4r}} ms<extra></extra>",
    }


def _precision_bars(layers: Iterable[Layer], names: list[str], precision: str) -> Plain:
    chosen = [(i, layer) for i, layer in enumerate(layers) if layer.precision == precision]
    return {
        "type": "bar",
        "name": f"channels, {escape(precision)}",
        "x": [i for i, _ in chosen],
        "y": [layer.channels for _, layer in chosen],
        "customdata": [[names[i], layer.channels_before] for i, layer in chosen],
        "width": 0.8,
        "marker": {"color": f"--{precision}" if precision in PRECISIONS else "--total"},
        "hovertemplate": "%{customdata[0]}<br>"
        f"{escape(precision)}, %{{y}} of %{{customdata[1]}} channels<extra></extra>",
    }


def _kernel_row(when: str, kernel: KernelTime) -> tuple[str, ...]:
    return (
        when,
        kernel.name,
        kernel.op,
        kernel.precision,
        milliseconds(kernel.seconds),
        f"{milliseconds(kernel.low_s)}–{milliseconds(kernel.high_s)}",
        kernel.origin,
    )


def _layer_row(position: int, layer: Layer) -> tuple[str, ...]:
    return (
        str(position + 1),
        layer.layer,
        layer.op,
        layer.precision,
        str(layer.bits),
        str(layer.channels),
        str(layer.channels_before),
        digits(layer.weight_bytes / 1e3),
    )
