"""nvidia-smi: its lines become numbers, and what it does not tell stays unknown."""

import sys

import pytest

from millifit.targets.runner.gpu_state import GpuState, gpu_states, parse_nvidia_smi

TWO = """\
NVIDIA A100-SXM4-40GB, 52.61, 31, 210
Tesla T4, [N/A], 45, [Not Supported]
"""


def test_lines_become_states() -> None:
    """Watts and degrees as they are, megahertz in hertz; one that is not told is None."""
    assert parse_nvidia_smi(TWO) == [
        GpuState(name="NVIDIA A100-SXM4-40GB", power_w=52.61, temperature_c=31.0, clock_hz=210e6),
        GpuState(name="Tesla T4", power_w=None, temperature_c=45.0, clock_hz=None),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "No devices were found\n",
    ],
)
def test_other_text_is_no_state(text: str) -> None:
    """Without a driver or a device nvidia-smi writes sentences."""
    assert parse_nvidia_smi(text) == []


def test_the_program_is_asked_or_missing() -> None:
    """What it prints is read; where it fails or is not installed there is no state."""
    printing = (sys.executable, "-c", f"print({TWO!r})")
    assert len(gpu_states(printing)) == 2
    assert gpu_states((sys.executable, "-c", "raise SystemExit(9)")) == []
    assert gpu_states(("no-such-program-as-this",)) == []
