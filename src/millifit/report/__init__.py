"""The report of a run: one self-contained HTML page, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millifit.files import write_atomically
from millifit.report.export import export_csv, export_json
from millifit.report.page import render_page
from millifit.report.result import Result, parse_result, read_plain

__all__ = ["Result", "export_csv", "export_json", "parse_result", "read_plain", "write_report"]


def write_report(result: Mapping[str, Any], path: Path) -> Path:
    """Write the page for the content of a result.json.

    Raises RunFolderError when a key is missing or wrong, or `path` cannot be written.
    """
    return write_atomically(path, render_page(parse_result(result)))
