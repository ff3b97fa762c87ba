"""What a person sees in a terminal: progress bars, the table at the end, plain tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from millifit.progress import Advance
from millifit.report.chart import (
    bound,
    caveats,
    change,
    milliseconds,
    percent,
    reference_intervals,
    span,
)
from millifit.report.result import Interval, Result, Subject

LONGEST_NAME = 40


class Bars:
    """Shows stages as bars in a terminal, and as two lines each where output goes to a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._depth = 0

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """A bar of `total` steps; stages may stand inside each other."""
        started = time.perf_counter()
        bars = self._open()
        indent = "  " * (self._depth - 1)
        shown = escape(f"{indent}{title}")
        task = bars.add_task(shown, total=total)
        if not self._console.is_terminal:
            self._console.print(f"{shown} ...", soft_wrap=True)
        try:
            yield lambda steps: bars.advance(task, steps)
            seconds = time.perf_counter() - started
            self._console.print(f"{shown}: {seconds:.1f} s", soft_wrap=True, highlight=False)
        finally:
            bars.remove_task(task)
            self._close()

    def note(self, text: str) -> None:
        """A line that stays above the bars."""
        self._console.print(escape(text), soft_wrap=True, highlight=False)

    def _open(self) -> Progress:
        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                disable=not self._console.is_terminal,
            )
            self._bars.start()
        self._depth += 1
        return self._bars

    def _close(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None


def result_table(result: Result) -> RenderableType:
    """The end of a fit: who takes how long, what was predicted, and whether the budget is met."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("ms", "95 % interval", "ratio", "acc. %", "size", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    base = result.baseline.latency_s.median
    table.add_row("baseline fp32", *_subject(result.baseline, base))
    table.add_row("compressed", *_subject(result.compressed, base), style="bold")
    for name, value in reference_intervals(result):
        if value is not None:
            table.add_row(name, *_latency(value, base), "", "", "")
    heading = f"{fold(result.model)} on {result.target}, threads: {result.runtime_threads}"
    lines = [
        *(f"[bold yellow]{escape(line)}[/]" for line in caveats(result)),
        "Measured interleaved in one run; ratio is to the baseline.",
        _prediction(result),
        *_verdict(result),
    ]
    return Group(f"[bold]{escape(heading)}[/bold]", table, *map(str, lines))


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text; the last column folds where the terminal is narrow."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def fold(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that fits a line: 'features.0…project/Conv'."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[: longest - 1 - half]}…{name[-half:]}"


def _subject(subject: Subject, base: float) -> tuple[str, ...]:
    return (
        *_latency(subject.latency_s, base),
        percent(subject.accuracy),
        _size(subject.size_bytes),
        _size(subject.peak_memory_bytes),
    )


def _latency(value: Interval, base: float) -> tuple[str, str, str]:
    ratio = f"{value.median / base:.2f}" if base else "–"
    return milliseconds(value.median), span(value), ratio


def _size(size_bytes: int) -> str:
    """Bytes for a narrow column: '13.9 MB', '84.2 kB'."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def _prediction(result: Result) -> str:
    measured, predicted = result.compressed.latency_s, result.predicted_s
    error = 100 * (predicted.median / measured.median - 1) if measured.median else 0.0
    said = f"{milliseconds(predicted.median)} ms ({span(predicted)})"
    seen = milliseconds(measured.median)
    return f"Predicted {said}, measured {seen} ms: off by {change(error, 2)} %."


def _verdict(result: Result) -> list[str]:
    style, word = ("bold green", "met") if result.met else ("bold red", "NOT met")
    limit = result.budget.latency_s
    asked = "" if limit is None else f" of {milliseconds(limit)} ms ({escape(result.budget.text)})"
    proven = f"at most {bound(result)} with 95 % confidence"
    lines = [f"[{style}]Budget{asked} {word}[/]: {proven}."]
    lines += [escape(f"Not kept: {problem}.") for problem in result.problems]
    if result.accuracy_drop is not None:
        lines.append(f"Accuracy: {change(0.0 - 100 * result.accuracy_drop, 2)} points.")
    lines += [
        f"{name} is faster on this machine ({milliseconds(value.median)} ms)."
        for name, value in reference_intervals(result)
        if value is not None and value.median < result.compressed.latency_s.median
    ]
    return lines
