"""What a graphics processor draws and how fast it runs, as nvidia-smi says."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_FIELDS = ("name", "power.draw", "temperature.gpu", "clocks.current.sm")
_COMMAND = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One graphics processor at one moment; None for what it does not tell."""

    name: str
    power_w: float | None
    temperature_c: float | None
    clock_hz: float | None


def gpu_states(command: Sequence[str] = _COMMAND) -> list[GpuState]:
    """The graphics processors of this machine; none where nvidia-smi is missing or fails."""
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_nvidia_smi(done.stdout)


def parse_nvidia_smi(text: str) -> list[GpuState]:
    """Lines of ``name, watts, degrees Celsius, megahertz``; lines of another form are left out.

    ``"NVIDIA T4, 26.41, 45, 585"`` draws 26.41 W at 585 MHz. What a processor does not tell is
    ``[N/A]`` or ``[Not Supported]``.
    """
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [_state(row) for row in rows if len(row) == len(_FIELDS)]


def _state(row: Sequence[str]) -> GpuState:
    power_w, temperature_c, clock_mhz = map(_number, row[1:])
    return GpuState(
        name=row[0].strip(),
        power_w=power_w,
        temperature_c=temperature_c,
        clock_hz=None if clock_mhz is None else clock_mhz * 1e6,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
