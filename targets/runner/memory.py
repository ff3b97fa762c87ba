"""The memory of this process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

from millifit.errors import MeasurementError


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes, e.g. ``VmHWM``, the most that ever was resident."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise MeasurementError(f"/proc/self/status has no '{field}': memory cannot be measured here.")


def forget_peak() -> None:
    """Let VmHWM start again from what is resident now; where the kernel refuses, it stays."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
