"""A result as files for programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millifit.files import write_atomically
from millifit.report.result import Result, parse_result

TRIAL_FIELDS = (
    "index",
    "predicted_s",
    "predicted_low_s",
    "predicted_high_s",
    "measured_s",
    "measured_low_s",
    "measured_high_s",
    "accuracy",
    "size_bytes",
    "layers",
    "kept_channels",
    "feasible",
    "note",
)


def export_csv(result: Mapping[str, Any], path: Path) -> Path:
    """Write one line per trial, in seconds, bytes and fractions; unknown values stay empty."""
    return write_atomically(path, trials_csv(parse_result(result)))


def export_json(result: Mapping[str, Any], path: Path) -> Path:
    """Write the result itself, indented."""
    parse_result(result)
    return write_atomically(path, json.dumps(result, indent=2) + "\n")


def trials_csv(result: Result) -> str:
    """The trials under TRIAL_FIELDS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TRIAL_FIELDS)
    for trial in result.trials:
        predicted, measured = trial.predicted_s, trial.latency_s
        seen = ("", "", "") if measured is None else (measured.median, measured.low, measured.high)
        writer.writerow(
            (
                trial.index,
                *(predicted.median, predicted.low, predicted.high),
                *seen,
                "" if trial.accuracy is None else trial.accuracy,
                trial.size_bytes,
                trial.layers,
                trial.kept_channels,
                trial.feasible,
                trial.note,
            )
        )
    return text.getvalue()
